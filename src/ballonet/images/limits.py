"""Limits for images. An image that exceeds one is rejected before any of it is written."""

from __future__ import annotations

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError
from ballonet.base.memory import GIB, MIB

#: Size of a manifest or configuration (bytes): the limit of registries.
MAX_DOCUMENT_BYTES = 4 * MIB
#: Size of one header of a tar member, with extended attributes and long names (bytes).
MAX_HEADER_BYTES = 1 * MIB
#: Length of a path in a layer, and of a name in it (bytes): Linux's PATH_MAX and NAME_MAX.
MAX_PATH_BYTES, MAX_NAME_BYTES = 4096, 255
#: Depth of nested directories. Real images have about twenty.
MAX_DEPTH = 256
#: Symbolic links followed for one path (path_resolution(7)).
MAX_LINK_HOPS = 40
#: Size of all extended attributes of one file (bytes): Linux's XATTR_LIST_MAX.
MAX_XATTR_BYTES = 64 * 1024
#: Unpacked bytes up to which any compression ratio is accepted: images may contain a file of zeros.
RATIO_FROM_BYTES = 256 * MIB


@dataclass(frozen=True)
class Limits:
    """The configurable limits (``ballonet image pull --max-…``)."""

    #: Unpacked bytes, all layers together.
    unpacked_bytes: int = 32 * GIB
    #: Files, directories and links, all layers together.
    entries: int = 2_000_000
    #: Number of layers. Docker's limit is 127.
    layers: int = 256
    #: Unpacked bytes per byte of a compressed layer. Typical for programs and text are 3 to 10.
    ratio: int = 200

    def __post_init__(self) -> None:
        """:raises ConfigError: a limit is not positive."""
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"the limit of {name.replace('_', ' ')} is {value}; it must be at least 1")
