"""A name for a sandbox that was given none."""

from __future__ import annotations

import os


def random_name(prefix: str = "box") -> str:
    """A name that is almost certainly not in use."""
    return f"{prefix}-{os.urandom(4).hex()}"  # the module secrets would slow every import
