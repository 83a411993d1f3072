"""Amounts of processor time as people write them: ``1.5`` processors, or ``150%`` of one."""

from __future__ import annotations

import re

from ballonet.base.errors import SettingError, quoted

#: An amount of processor time in settings: processors as a number, or text.
Quota = int | float | str

_FORM = re.compile(r"\s*(?P<whole>\d{1,6})(?:\.(?P<part>\d{1,6}))?\s*(?P<percent>%?)\s*", re.ASCII)


def parse_quota(quota: object, what: str) -> int:
    """Percent of one processor, from a number of processors or from text such as ``1.5`` or ``150%``.

    :param what: the name of the setting, for the message.
    :raises ConfigError: it is not an amount of processor time, or not a whole percentage. Zero is accepted here.
    """
    if isinstance(quota, bool) or not isinstance(quota, int | float | str):
        raise SettingError(
            f"{{}} must be a number of processors, not {type(quota).__name__} ({quoted(quota)})", what
        )
    found = _FORM.fullmatch(str(quota)[:64])
    if found is not None:
        part, places = found["part"] or "", 0 if found["percent"] else 2
        if not part[places:].strip("0"):
            return int(found["whole"] + part[:places].ljust(places, "0"))
    raise SettingError(
        f"{{}} {quoted(quota)} is not an amount of processor time in whole percent",
        what,
        hint="write it as 1.5 (processors) or 150%; 0 is no limit",
    )
