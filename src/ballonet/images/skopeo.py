"""Fetches images with ``skopeo``, which implements the registry protocol, logins and trust policies.

An image is fetched as an OCI layout, with blobs in a directory shared by all images so that each layer is fetched once.
A transfer without progress is aborted. This module does not read what was fetched.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, HostError, ImageError, ImageFetchError, UnknownImageError
from ballonet.base.process import find_program, spawn
from ballonet.base.text import printable
from ballonet.images.limits import MAX_DOCUMENT_BYTES
from ballonet.images.reference import Reference, is_loopback

#: The guest's architecture and system, as named by the OCI image specification.
ARCHITECTURE, SYSTEM = "amd64", "linux"
#: How often the progress of a copy is checked (seconds).
_LOOK_S = 0.1
#: The image's name in the layouts that skopeo writes.
_NAME = "image"
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
#: skopeo repeats the name, which the error message already has.
_REPEATED = re.compile(r'^Error parsing image name "[^"]*": ')


@dataclass(frozen=True)
class Skopeo:
    """How to access registries."""

    #: Whether TLS certificates of registries are verified; ``None``: as skopeo is configured (they are, unless
    #: registries.conf(5) says otherwise), but not those of registries on this host.
    tls_verify: bool | None = None
    #: Abort when a registry sends nothing for this long (seconds).
    stall_s: float = 60.0

    def __post_init__(self) -> None:
        """:raises ConfigError: ``stall_s`` is not positive."""
        if not self.stall_s > 0:
            raise ConfigError(
                f"the stall timeout of registries is {self.stall_s:g} s; it must be greater than zero"
            )

    def manifest(self, reference: Reference) -> bytes:
        """The manifest or index that ``reference`` refers to now, unparsed.

        :raises UnknownImageError: there is no such image.
        :raises ImageFetchError: it cannot be fetched.
        """
        with tempfile.TemporaryFile() as output:
            argv = ["inspect", "--raw", *self._tls("tls-verify", reference), reference.source()]
            self._run(argv, reference, stdout=output)
            output.seek(0)
            document = output.read(MAX_DOCUMENT_BYTES + 1)
        if len(document) > MAX_DOCUMENT_BYTES:
            raise ImageError(
                f"the manifest of {reference.familiar()} is larger than {MAX_DOCUMENT_BYTES} bytes"
            )
        return document

    def copy(
        self,
        reference: Reference,
        digest: str,
        directory: Path,
        blobs: Path,
        progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Fetch the image into an OCI layout in ``directory`` and its blobs into ``blobs``; returns the layout.

        :param digest: the manifest to fetch from a registry.
        :param progress: called repeatedly with the number of bytes received.
        :raises ImageFetchError: it cannot be fetched; ``directory`` must not be used then.
        """
        layout = directory / "layout"
        before = _tree_bytes(blobs)

        def arrived() -> int:
            count = _tree_bytes(layout) + _tree_bytes(blobs) - before
            if progress is not None:
                progress(count)
            return count

        # A relative name, since skopeo treats a colon in a path as its end.
        argv = ["--override-os", SYSTEM, "--override-arch", ARCHITECTURE, "copy", "--quiet"]
        argv += ["--dest-oci-accept-uncompressed-layers", "--dest-shared-blob-dir", str(blobs)]
        argv += [
            *self._tls("src-tls-verify", reference),
            reference.source(digest),
            f"oci:{layout.name}:{_NAME}",
        ]
        self._run(argv, reference, cwd=directory, arrived=arrived)
        arrived()
        return layout

    def _tls(self, option: str, reference: Reference) -> list[str]:
        if reference.domain is None:
            return []
        if self.tls_verify is not None:
            return [f"--{option}={str(self.tls_verify).lower()}"]
        # Otherwise as skopeo is configured: with the option, it would verify a mirror that is declared insecure.
        return [f"--{option}=false"] if is_loopback(reference.domain) else []

    def _run(
        self,
        argv: Sequence[str],
        reference: Reference,
        *,
        cwd: Path | None = None,
        stdout: IO[bytes] | None = None,
        arrived: Callable[[], int] = lambda: 0,
    ) -> None:
        program = find_program("skopeo", hint="apt-get install skopeo")
        with tempfile.TemporaryFile() as messages:
            child = spawn(
                [program, *argv],
                cwd=cwd,
                stdout=subprocess.DEVNULL if stdout is None else stdout.fileno(),
                stderr=messages.fileno(),
                die_with_parent=True,
            )
            try:
                self._watch(child, reference, arrived)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            if child.returncode != 0:
                messages.seek(0)
                raise _explain(reference, messages.read(64 * 1024).decode(errors="replace"), child.returncode)

    def _watch(
        self, child: subprocess.Popen[bytes], reference: Reference, arrived: Callable[[], int]
    ) -> None:
        seen, since = -1, time.monotonic()
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
                return
            count = arrived()
            if count != seen:
                seen, since = count, time.monotonic()
            elif reference.domain is not None and time.monotonic() - since > self.stall_s:
                raise ImageFetchError(
                    f"{reference.domain} has sent no data for {reference.familiar()} for {self.stall_s:g} s",
                    hint="try again later, or raise --stall-timeout",
                )


def _tree_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):  # renamed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


#: Errors and hints by messages of registries and skopeo; the first match counts. ``{domain}`` is the registry.
_MEANINGS: tuple[
    tuple[str, type[ImageFetchError] | type[UnknownImageError] | type[HostError], str | None], ...
] = (
    ("no space left on device", HostError, "free up space on the file system of XDG_DATA_HOME"),
    ("manifest unknown", UnknownImageError, "check the name and the tag"),
    ("name unknown", UnknownImageError, "check the name"),
    ("no such file or directory", UnknownImageError, None),
    ("not a directory", UnknownImageError, None),
    (
        "no descriptor found for reference",
        UnknownImageError,
        "check the name: index.json lists the available ones",
    ),
    ("unauthorized", ImageFetchError, "log in: skopeo login {domain}"),
    (
        "requested access to the resource is denied",
        ImageFetchError,
        "check the name, or log in: skopeo login {domain}",
    ),
    (
        "server gave http response to https client",
        ImageFetchError,
        "allow plain HTTP with --tls-verify=false",
    ),
    (
        "certificate",
        ImageFetchError,
        "put its authority's certificate into /etc/containers/certs.d/{domain}/ca.crt, or do not verify it: "
        "--tls-verify=false",
    ),
    ("policy.json", ImageFetchError, "skopeo needs a trust policy: see containers-policy.json(5)"),
    ("connection refused", ImageFetchError, "check that the registry is running"),
    ("no such host", ImageFetchError, "check the registry's name and the network connection"),
    ("digest did not match", ImageFetchError, "the registry's copy is damaged; it must be pushed again"),
    ("unexpected eof", ImageFetchError, "the connection was lost; try again"),
    ("connection reset", ImageFetchError, "the connection was lost; try again"),
)


def _explain(
    reference: Reference, messages: str, status: int
) -> ImageFetchError | UnknownImageError | HostError:
    fatal = _FATAL.findall(messages)
    message = (
        re.sub(r"\\(.)", r"\1", fatal[-1])
        if fatal
        else messages.strip()[-1000:] or f"skopeo failed with exit status {status}"
    )
    message = printable(_REPEATED.sub("", message))[:1000]
    low = message.lower()
    cls, hint = next(((cls, hint) for text, cls, hint in _MEANINGS if text in low), (ImageFetchError, None))
    if hint is not None:
        hint = hint.replace("{domain}", reference.domain or "REGISTRY")
    verb = "cannot be fetched" if reference.domain else "cannot be read"
    return cls(f"image {reference.familiar()} {verb}: {message}", hint=hint)
