"""``ballonet image``: lists, pulls, loads, builds, tags and removes images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ballonet.base.memory import mib_to_bytes, parse_size
from ballonet.cli.name_arguments import for_each
from ballonet.cli.output import print_json, print_table, show_age, show_size
from ballonet.cli.progress import shown_progress

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.images.store import ImageStore

#: How many digits of an image ID are shown, as in Docker.
_ID_DIGITS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    listing = action("ls", "list images")
    listing.add_argument("-q", "--quiet", action="store_true", help="print only image IDs")
    pull = action("pull", "download images from a registry")
    pull.add_argument("references", metavar="REFERENCE", nargs="+", help="NAME[:TAG] or NAME@sha256:…")
    add_fetch_options(pull)
    load = action("load", "load an image from an OCI layout, an OCI archive or a Docker archive")
    load.add_argument(
        "source",
        metavar="PATH",
        help="a file or directory, or with a transport: oci:DIR:NAME, docker-archive:FILE:NAME, …",
    )
    load.add_argument("--tag", metavar="NAME", help="name of the image (default: the names in the archive)")
    add_limit_options(load)
    remove = action("rm", "remove image names; an image is deleted with its last name")
    remove.add_argument("references", metavar="IMAGE", nargs="+", help="name or ID of an image")
    prune = action(
        "prune", "remove unnamed images that no sandbox or snapshot uses, and leftovers of interrupted pulls"
    )
    prune.add_argument(
        "-a", "--all", action="store_true", help="also remove named images that no sandbox or snapshot uses"
    )
    tag = action("tag", "add a name to an image")
    tag.add_argument("reference", metavar="IMAGE", help="name or ID of an image")
    tag.add_argument("name", metavar="NAME", help="the new name: NAME or NAME:TAG")
    inspect = action("inspect", "show detailed information about images, as JSON")
    inspect.add_argument("references", metavar="IMAGE", nargs="+", help="name or ID of an image")
    build = action(
        "build-debian", "build a Debian image with mmdebstrap, from the package sources of this host"
    )
    build.add_argument("--tag", metavar="NAME", required=True, help="name of the image")
    build.add_argument("--suite", default="bookworm", help="Debian release (default: bookworm)")
    build.add_argument(
        "--include",
        metavar="PACKAGES",
        action="append",
        default=[],
        help="comma-separated packages to install, such as python3,git (may be repeated)",
    )
    build.add_argument(
        "--with",
        dest="features",
        metavar="FEATURE",
        action="append",
        default=[],
        help="install the packages for a purpose; 'code': Python, IPython and matplotlib, for code sessions",
    )
    build.add_argument(
        "--variant",
        default="minbase",
        help="base package set: essential, apt, minbase or standard (default: minbase)",
    )
    for sub in (listing, pull, load, prune, tag, inspect, build):
        sub.add_argument("--json", action="store_true", help="print JSON")


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit the size of an image."""
    limits = parser.add_argument_group("limits", "Maximum sizes, as a protection against malicious images.")
    limits.add_argument("--max-unpacked", metavar="SIZE", help="unpacked size of all layers (default: 32G)")
    limits.add_argument(
        "--max-entries", metavar="N", type=int, help="number of files in all layers (default: 2000000)"
    )
    limits.add_argument("--max-layers", metavar="N", type=int, help="number of layers (default: 256)")
    limits.add_argument(
        "--max-ratio", metavar="N", type=int, help="ratio of unpacked to packed bytes (default: 200)"
    )


def add_fetch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for registries, and those that limit the size of an image."""
    parser.add_argument(
        "--tls-verify",
        metavar="BOOL",
        choices=("true", "false"),
        help="verify the registry's certificate (default: true, except for registries on this host)",
    )
    parser.add_argument(
        "--stall-timeout",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="fail if the registry sends nothing for this long (default: 60)",
    )
    add_limit_options(parser)


@contextmanager
def open_store(options: argparse.Namespace) -> Iterator[tuple[ImageStore, Callable[[str], None]]]:
    """The image store with the settings of :func:`add_fetch_options` and progress bars, and a function that reports a
    step."""
    from ballonet.images.limits import Limits
    from ballonet.images.skopeo import Skopeo
    from ballonet.images.store import ImageStore

    tls_verify = getattr(options, "tls_verify", None)
    skopeo = Skopeo(
        None if tls_verify is None else tls_verify == "true", getattr(options, "stall_timeout", 60.0)
    )
    unpacked = getattr(options, "max_unpacked", None)
    given = {
        "unpacked_bytes": None if unpacked is None else mib_to_bytes(parse_size(unpacked, "--max-unpacked")),
        "entries": getattr(options, "max_entries", None),
        "layers": getattr(options, "max_layers", None),
        "ratio": getattr(options, "max_ratio", None),
    }
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    with shown_progress() as (report, bars):
        yield ImageStore.open(skopeo=skopeo, limits=limits, progress=bars), report


def run(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action](options)


def _ls(options: argparse.Namespace) -> int:
    from ballonet.images.reference import familiar
    from ballonet.images.store import ImageStore

    images = ImageStore.open().list()
    if options.quiet:
        print(*(image.id for image in images), sep="\n", end="\n" if images else "")
        return 0
    from ballonet.lifecycle.descriptions import describe_image, image_users

    users = image_users()
    if options.json:
        return print_json([describe_image(image, users) for image in images])
    rows = [
        (
            None if name is None else familiar(name),
            _short(image.id),
            show_size(image.size_bytes),
            show_age(image.created_at),
            ", ".join(users.get(image.id, ())) or None,
        )
        for image in images
        for name in image.names or (None,)
    ]
    print_table(("NAME", "ID", "SIZE", "AGE", "USED BY"), rows)
    return 0


def _pull(options: argparse.Namespace) -> int:
    def pull(reference: str) -> None:
        with open_store(options) as (store, report):
            image = store.resolve(reference, pull="always", report=report)
        _print_image(image, options)  # after the progress bars, which end without a newline

    return for_each(options.references, pull)


def _load(options: argparse.Namespace) -> int:
    from ballonet.images.archive import find_archive, names_in
    from ballonet.images.reference import parse_reference

    if options.tag is not None:
        parse_reference(options.tag)
    source = find_archive(options.source)
    names = names_in(source) if options.tag is None else [options.tag]
    with open_store(options) as (store, report):
        image = store.resolve(str(source), pull="always", report=report)
        for name in names:
            image = store.tag(image.id, name)
    return _print_image(image, options)


def _rm(options: argparse.Namespace) -> int:
    from ballonet.images.store import ImageStore
    from ballonet.lifecycle.descriptions import image_users

    store, users = ImageStore.open(), image_users()

    def remove(reference: str) -> None:
        for line in store.remove(reference, users=users):
            print(f"removed {line}")

    return for_each(options.references, remove)


def _prune(options: argparse.Namespace) -> int:
    from ballonet.images.store import ImageStore
    from ballonet.lifecycle.descriptions import image_users

    removed = ImageStore.open().prune(users=image_users(), every=options.all)
    if options.json:
        return print_json(removed)
    for line in removed:
        print(f"removed {line}")
    if not removed:
        print("nothing to remove")
    return 0


def _tag(options: argparse.Namespace) -> int:
    from ballonet.images.store import ImageStore

    return _print_image(ImageStore.open().tag(options.reference, options.name), options)


def _inspect(options: argparse.Namespace) -> int:
    from ballonet.images.store import ImageStore
    from ballonet.lifecycle.descriptions import describe_image, image_users

    store, users = ImageStore.open(), image_users()
    return print_json([describe_image(store.find(reference), users) for reference in options.references])


def _build_debian(options: argparse.Namespace) -> int:
    from ballonet.images.debian_root import build_debian

    include = [package for words in options.include for package in words.split(",") if package]
    with open_store(options) as (store, report):
        image = build_debian(
            store,
            options.tag,
            suite=options.suite,
            include=include,
            features=options.features,
            variant=options.variant,
            report=report,
        )
    return _print_image(image, options)


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": _ls,
    "pull": _pull,
    "load": _load,
    "rm": _rm,
    "prune": _prune,
    "tag": _tag,
    "inspect": _inspect,
    "build-debian": _build_debian,
}


def _print_image(image: Image, options: argparse.Namespace) -> int:
    if options.json:
        from ballonet.lifecycle.descriptions import describe_image, image_users

        return print_json(describe_image(image, image_users()))
    print(image.id)
    return 0


def _short(id: str) -> str:
    return id.removeprefix("sha256:")[:_ID_DIGITS]
