"""ballonet: microVM sandboxes for Linux whose memory breathes."""

from ballonet.version import __version__

__all__ = ["__version__"]
