"""A sandbox's configuration: the public name of :mod:`ballonet.settings.config`."""

from ballonet.settings.config import *  # noqa: F403
