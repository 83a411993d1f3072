"""``python -m tests.chaos``."""

from __future__ import annotations

from tests.chaos.program import main

raise SystemExit(main())
