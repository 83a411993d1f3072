"""The user's images: find, fetch, build, list and remove them. Several processes may use the store concurrently."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from ballonet.base.dataclass import dataclass, field
from ballonet.base.errors import ConfigError, ImageError, ImageFetchError, ImageInUseError, UnknownImageError
from ballonet.base.memory import MIB, bytes_to_mib
from ballonet.base.paths import data_dir
from ballonet.base.suggest import did_you_mean
from ballonet.images.catalog import Catalog
from ballonet.images.flatten import Plan, plan_layers, write_layers, write_root
from ballonet.images.image import Image, ImageConfig
from ballonet.images.layers import Layer, check_digest
from ballonet.images.limits import MAX_DOCUMENT_BYTES, Limits
from ballonet.images.manifest import (
    Configuration,
    Descriptor,
    Manifest,
    parse_configuration,
    parse_index,
    parse_manifest,
)
from ballonet.images.reference import REGISTRY, Reference, familiar, looks_like_id, parse_reference
from ballonet.images.skopeo import ARCHITECTURE, SYSTEM, Skopeo

Pull = Literal["missing", "always", "never"]
#: Called with a line about an operation that takes time.
Report = Callable[[str], None]
#: Called with the name of a step, the bytes done, and the total bytes.
Progress = Callable[[str, int, int], None]
#: What names of snapshots begin with among the users of an image. No sandbox's name has a space.
_SNAPSHOT = "snapshot "
#: Names of sandboxes and snapshots by the id of the image that they use.
Users = Mapping[str, Sequence[str]]
Lines = list[str]


@dataclass(frozen=True)
class ImageStore:
    """``ImageStore.open().resolve("debian:12")``."""

    directory: Path
    skopeo: Skopeo = field(default_factory=Skopeo)
    limits: Limits = field(default_factory=Limits)
    progress: Progress | None = None
    catalog: Catalog = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "catalog", Catalog(self.directory))

    @classmethod
    def open(
        cls, *, skopeo: Skopeo | None = None, limits: Limits | None = None, progress: Progress | None = None
    ) -> ImageStore:
        """The user's store, in the data directory."""
        return cls(data_dir() / "images", skopeo or Skopeo(), limits or Limits(), progress)

    # Finding and creating

    def resolve(self, reference: str, *, pull: Pull = "missing", report: Report | None = None) -> Image:
        """The image for ``reference`` (a name or id); fetched first if necessary.

        Processes that request the same image at the same time fetch it once.

        :param pull: ``missing`` fetches images that are not available locally, ``always`` checks the registry for a
            newer image, ``never`` uses local images only.
        :param report: called with a line about each operation that takes time.
        :raises ConfigError: ``reference`` is invalid, or there is no such image.
        :raises ImageError: the image is damaged, malicious, for another platform, too large, or cannot be fetched.
        :raises HostError: a required program is missing, or the disk is full.
        """
        if pull != "always":
            image = self._find_local(reference)
            if image is not None:
                return image
        wanted = parse_reference(reference)
        if pull == "never":
            raise UnknownImageError(
                f"there is no local image {wanted.familiar()}",
                hint=self._did_you_mean(wanted)
                or f"fetch it: ballonet image pull {reference}; list local images: ballonet image ls",
            )
        try:
            return self._fetch(wanted, report or _ignore)
        except (UnknownImageError, ImageFetchError) as error:
            # The name may be a mistyped name of a local image.
            error.hint = self._did_you_mean(wanted) or error.hint
            raise

    def _did_you_mean(self, wanted: Reference) -> str | None:
        """A hint with the local image that a mistyped name may refer to."""
        names = {familiar(name): name for image in self.catalog.list() for name in image.names}
        # Users leave out the default tag.
        names |= {name.removesuffix(":latest"): name for name in names}
        return did_you_mean(wanted.familiar().removesuffix(":latest"), names)

    def find(self, reference: str) -> Image:
        """The local image with this name or id.

        :raises UnknownImageError: there is none.
        """
        return self.resolve(reference, pull="never")

    def from_rootfs(self, directory: Path, report: Report | None = None) -> Image:
        """An image of the current content of ``directory``. An unchanged directory is not read again.

        :raises ConfigError: it is not a directory.
        :raises HostError: something in it cannot be read, or the disk is full.
        """
        from ballonet.images.rootfs import contents_of, scan

        tree, id, files = scan(directory)
        image = self.catalog.get(id)
        if image is not None:
            return image
        report = report or _ignore
        waiting = partial(report, f"waiting for another process that creates a root from {directory}")
        with self.catalog.work_directory() as work, self.catalog.locked(id, waiting):
            image = self.catalog.get(id)
            if image is not None:
                return image
            report(f"creating a root from {directory}")
            made = _make_directory(work / "root")
            root = write_root(Plan.of(tree, id), contents_of(files), made, self._step("root"))
            return self._install(made, root, id, ImageConfig())

    def build(self, config: bytes, layer: Path, diff_id: str) -> Image:
        """Create an image from a configuration and one layer, a tar file.

        :param config: in the format of the OCI image specification; its digest is the image's id.
        """
        configuration = parse_configuration(config, "the image")
        id = _digest(config)
        with self.catalog.work_directory() as work, self.catalog.locked(id, lambda: None):
            return self._make(id, configuration, [Layer(1, layer, diff_id, diff_id)], work, None, ())

    def _find_local(self, reference: str) -> Image | None:
        """The local image for a name or id, if there is one."""
        names = self.catalog.read_names()
        try:
            wanted = parse_reference(reference)
        except ConfigError:
            wanted = None
            if not looks_like_id(reference):
                raise
        if wanted is not None:
            id = names.names.get(str(wanted))
            source = names.sources.get(str(wanted))
            if source is not None and source.get("look") == _file_status(wanted):
                id = source.get("id")
            image = None if id is None else self.catalog.get(id)
            if image is not None:
                return image
        if looks_like_id(reference):
            return self._by_id(reference)
        return None

    def _by_id(self, start: str) -> Image | None:
        start = start.removeprefix("sha256:")
        found = [image for image in self.catalog.list() if image.id.removeprefix("sha256:").startswith(start)]
        if len(found) > 1:
            raise ConfigError(
                f"{len(found)} images have an id that starts with {start}", hint="use more digits of the id"
            )
        return found[0] if found else None

    def _fetch(self, reference: Reference, report: Report) -> Image:
        shown = reference.familiar()
        look = _file_status(reference)
        document = self.skopeo.manifest(reference)
        chosen = parse_index(document, ARCHITECTURE, SYSTEM, shown)
        digest = _digest(document) if chosen is None else chosen.digest
        waiting = partial(report, f"waiting for another process that fetches {shown}")
        with self.catalog.work_directory() as work, self.catalog.locked(digest, waiting):
            image = next((image for image in self.catalog.list() if image.manifest == digest), None)
            if image is None:
                report(f"fetching {shown}")
                image = self._fetch_manifest(reference, document if chosen is None else None, digest, work)
            with self.catalog.change_names() as names:
                if reference.transport == REGISTRY:
                    names.names[str(reference)] = image.id
                else:
                    names.sources[str(reference)] = {"look": look, "id": image.id}
        return self.find(image.id)

    def _fetch_manifest(self, reference: Reference, document: bytes | None, digest: str, work: Path) -> Image:
        shown, total = reference.familiar(), 0
        if document is not None:
            wanted = parse_manifest(document, shown).layers
            total = sum(blob.size for blob in wanted if not self._blob(blob).exists())
        step = self._step("fetch")
        layout = self.skopeo.copy(
            reference, digest, work, self.catalog.blobs, lambda count: step(min(count, total or count), total)
        )
        # The layout is now local; every blob is checked before it is used.
        written = _layout_manifest(layout, shown)
        manifest = parse_manifest(self._read(written, f"the manifest of {shown}"), shown)
        config = parse_configuration(self._read(manifest.config, f"the configuration of {shown}"), shown)
        if (config.system, config.architecture) != (SYSTEM, ARCHITECTURE):
            raise ImageError(
                f"image {shown} is for {config.system}/{config.architecture}; "
                f"sandboxes are {SYSTEM}/{ARCHITECTURE}"
            )
        if len(config.diff_ids) != len(manifest.layers):
            raise ImageError(
                f"the manifest of {shown} has {len(manifest.layers)} layers, but its configuration "
                f"has {len(config.diff_ids)}"
            )
        layers = self._layers(manifest, config)
        for layer in layers:
            self._check_blob(layer.path, layer.digest, str(layer))
        blobs = tuple(blob.digest for blob in (written, manifest.config, *manifest.layers))
        return self._make(manifest.config.digest, config, layers, work, digest, blobs)

    def _layers(self, manifest: Manifest, config: Configuration) -> list[Layer]:
        return [
            Layer(number, self._blob(blob), blob.digest, diff_id)
            for number, (blob, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True), 1)
        ]

    def _make(
        self,
        id: str,
        config: Configuration,
        layers: Sequence[Layer],
        work: Path,
        manifest: str | None,
        blobs: tuple[str, ...],
    ) -> Image:
        there = self.catalog.get(id)
        if there is not None:
            return there
        plan = plan_layers(layers, id, self.limits, self._step("read"), volumes=config.config.volumes)
        made = _make_directory(work / "root")
        root = write_layers(plan, layers, made, self._step("root"))
        return self._install(made, root, id, config.config, manifest, blobs)

    def _install(
        self,
        made: Path,
        root: Path,
        id: str,
        config: ImageConfig,
        manifest: str | None = None,
        blobs: tuple[str, ...] = (),
    ) -> Image:
        image = Image(id, root, config, (), root.stat().st_size, time.time(), ARCHITECTURE, manifest)
        return self.catalog.install(made, image, blobs)

    def _blob(self, blob: Descriptor) -> Path:
        return self.catalog.blobs / "sha256" / blob.hex

    def _read(self, blob: Descriptor, what: str) -> bytes:
        """The content of a small blob, after a check of its digest."""
        path = self._blob(blob)
        self._check_blob(path, blob.digest, what)
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ImageError(f"{what} is larger than {MAX_DOCUMENT_BYTES} bytes")
        return path.read_bytes()

    def _check_blob(self, path: Path, digest: str, what: str) -> None:
        try:
            check_digest(path, digest, what)
        except ImageError as error:
            path.unlink(missing_ok=True)  # the next pull fetches it again
            raise ImageError(error.message, hint="pull it again; the damaged file was removed") from error

    def _step(self, name: str) -> Callable[[int, int], None]:
        progress = self.progress
        return (
            (lambda done, total: None)
            if progress is None
            else (lambda done, total: progress(name, done, total))
        )

    # Managing

    def list(self) -> list[Image]:
        """All local images, oldest first."""
        return self.catalog.list()

    def tag(self, reference: str, name: str) -> Image:
        """Add ``name`` as a name of the image; if another image has it, it is moved.

        :raises ConfigError: there is no such image, or ``name`` is not a valid image name.
        """
        image = self.find(reference)
        wanted = parse_reference(name)
        if wanted.transport != REGISTRY or wanted.digest is not None:
            raise ConfigError(
                f"{name!r} is not a valid image name",
                hint="use NAME or NAME:TAG, for example debian-python:1",
            )
        with self.catalog.change_names() as names:
            names.names[str(wanted)] = image.id
        return self.find(image.id)

    def remove(self, reference: str, *, users: Users) -> Lines:
        """Remove a name. Removing the last name, or removing by id, removes the image. Returns a line per removal.

        :param users: the sandboxes, and as "snapshot NAME" the snapshots, that use images; an image in use is not
            removed.
        :raises ImageInUseError: some use it; the message names them.
        :raises UnknownImageError: there is no such image.
        """
        image = self.find(reference)
        name = str(parse_reference(reference))
        if name in image.names and len(image.names) > 1:
            with self.catalog.change_names() as names:
                names.names.pop(name, None)
            return [f"name {familiar(name)}"]
        using = users.get(image.id, ())
        if using:
            raise ImageInUseError(
                f"image {reference} is used by {', '.join(using)}",
                hint=f"remove them first: {_removals(using)}",
            )
        self.catalog.delete(image)
        return [*(f"name {familiar(name)}" for name in image.names), f"image {image.id}"]

    def prune(self, *, users: Users, every: bool = False) -> Lines:
        """Remove unused images without a name, layers that no image needs, and what killed processes left behind.
        Returns a line per removal.

        :param every: also remove images with a name, if no sandbox uses them.
        """
        done = []
        for image in self.catalog.list():
            if not users.get(image.id) and (every or not image.names):
                self.catalog.delete(image)
                done += [f"image {familiar(name)}" for name in image.names] or [f"image {image.id}"]
        freed = self.catalog.sweep()
        if freed:
            done.append(f"{bytes_to_mib(freed + MIB - 1)} MiB of layers and unfinished work")
        return done


def _removals(using: Sequence[str]) -> str:
    """The commands that remove sandboxes and snapshots."""
    snapshots = [name.removeprefix(_SNAPSHOT) for name in using if name.startswith(_SNAPSHOT)]
    sandboxes = [name for name in using if not name.startswith(_SNAPSHOT)]
    commands = (("ballonet rm", sandboxes), ("ballonet snapshot rm", snapshots))
    return "; ".join(f"{command} {' '.join(names)}" for command, names in commands if names)


def _layout_manifest(layout: Path, what: str) -> Descriptor:
    """The image of a layout that skopeo wrote."""
    import json

    try:
        (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
        return Descriptor(str(entry["digest"]), int(entry["size"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"skopeo did not write image {what}: {error}") from error


def _file_status(reference: Reference) -> list[int] | None:
    """The status of the file that determines the content of a layout or archive; ``None`` for a registry."""
    if reference.path is None:
        return None
    try:
        status = (reference.path / "index.json" if reference.path.is_dir() else reference.path).stat()
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _make_directory(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory


def _digest(document: bytes) -> str:
    return "sha256:" + hashlib.sha256(document).hexdigest()


def _ignore(line: str) -> None:
    pass
