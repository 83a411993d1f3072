"""Pulling an image of some 100 MB and making its root, each step, against the plain tools on the same image.

The image has files of this host's ``/usr`` in two layers, and lies in a real registry on loopback. The plain arms are
``skopeo copy`` for the pull and, for the root, what one would type: unpack the layers with ``tar``, pack the tree with
``mkfs.erofs``. Last, the first command in a sandbox of that image, against one with the built-in root.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from tests.registry.server import Registry
from tests.unit.oci import Layout

from ballonet.base.memory import MIB
from ballonet.base.process import find_program
from ballonet.images.store import ImageStore
from bench.result import state

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
    """Real files, in a fixed order, as many as fit."""
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
    raise SystemExit(f"{SOURCE} has not enough files for the image")


def measure(rounds: int, work: Path, reference: str, layers: list[Path], note: str) -> None:
    pull: dict[str, list[float]] = {"skopeo copy": [], "ballonet: fetch": []}
    root: dict[str, list[float]] = {
        "tar -x": [],
        "tar -x, mkfs.erofs": [],
        "ballonet: read the layers": [],
        "ballonet: write the root": [],
        "ballonet: root": [],
    }
    whole: dict[str, list[float]] = {
        "skopeo copy, tar -x, mkfs.erofs": [],
        "ballonet image pull": [],
        "the same, when it is here": [],
    }
    start: dict[str, list[float]] = {"built-in root": [], "the image": []}
    sizes: dict[str, int] = {}
    for number in range(rounds):
        place = work / f"round{number}"
        place.mkdir()
        copied = timed(
            run, "skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"dir:{place}/dir"
        )
        tree, erofs = place / "tree", place / "root.erofs"
        tree.mkdir()
        unpacked = sum(timed(run, "tar", "-xf", str(layer), "-C", str(tree)) for layer in layers)
        made_erofs = timed(
            run, str(find_program("mkfs.erofs", hint="apt-get install erofs-utils")), str(erofs), str(tree)
        )
        sizes["mkfs.erofs"] = erofs.stat().st_size
        marks: dict[str, float] = {}
        store = ImageStore(place / "ballonet/images", progress=partial(note_time, marks))
        started = time.perf_counter()
        image = store.resolve(reference)
        ended = time.perf_counter()
        again = timed(store.resolve, reference)
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
        whole["the same, when it is here"].append(again)
        env = {**os.environ, "XDG_DATA_HOME": str(place), "XDG_STATE_HOME": str(place / "state")}
        start["built-in root"].append(timed(ballonet, env))
        start["the image"].append(timed(ballonet, env, "--image", reference))
        shutil.rmtree(place)
    state("image-pull", pull, unit="s", base="skopeo copy", note=note)
    shown = ", ".join(f"{name} {size // MIB} MiB" for name, size in sizes.items())
    state("image-root", root, unit="s", base="tar -x, mkfs.erofs", note=f"sizes: {shown}")
    state("image-start", start, unit="s", base="built-in root", note="to the end of the first command")
    state("image", whole, unit="s", base="skopeo copy, tar -x, mkfs.erofs", note=note)


def note_time(marks: dict[str, float], step: str, done: int, total: int) -> None:
    """When each step was first heard of."""
    marks.setdefault(step, time.perf_counter())


def ballonet(env: Mapping[str, str], *words: str) -> None:
    argv = [sys.executable, "-P", "-m", "ballonet", "run", *words, "--", "true"]
    subprocess.run(argv, check=True, env=env, stdin=subprocess.DEVNULL)


def timed(work: Callable[..., object], *given: object) -> float:
    started = time.perf_counter()
    work(*given)
    return time.perf_counter() - started


def run(*argv: str) -> None:
    subprocess.run(
        argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
