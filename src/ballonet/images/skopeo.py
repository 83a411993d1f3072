"""Fetching images with ``skopeo``, the field's own tool: it knows the registries' protocol, logins and trust policy.

One image at a time, as an OCI layout whose blobs lie in a directory that all images share, so that no layer comes
twice. Watches that bytes keep coming. Never looks into what came.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ballonet.base.errors import ConfigError, HostError, ImageError, ImageFetchError, UnknownImageError
from ballonet.base.process import find_program, spawn
from ballonet.base.text import printable
from ballonet.images.limits import MAX_DOCUMENT_BYTES
from ballonet.images.reference import Reference, is_loopback

#: The guest's architecture and system, in the words of the OCI image specification.
ARCHITECTURE, SYSTEM = "amd64", "linux"
#: How often a copy is looked at (seconds).
_LOOK_S = 0.1
#: The name of the image in the layouts that we make.
_NAME = "image"
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
#: Skopeo repeats the name, which our own message has already.
_REPEATED = re.compile(r'^Error parsing image name "[^"]*": ')


@dataclass(frozen=True)
class Skopeo:
    """How registries are spoken with."""

    #: Whether a registry must prove who it is (TLS); ``None``: unless it lies on this machine.
    tls_verify: bool | None = None
    #: A registry that sends nothing for so long is given up (seconds).
    stall_s: float = 60.0

    def __post_init__(self) -> None:
        """:raises ConfigError: ``stall_s`` is not above zero."""
        if not self.stall_s > 0:
            raise ConfigError(
                f"the time until a registry is given up is {self.stall_s:g} s: it must be above zero"
            )

    def manifest(self, reference: Reference) -> bytes:
        """The manifest, or index, that ``reference`` means now, as it is.

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
                f"the manifest of {reference.familiar()} has more than {MAX_DOCUMENT_BYTES} bytes"
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
        """Fetch the image into an OCI layout in ``directory``, its blobs into ``blobs``; the layout.

        :param digest: the manifest that is meant, in a registry.
        :param progress: told now and then how many bytes have come.
        :raises ImageFetchError: it cannot be fetched; ``directory`` is of no use then.
        """
        layout = directory / "layout"
        before = _tree_bytes(blobs)

        def arrived() -> int:
            count = _tree_bytes(layout) + _tree_bytes(blobs) - before
            if progress is not None:
                progress(count)
            return count

        # Relative names: skopeo takes a colon in a path for the end of the path.
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
        verify = not is_loopback(reference.domain) if self.tls_verify is None else self.tls_verify
        return [f"--{option}={str(verify).lower()}"]

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
        with tempfile.TemporaryFile() as words:
            child = spawn(
                [program, *argv],
                cwd=cwd,
                stdout=subprocess.DEVNULL if stdout is None else stdout.fileno(),
                stderr=words.fileno(),
                die_with_parent=True,
            )
            try:
                self._watch(child, reference, arrived)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            if child.returncode != 0:
                words.seek(0)
                raise _explain(reference, words.read(64 * 1024).decode(errors="replace"), child.returncode)

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
                    f"{reference.domain} has sent nothing of {reference.familiar()} for {self.stall_s:g} s",
                    hint="try again later; --stall-timeout gives it more time",
                )


def _tree_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):  # renamed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


#: What a registry's or skopeo's words mean for a person, the first that is in them: the error, and what to do.
_MEANINGS: tuple[
    tuple[str, type[ImageFetchError] | type[UnknownImageError] | type[HostError], str | None], ...
] = (
    ("no space left on device", HostError, "make room on the file system of XDG_DATA_HOME"),
    ("manifest unknown", UnknownImageError, "is the name right, and the tag?"),
    ("name unknown", UnknownImageError, "is the name right?"),
    ("no such file or directory", UnknownImageError, None),
    ("not a directory", UnknownImageError, None),
    (
        "no descriptor found for reference",
        UnknownImageError,
        "is the name right? index.json has those there are",
    ),
    ("unauthorized", ImageFetchError, "log in: skopeo login REGISTRY"),
    (
        "requested access to the resource is denied",
        ImageFetchError,
        "is the name right? Or log in: skopeo login",
    ),
    ("server gave http response to https client", ImageFetchError, "--tls-verify=false allows plain HTTP"),
    ("certificate", ImageFetchError, "--tls-verify=false trusts it unseen"),
    ("policy.json", ImageFetchError, "skopeo needs a trust policy: see containers-policy.json(5)"),
    ("connection refused", ImageFetchError, "does the registry run?"),
    ("no such host", ImageFetchError, "is the registry's name right? Is there a network?"),
    ("digest did not match", ImageFetchError, "the registry's copy is damaged; its owner must push it again"),
    ("unexpected eof", ImageFetchError, "the connection broke; try again"),
    ("connection reset", ImageFetchError, "the connection broke; try again"),
)


def _explain(
    reference: Reference, words: str, status: int
) -> ImageFetchError | UnknownImageError | HostError:
    fatal = _FATAL.findall(words)
    said = (
        re.sub(r"\\(.)", r"\1", fatal[-1])
        if fatal
        else words.strip()[-1000:] or f"it ended with status {status}"
    )
    said = printable(_REPEATED.sub("", said))[:1000]
    low = said.lower()
    cls, hint = next(((cls, hint) for text, cls, hint in _MEANINGS if text in low), (ImageFetchError, None))
    verb = "cannot be fetched" if reference.domain else "cannot be read"
    return cls(f"image {reference.familiar()} {verb}: {said}", hint=hint)
