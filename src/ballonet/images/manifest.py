"""Parses manifests, indexes and configurations of images; these are untrusted input. Pure.

The formats are those of the OCI image specification 1.0 and of Docker's image manifest version 2, schema 2, which are
identical in the fields that are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ImageError
from ballonet.base.text import printable
from ballonet.images.image import ImageConfig

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Descriptor:
    """A reference to a blob."""

    digest: str
    size: int

    @property
    def hex(self) -> str:
        """The name of the blob's file in a blob directory."""
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True)
class Manifest:
    """One image: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Configuration:
    """An image's configuration file."""

    architecture: str
    system: str
    diff_ids: tuple[str, ...]
    config: ImageConfig


def parse_index(document: bytes, architecture: str, system: str, what: str) -> Descriptor | None:
    """The manifest for this platform in an index ("manifest list"); ``None`` if the document is not an index.

    :param what: the image's name for error messages.
    :raises ImageError: the document is invalid, or the index has no manifest for this platform.
    """
    found = _parse(document, f"the manifest of {what}")
    if found.get("schemaVersion") == 1:
        raise ImageError(f"the manifest of {what} has Docker's schema version 1, which is not supported")
    if "manifests" not in found:
        return None
    entries = [entry for entry in _list(found, "manifests", what) if isinstance(entry, dict)]
    platforms = []
    for entry in entries:
        platform = entry.get("platform")
        if not isinstance(platform, dict):
            continue
        here = (str(platform.get("os")), str(platform.get("architecture")))
        if here == (system, architecture):
            return _descriptor(entry, what)
        platforms.append("/".join(here))
    shown = printable(", ".join(sorted(set(platforms) - {"unknown/unknown"})))[:300]
    raise ImageError(f"image {what} is for {shown or 'no platform'}; sandboxes are {system}/{architecture}")


def parse_manifest(document: bytes, what: str) -> Manifest:
    """:raises ImageError: the document is not the manifest of an image."""
    found = _parse(document, f"the manifest of {what}")
    config = found.get("config")
    if not isinstance(config, dict):
        raise ImageError(f"the manifest of {what} has no configuration")
    return Manifest(
        _descriptor(config, what), tuple(_descriptor(layer, what) for layer in _list(found, "layers", what))
    )


def parse_configuration(document: bytes, what: str) -> Configuration:
    """:raises ImageError: the document is not the configuration of an image."""
    found = _parse(document, f"the configuration of {what}")
    rootfs = found.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(
        isinstance(item, str) and _DIGEST.fullmatch(item) for item in diff_ids
    ):
        raise ImageError(f"the configuration of {what} lists no layers; it may not be a container image")
    kind = rootfs.get("type") if isinstance(rootfs, dict) else None
    if kind not in (None, "layers"):
        raise ImageError(
            f"rootfs.type of {what} is {printable(str(kind))[:64]!r}; only 'layers' is supported"
        )
    return Configuration(
        architecture=printable(str(found.get("architecture")))[:64],
        system=printable(str(found.get("os")))[:64],
        diff_ids=tuple(diff_ids),
        config=ImageConfig.from_json(found.get("config")),
    )


def _parse(document: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not valid JSON: {error}"[:300]) from error
    if not isinstance(found, dict):
        raise ImageError(f"{what} is not a JSON object")
    return found


def _list(document: Mapping[str, Any], name: str, what: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise ImageError(f"the manifest of {what} has no list of {name}")
    return value


def _descriptor(value: Any, what: str) -> Descriptor:
    digest, size = (value.get("digest"), value.get("size")) if isinstance(value, dict) else (None, None)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ImageError(f"the manifest of {what} has a digest that is not sha256: {str(digest)[:100]!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"the manifest of {what} has no size for {digest}")
    return Descriptor(digest, size)
