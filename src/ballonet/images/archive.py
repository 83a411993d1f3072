"""Detects the kind of an image archive or layout, and reads the names that it gives its images."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import IO, Any

from ballonet.base.errors import ConfigError, ImageError, os_hint
from ballonet.images.layers import BoundedTarInfo, check_tarfile
from ballonet.images.limits import MAX_DOCUMENT_BYTES
from ballonet.images.reference import (
    DOCKER_ARCHIVE,
    LAYOUT,
    OCI_ARCHIVE,
    REGISTRY,
    Reference,
    parse_reference,
)

#: Give up the search for a document after this many members of an archive.
_MAX_MEMBERS = 100_000
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def find_archive(source: str) -> Reference:
    """The layout or archive that ``source`` names: a path, with or without a transport in front.

    :raises ConfigError: there is no layout or archive at this path.
    """
    transport, colon, _ = source.partition(":")
    if colon and transport in (LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE):
        return parse_reference(source)
    path = Path(source).absolute()
    hint = (
        "use an OCI layout (a directory), or an archive made by 'docker save', 'podman save' or 'skopeo copy'"
    )
    if path.is_dir():
        if (path / "oci-layout").is_file():
            return Reference(LAYOUT, str(path))
        raise ConfigError(f"{path} is not an OCI layout", hint=hint)
    if not path.exists():
        raise ConfigError(f"{path} does not exist", hint=hint)
    # Newer versions of Docker write archives that are both kinds. Read these as Docker's, which has the names.
    if _document(path, "manifest.json") is not None:
        return Reference(DOCKER_ARCHIVE, str(path))
    if _document(path, "index.json") is not None:
        return Reference(OCI_ARCHIVE, str(path))
    raise ConfigError(f"{path} is not an image archive", hint=hint)


def names_in(reference: Reference) -> list[str]:
    """The names that a layout or archive gives to its image, if they are valid image names.

    With several images, the names of the one that the tag of ``reference`` selects.
    """
    assert reference.path is not None
    if reference.transport == DOCKER_ARCHIVE:
        found = _names_docker(_document(reference.path, "manifest.json"), reference.tag)
    elif reference.transport == OCI_ARCHIVE:
        found = _names_oci(_document(reference.path, "index.json"), reference.tag)
    else:
        try:
            found = _names_oci(json.loads((reference.path / "index.json").read_bytes()), reference.tag)
        except (OSError, ValueError):
            found = []
    return [name for name in found if _is_name(name)]


def _names_docker(document: Any, tag: str | None) -> list[str]:
    entries = document if isinstance(document, list) else []
    tags = [entry.get("RepoTags") or [] for entry in entries if isinstance(entry, dict)]
    if tag is not None:
        tags = [names for names in tags if tag in names]
    return [str(name) for name in tags[0]] if len(tags) == 1 and isinstance(tags[0], list) else []


def _names_oci(document: Any, tag: str | None) -> list[str]:
    entries = document.get("manifests") if isinstance(document, dict) else None
    notes = [entry.get("annotations") for entry in entries or [] if isinstance(entry, dict)]
    found = [note for note in notes if isinstance(note, dict)]
    if tag is not None:
        found = [note for note in found if note.get(_NAME_ANNOTATIONS[1]) == tag]
    if len(found) != 1:
        return []
    # A plain "latest" is a tag, not an image name.
    return [
        str(found[0][key])
        for key in _NAME_ANNOTATIONS
        if key in found[0] and set("/:") & set(str(found[0][key]))
    ][:1]


def _is_name(text: str) -> bool:
    try:
        return parse_reference(text).transport == REGISTRY
    except ConfigError:
        return False


def _document(path: Path, name: str) -> Any:
    """The JSON document ``name`` at the top level of an archive; ``None`` if there is none."""
    try:
        check_tarfile()
        with tarfile.open(path, tarinfo=BoundedTarInfo) as tar:
            for count, member in enumerate(tar):
                if (
                    member.name.removeprefix("./") == name
                    and member.isreg()
                    and member.size <= MAX_DOCUMENT_BYTES
                ):
                    file: IO[bytes] | None = tar.extractfile(member)
                    return None if file is None else json.load(file)
                if count > _MAX_MEMBERS:
                    break
    except (ImageError, tarfile.TarError, EOFError, ValueError) as error:
        # tarfile's message of several lines, which lists its attempts, is of no use to users.
        why = "it is not a tar archive" if "\n" in str(error) else error
        raise ImageError(f"{path} cannot be read as an image archive: {why}") from error
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror or error}", hint=os_hint(error, path)
        ) from error
    return None
