"""A real root for guests: Debian with Python, built once and kept in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from ballonet.paths import cache_dir, exclusive

PACKAGES = "python3,python3-pip"


def debian_root() -> Path:
    """The file of its file system (erofs); some 25 s when it is made."""
    key = hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]
    root = cache_dir() / f"test-root-{key}.erofs"
    with exclusive(root.with_suffix(".lock")):
        if not root.exists():
            with tempfile.TemporaryDirectory() as scratch:
                tree, half = Path(scratch, "tree"), root.with_suffix(".half")
                words = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree)]
                subprocess.run(words, check=True, capture_output=True)
                subprocess.run(["mkfs.erofs", "--quiet", half, tree], check=True, capture_output=True)
                half.rename(root)
    return root
