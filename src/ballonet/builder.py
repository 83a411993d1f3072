"""The fluent way to a configuration: the public name of :mod:`ballonet.sdk.builder`."""

from ballonet.sdk.builder import *  # noqa: F403
