"""Writes all generated modules of the package."""

from __future__ import annotations

import os
from pathlib import Path

from build_tools.python_source import Source, file_of
from build_tools.sync_client import render_client
from build_tools.sync_sdk import render_sdk

#: The generated modules, and what renders each.
MODULES = {"ballonet.sdk.sync": render_sdk, "ballonet.control.sync_client": render_client}


def targets(src: Path) -> dict[Path, str]:
    """The generated files below ``src``, with their content."""
    Source.of.cache_clear()
    return {file_of(src, module): render(src) for module, render in MODULES.items()}


def write(src: Path) -> list[Path]:
    """Write the generated files that have changed, and return the paths of all."""
    files = targets(src)
    for path, text in files.items():
        if not path.is_file() or path.read_text() != text:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text)
            temporary.replace(path)
    return list(files)
