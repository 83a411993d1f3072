"""Random stacks of layers: does our root have what ``umoci unpack`` (as root) makes of them?

    python -m fuzz.compare_layers --rounds 300 [--seed N]

Whiteouts, opaque marks, links in all orders, files over directories and paths through links. A stack that both refuse
counts as agreement. ``umoci`` is a Debian package; it is not needed for anything else.
"""

from __future__ import annotations

import argparse
import os
import random
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.unit.erofs_reader import Reader
from tests.unit.oci import Layout, entry, layer, link

from ballonet.base.errors import BallonetError
from ballonet.images.store import ImageStore

#: Mode and content (or target) by path.
Files = dict[str, tuple[int, bytes]]
Entry = tuple[tarfile.TarInfo, bytes]


def random_entry(choose: random.Random, first: bool) -> Entry:
    folders = [choose.choice("ab") for _ in range(choose.randint(0, 2))]
    if choose.random() < 0.1:
        folders.insert(0, "s")  # a symbolic link, if there is one
    where = "".join(f"{name}/" for name in folders)
    kind = choose.random()
    if kind < 0.35:
        return entry(where + choose.choice("fg"), choose.randbytes(4), mode=choose.choice((0o644, 0o4755)))
    if kind < 0.55:
        return entry(where + choose.choice("ab") + "/", mode=choose.choice((0o700, 0o755)))
    if kind < 0.72 and not first:
        return entry(f"{where}.wh.{choose.choice('abfgsh')}", b"")
    if kind < 0.82 and not first:
        return entry(f"{where}.wh..wh..opq", b"")
    if kind < 0.9:
        return link("s", choose.choice(("a", "b", "/a", "../b")))
    if kind < 0.95:
        return entry(where + choose.choice("ab"), b"a file in the place of a directory")
    return link(f"{where}h", choose.choice(("f", "g", "a/f")), hard=True)


def ours(layout: Layout, work: Path) -> Files | None:
    try:
        image = ImageStore(work / "images").resolve(layout.reference())
    except BallonetError:
        return None
    files = Reader(image.root).files()
    return {
        path: (file.mode, b"" if stat.S_ISDIR(file.mode) else file.content) for path, file in files.items()
    }


def theirs(layout: Layout, work: Path) -> Files | None:
    argv = ["umoci", "unpack", "--image", layout.reference().removeprefix("oci:"), str(work / "bundle")]
    if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
        return None
    root = work / "bundle/rootfs"
    found: Files = {}
    for path in (root, *root.rglob("*")):
        mode = path.lstat().st_mode
        content = b""
        if stat.S_ISLNK(mode):
            content = os.fsencode(path.readlink())
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        found["/" if path == root else f"/{path.relative_to(root)}"] = (mode, content)
    return found


def main(rounds: int, seed: int) -> int:
    print(f"seed {seed}")
    choose = random.Random(seed)  # noqa: S311
    accepted = differing = 0
    for _ in range(rounds):
        stack = [
            layer(*(random_entry(choose, first=number == 0) for _ in range(choose.randint(1, 6))))
            for number in range(choose.randint(2, 4))
        ]
        with tempfile.TemporaryDirectory() as made:
            layout = Layout(Path(made) / "layout")
            layout.add(*stack)
            found, expected = ours(layout, Path(made)), theirs(layout, Path(made))
        accepted += found is not None and expected is not None
        if found != expected:
            differing += 1
            print("a difference:", sorted(set((found or {}).items()) ^ set((expected or {}).items()))[:6])
            for content in stack:
                with tempfile.TemporaryFile() as file:
                    file.write(content)
                    file.seek(0)
                    with tarfile.open(fileobj=file) as tar:
                        print("  layer:", [(member.name, member.type, member.linkname) for member in tar])
    print(f"{rounds} stacks, {accepted} of them accepted by both, {differing} differences")
    return 1 if differing else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))  # noqa: S311
    options = parser.parse_args()
    raise SystemExit(main(options.rounds, options.seed))
