"""The SDK for asyncio: the public name of :mod:`ballonet.sdk.sandbox`."""

from ballonet.sdk.sandbox import *  # noqa: F403
