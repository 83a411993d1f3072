"""Creates images for tests, valid and invalid: tar layers with any kind of entry, and OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def entry(name: str, content: bytes | None = None, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a layer: a file if it has content, else what ``type`` says (a directory). The rest as in TarInfo."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    info.mode = 0o755 if content is None else 0o644
    info.mtime = 1_700_000_000
    info.size = len(content or b"")
    xattrs = more.pop("xattrs", {})
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in xattrs.items()}
    for field, value in more.items():
        setattr(info, field, value)
    return info, content or b""


def link(name: str, target: str, *, hard: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=target, mode=0o777)


def device(name: str, major: int, minor: int, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return entry(
        name, **{"type": tarfile.CHRTYPE, "devmajor": major, "devminor": minor, "mode": 0o666, **more}
    )


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A layer as a tar stream."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Layout:
    """An OCI layout in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []
        self._write_index()

    def add(
        self,
        *layers: bytes,
        name: str = "test",
        packed: bool = True,
        config: Mapping[str, Any] | None = None,
        architecture: str = "amd64",
        diff_ids: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Add an image of these tar streams; the descriptor of its manifest."""
        blobs = [gzip.compress(content, 1, mtime=0) if packed else content for content in layers]
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or map(digest, layers))},
        }
        kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if packed else "")
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(content, kind) for content in blobs],
        }
        return self.name(self.blob(json.dumps(manifest).encode(), MANIFEST), name)

    def add_index(self, platforms: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
        """Add an index that leads to manifests by architecture."""
        manifests = [
            {**descriptor, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, descriptor in platforms.items()
        ]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        return self.name(self.blob(json.dumps(document).encode(), INDEX), name)

    def name(self, descriptor: dict[str, Any], name: str) -> dict[str, Any]:
        self.manifests.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
        self._write_index()
        return descriptor

    def blob(self, content: bytes, kind: str) -> dict[str, Any]:
        self.path(digest(content)).write_bytes(content)
        return {"mediaType": kind, "digest": digest(content), "size": len(content)}

    def path(self, digest: str) -> Path:
        return self.directory / "blobs/sha256" / digest.removeprefix("sha256:")

    def layers_of(self, descriptor: Mapping[str, Any]) -> list[Path]:
        """The files of an image's layers."""
        manifest = json.loads(self.path(descriptor["digest"]).read_bytes())
        return [self.path(layer["digest"]) for layer in manifest["layers"]]

    def reference(self, name: str = "test") -> str:
        return f"oci:{self.directory}:{name}"

    def _write_index(self) -> None:
        document = {"schemaVersion": 2, "manifests": self.manifests}
        (self.directory / "index.json").write_text(json.dumps(document))
