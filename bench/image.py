"""Pulling an image of about 100 MB and creating its root, step by step, compared with plain tools on the same image.

The image has files of this host's ``/usr`` in two layers, and is in a real registry on loopback. The plain arms are
``skopeo copy`` for the pull and, for the root, unpacking the layers with ``tar`` and packing the tree with
``mkfs.erofs``. Finally, the first command in a sandbox with this image is compared with one with the built-in root.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from tests.registry.server import Registry
from tests.unit.oci import Layout

from ballonet.base.memory import MIB
from ballonet.base.process import find_program
from ballonet.images.store import ImageStore
from bench.common import Arms, options_parser, report, run_ballonet, seconds

SOURCE = Path("/usr/lib")
LAYER_BYTES, LARGEST_BYTES = 50 * MIB, 8 * MIB


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        layout = Layout(work / "layout")
        descriptor = layout.add(*two_layers(), name="image")
        packed = sum(path.stat().st_size for path in layout.layers_of(descriptor))
        registry_dir = work / "registry"
        registry_dir.mkdir()
        registry = Registry(registry_dir)
        try:
            reference = registry.push(layout, "image")
            note = f"{2 * LAYER_BYTES // MIB} MiB in two layers, {packed // MIB} MiB packed"
            measure(rounds, work, reference, layout.layers_of(descriptor), note)
        finally:
            registry.stop()


def two_layers() -> list[bytes]:
    """Two layers of real files, in a fixed order, as many as fit."""
    found = (path for path in sorted(SOURCE.rglob("*")) if path.is_file() and not path.is_symlink())
    small = (path for path in found if path.stat().st_size <= LARGEST_BYTES)
    return [one_layer(small, {"bin/true": Path("/bin/busybox")}), one_layer(small)]


def one_layer(paths: Iterator[Path], more: Mapping[str, Path] = MappingProxyType({})) -> bytes:
    buffer, size = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in more.items():
            tar.add(path, name)
        for path in paths:
            tar.add(path, str(path).lstrip("/"), recursive=False)
            size += path.stat().st_size
            if size >= LAYER_BYTES:
                return buffer.getvalue()
    raise SystemExit(f"{SOURCE} does not have enough files for the image")


def measure(rounds: int, work: Path, reference: str, layers: list[Path], note: str) -> None:
    pull: Arms = {"skopeo copy": [], "ballonet: fetch": []}
    root: Arms = {
        "tar -x": [],
        "tar -x, mkfs.erofs": [],
        "ballonet: read the layers": [],
        "ballonet: write the root": [],
        "ballonet: root": [],
    }
    whole: Arms = {
        "skopeo copy, tar -x, mkfs.erofs": [],
        "ballonet image pull": [],
        "the same, available locally": [],
    }
    start: Arms = {"built-in root": [], "the image": []}
    sizes: dict[str, int] = {}
    for number in range(rounds):
        place = work / f"round{number}"
        place.mkdir()
        copied = seconds(
            run, "skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"dir:{place}/dir"
        )
        tree, erofs = place / "tree", place / "root.erofs"
        tree.mkdir()
        unpacked = sum(seconds(run, "tar", "-xf", str(layer), "-C", str(tree)) for layer in layers)
        made_erofs = seconds(
            run, str(find_program("mkfs.erofs", hint="apt-get install erofs-utils")), str(erofs), str(tree)
        )
        sizes["mkfs.erofs"] = erofs.stat().st_size
        marks: dict[str, float] = {}
        store = ImageStore(place / "ballonet/images", progress=partial(note_time, marks))
        started = time.perf_counter()
        image = store.resolve(reference)
        ended = time.perf_counter()
        again = seconds(store.resolve, reference)
        sizes["ballonet"] = image.size_bytes
        pull["skopeo copy"].append(copied)
        pull["ballonet: fetch"].append(marks["read"] - started)
        root["tar -x"].append(unpacked)
        root["tar -x, mkfs.erofs"].append(unpacked + made_erofs)
        root["ballonet: read the layers"].append(marks["root"] - marks["read"])
        root["ballonet: write the root"].append(ended - marks["root"])
        root["ballonet: root"].append(ended - marks["read"])
        whole["skopeo copy, tar -x, mkfs.erofs"].append(copied + unpacked + made_erofs)
        whole["ballonet image pull"].append(ended - started)
        whole["the same, available locally"].append(again)
        env = {**os.environ, "XDG_DATA_HOME": str(place), "XDG_STATE_HOME": str(place / "state")}
        start["built-in root"].append(seconds(run_true, env))
        start["the image"].append(seconds(run_true, env, "--image", reference))
        shutil.rmtree(place)
    report("image-pull", pull, unit="s", base="skopeo copy", note=note)
    shown = ", ".join(f"{name} {size // MIB} MiB" for name, size in sizes.items())
    report("image-root", root, unit="s", base="tar -x, mkfs.erofs", note=f"sizes: {shown}")
    report("image-start", start, unit="s", base="built-in root", note="to the end of the first command")
    report("image", whole, unit="s", base="skopeo copy, tar -x, mkfs.erofs", note=note)


def note_time(marks: dict[str, float], step: str, done: int, total: int) -> None:
    """Record when each step started."""
    marks.setdefault(step, time.perf_counter())


def run_true(env: Mapping[str, str], *options: str) -> None:
    run_ballonet("run", *options, "--", "true", env=env)


def run(*argv: str) -> None:
    subprocess.run(
        argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main(options_parser(__doc__, rounds=5).parse_args().rounds)
