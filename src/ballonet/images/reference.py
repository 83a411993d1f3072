"""Parses image references, as given to ``--image``. Pure.

Names of images in registries follow Docker's grammar and normalisation: ``debian`` is
``docker.io/library/debian:latest``. Images in files are prefixed with their transport, as in ``skopeo``.
"""

from __future__ import annotations

import re
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError

DEFAULT_DOMAIN, DEFAULT_FOLDER, DEFAULT_TAG = "docker.io", "library", "latest"
REGISTRY, LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE = "docker", "oci", "oci-archive", "docker-archive"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DOMAIN = re.compile(rf"{_HOST_PART}(?:\.{_HOST_PART})*(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")
_MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class Reference:
    """The source of an image."""

    #: ``docker`` (a registry), ``oci`` (a layout), ``oci-archive`` or ``docker-archive``.
    transport: str
    #: In a registry ``DOMAIN/NAME``, otherwise an absolute path.
    place: str
    #: A tag; in a layout or archive the name of one of its images.
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        """The full reference, as the store records it."""
        if self.transport == REGISTRY:
            return f"{self.place}@{self.digest}" if self.digest else f"{self.place}:{self.tag}"
        return self.source()

    def source(self, digest: str | None = None) -> str:
        """The image as an argument for ``skopeo``.

        :param digest: the manifest to use, even if the tag moves meanwhile.
        """
        if self.transport == REGISTRY:
            pin = self.digest or digest
            # skopeo accepts a tag or a digest, not both; the digest is sufficient.
            return f"docker://{self.place}@{pin}" if pin else f"docker://{self.place}:{self.tag}"
        return f"{self.transport}:{self.place}" + (f":{self.tag}" if self.tag else "")

    @property
    def domain(self) -> str | None:
        """The registry's domain; ``None`` for files."""
        return self.place.partition("/")[0] if self.transport == REGISTRY else None

    @property
    def path(self) -> Path | None:
        """The file or directory; ``None`` for a registry."""
        return None if self.transport == REGISTRY else Path(self.place)

    def familiar(self) -> str:
        """The short form that users write."""
        return familiar(str(self))


def parse_reference(text: str) -> Reference:
    """Parse the value of ``--image``.

    :raises ConfigError: it is not a valid reference; the hint shows the syntax.
    """
    shown = repr(text if len(text) <= 300 else text[:300] + "…")
    transport, colon, rest = text.partition(":")
    if colon and transport in (LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE):
        place, _, tag = rest.partition(":")
        if not place or "\0" in text:
            raise ConfigError(
                f"image {shown} has no path", hint=f"use {transport}:PATH or {transport}:PATH:NAME"
            )
        return Reference(transport, str(Path(place).absolute()), tag or None)
    if text.startswith(("/", "./", "../")):
        raise ConfigError(
            f"image {shown} is a path",
            hint="use oci:DIR, oci-archive:FILE, docker-archive:FILE, or --rootfs DIR",
        )
    return _registry_reference(text.removeprefix("docker://"), shown)


def looks_like_id(text: str) -> bool:
    """Whether ``text`` may be an image id or its first 12 or more digits."""
    return _ID.fullmatch(text) is not None


def familiar(name: str) -> str:
    """A full reference without default parts: ``docker.io/library/debian:12`` is ``debian:12``."""
    return name.removeprefix(f"{DEFAULT_DOMAIN}/").removeprefix(f"{DEFAULT_FOLDER}/")


def is_loopback(domain: str) -> bool:
    """Whether a registry is on this host, where its traffic does not leave the host."""
    host = domain.rpartition(":")[0] if ":" in domain else domain
    return host == "localhost" or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host) is not None


def _registry_reference(text: str, shown: str) -> Reference:
    hint = "for example debian:12, registry.example.org/team/app@sha256:…, oci:DIR or docker-archive:FILE"
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ConfigError(
            f"image {shown}: {digest[:80]!r} is not a digest", hint="use sha256: and 64 hexadecimal digits"
        )
    folder, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ConfigError(f"image {shown}: {tag[:80]!r} is not a valid tag", hint=hint)
    name = f"{folder}{slash}{last}"
    domain, slash, path = name.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost"):
        domain, path = DEFAULT_DOMAIN, name
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"{DEFAULT_FOLDER}/{path}"
    place = f"{domain}/{path}"
    if not _NAME.fullmatch(path) or not _DOMAIN.fullmatch(domain) or len(place) > _MAX_NAME_BYTES:
        raise ConfigError(f"image {shown} is not a valid reference", hint=hint)
    return Reference(REGISTRY, place, tag or (None if at else DEFAULT_TAG), digest or None)
