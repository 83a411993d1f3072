"""The SDK without asyncio: the public name of :mod:`ballonet.sdk.sync`."""

from ballonet.sdk.sync import *  # noqa: F403
