"""How much an image may be. An image above a limit is refused before anything of it is written."""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.base.errors import ConfigError
from ballonet.base.memory import GIB, MIB

#: A manifest or a configuration (bytes): what registries accept.
MAX_DOCUMENT_BYTES = 4 * MIB
#: One header of a tar member with its extended attributes and long names (bytes).
MAX_HEADER_BYTES = 1 * MIB
#: A path in a layer (bytes), Linux's PATH_MAX, and one name in it (NAME_MAX).
MAX_PATH_BYTES, MAX_NAME_BYTES = 4096, 255
#: Directories in each other. Real images have some twenty.
MAX_DEPTH = 256
#: Symbolic links followed for one path (path_resolution(7)).
MAX_LINK_HOPS = 40
#: Extended attributes of one file together (bytes): Linux's XATTR_LIST_MAX.
MAX_XATTR_BYTES = 64 * 1024
#: Unpacked bytes up to which any compression ratio is fine: a file of zeros may well be in an image.
RATIO_FROM_BYTES = 256 * MIB


@dataclass(frozen=True)
class Limits:
    """The limits that can be raised (``ballonet image pull --max-…``)."""

    #: Unpacked bytes of all layers together.
    unpacked_bytes: int = 32 * GIB
    #: Files, directories and links of all layers together.
    entries: int = 2_000_000
    #: Layers. Docker's own limit is 127.
    layers: int = 256
    #: Unpacked bytes for each byte of a compressed layer. Programs and text compress 3 to 10 times.
    ratio: int = 200

    def __post_init__(self) -> None:
        """:raises ConfigError: a limit is not above zero."""
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"the limit of {name.replace('_', ' ')} is {value}: it must be above zero")
