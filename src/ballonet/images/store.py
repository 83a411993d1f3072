"""The images that are here, in the user's data directory: found, fetched, made, listed, removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ballonet.images.image import Image
from ballonet.paths import data_dir

Pull = Literal["missing", "always", "never"]
Report = Callable[[str], None]


class ImageStore:
    """``ImageStore.open().resolve("debian:12")``. May be used by several programs at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def open(cls) -> ImageStore:
        return cls(data_dir() / "images")

    def resolve(self, reference: str, *, pull: Pull = "missing", report: Report | None = None) -> Image:
        """The image that ``reference`` names, fetched and made first if need be."""
        raise NotImplementedError

    def from_rootfs(self, directory: Path, report: Report | None = None) -> Image:
        """The image whose root is what ``directory`` holds now."""
        raise NotImplementedError

    def list(self) -> list[Image]:
        raise NotImplementedError

    def find(self, reference_or_id: str) -> Image:
        raise NotImplementedError

    def remove(self, reference_or_id: str, *, users: Mapping[str, Sequence[str]]) -> list[str]:
        """:param users: names of sandboxes by the id of the image they use."""
        raise NotImplementedError

    def prune(self, *, users: Mapping[str, Sequence[str]]) -> list[str]:
        raise NotImplementedError

    def tag(self, reference_or_id: str, name: str) -> Image:
        raise NotImplementedError
