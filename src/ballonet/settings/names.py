"""The names of settings for messages: of a configuration's fields, the SDK's parameters and the options.

Errors name fields (:class:`~ballonet.errors.SettingError`); whoever is nearer to the person puts the names that the
person knows.
"""

from __future__ import annotations

from ballonet.settings.definitions import SETTINGS
from ballonet.settings.values import ITEM_NAMES

#: By the configuration's field, or by the name of a setting that is not a field.
PARAMETERS = {setting.field: setting.name for setting in SETTINGS.values()}
OPTIONS = {setting.field: setting.option for setting in SETTINGS.values()}
#: Also by the name of a list's item, and of the argument of ``balloon set``.
OPTIONS |= {
    ITEM_NAMES[setting.item]: setting.option for setting in SETTINGS.values() if setting.item in ITEM_NAMES
}
OPTIONS["target"] = "SIZE"
