"""The schema of the registry: each entry of :data:`MIGRATIONS` migrates the file from the previous version.

The version is SQLite's ``user_version``. Entries are never changed or removed.
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
    # 2: settings for the autopilot
    """
    ALTER TABLE sandboxes ADD COLUMN weight INTEGER NOT NULL DEFAULT 100;
    ALTER TABLE sandboxes ADD COLUMN reserve_mib INTEGER NOT NULL DEFAULT 0;
    """,
    # 3: the image of a sandbox; ``image`` is the reference as requested
    """
    ALTER TABLE sandboxes ADD COLUMN image_id TEXT;
    """,
    # 4: the process of a run, by which any reader finds out whether it is running
    """
    ALTER TABLE sandboxes ADD COLUMN process TEXT;  -- JSON list: pid, start ticks, boot
    ALTER TABLE sandboxes ADD COLUMN run_dir TEXT;
    """,
    # 5: defaults of commands: a JSON object (env, cwd, user); NULL: the settings of the sandbox's own command
    """
    ALTER TABLE sandboxes ADD COLUMN defaults TEXT;
    """,
    # 6: labels: a JSON object
    """
    ALTER TABLE sandboxes ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
    """,
)

#: The version that this program reads and writes.
VERSION = len(MIGRATIONS)
