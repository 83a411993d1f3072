"""The registry's tables: each entry of :data:`MIGRATIONS` takes the file from the version before to its own.

The version is SQLite's ``user_version``. Entries are only ever added.
"""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    # 1: sandboxes
    """
    CREATE TABLE sandboxes (
        name TEXT PRIMARY KEY,
        created_at REAL NOT NULL,
        flags TEXT NOT NULL,          -- JSON list of words
        image TEXT,
        command TEXT,                 -- JSON object
        auto_remove INTEGER NOT NULL,
        state TEXT NOT NULL,
        run_id TEXT,
        starter TEXT,                 -- JSON list: pid, start ticks, boot
        started_at REAL,
        ended_at REAL,
        end_reason TEXT,
        end_detail TEXT,
        exit_code INTEGER
    ) STRICT;
    """,
    # 2: what the autopilot is to know of each
    """
    ALTER TABLE sandboxes ADD COLUMN weight INTEGER NOT NULL DEFAULT 100;
    ALTER TABLE sandboxes ADD COLUMN reserve_mib INTEGER NOT NULL DEFAULT 0;
    """,
    # 3: which image a sandbox's root is; ``image`` is the reference as it was asked for
    """
    ALTER TABLE sandboxes ADD COLUMN image_id TEXT;
    """,
    # 4: what proves that a run lives, whatever the environment of the one who looks
    """
    ALTER TABLE sandboxes ADD COLUMN process TEXT;  -- JSON list: pid, start ticks, boot
    ALTER TABLE sandboxes ADD COLUMN run_dir TEXT;
    """,
    # 5: what commands in the sandbox inherit: a JSON object (env, cwd, user); NULL: what its own command runs with
    """
    ALTER TABLE sandboxes ADD COLUMN defaults TEXT;
    """,
)

#: What this program reads and writes.
VERSION = len(MIGRATIONS)
