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
    # 7: events, which triggers write in the transaction that changes a sandbox's row. Events of memory and others have
    # a limit each, which is enforced at every 256th event.
    """
    ALTER TABLE sandboxes ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sandboxes ADD COLUMN events_seen TEXT;  -- the last one of machine/event_file.py that was copied
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        event TEXT NOT NULL,
        sandbox TEXT NOT NULL,
        image TEXT,
        labels TEXT NOT NULL,
        run_id TEXT,
        reason TEXT,
        detail TEXT,
        exit_code INTEGER,
        old_mib INTEGER,
        new_mib INTEGER
    ) STRICT;
    CREATE TABLE events_dropped (up_to INTEGER NOT NULL) STRICT;
    INSERT INTO events_dropped VALUES (0);
    CREATE TRIGGER sandbox_created AFTER INSERT ON sandboxes BEGIN
        INSERT INTO events (at, event, sandbox, image, labels)
        VALUES (NEW.created_at, 'created', NEW.name, NEW.image, NEW.labels);
    END;
    CREATE TRIGGER sandbox_removed AFTER DELETE ON sandboxes BEGIN
        INSERT INTO events (at, event, sandbox, image, labels)
        VALUES ((julianday('now') - 2440587.5) * 86400.0, 'removed', OLD.name, OLD.image, OLD.labels);
    END;
    -- A sandbox that is made from a snapshot is paused without an end of a run, which is no event.
    CREATE TRIGGER sandbox_state AFTER UPDATE OF state ON sandboxes
    WHEN NEW.state <> OLD.state AND NEW.state <> 'starting'
        AND NOT (NEW.state = 'paused' AND NEW.end_reason IS NULL)
    BEGIN
        INSERT INTO events (at, event, sandbox, image, labels, run_id, reason, detail, exit_code)
        VALUES (
            coalesce(
                CASE WHEN NEW.state = 'running' THEN NEW.started_at WHEN OLD.state <> 'paused' THEN NEW.ended_at END,
                (julianday('now') - 2440587.5) * 86400.0
            ),
            CASE
                WHEN NEW.state = 'running' THEN iif(NEW.resumed, 'resumed', 'started')
                WHEN NEW.state <> 'paused' THEN NEW.state
                WHEN NEW.end_reason = 'paused' AND (NEW.end_detail IS NULL OR OLD.state = 'running') THEN 'paused'
                ELSE 'failed'
            END,
            NEW.name, NEW.image, NEW.labels, NEW.run_id,
            iif(NEW.state = 'running', NULL, NEW.end_reason),
            iif(NEW.state = 'running', NULL, NEW.end_detail),
            iif(NEW.state = 'running', NULL, NEW.exit_code)
        );
    END;
    CREATE TRIGGER events_bounded AFTER INSERT ON events WHEN NEW.id % 256 = 0 BEGIN
        UPDATE events_dropped SET up_to = max(
            up_to,
            coalesce((SELECT id FROM events WHERE event IN ('resized', 'relief')
                ORDER BY id DESC LIMIT 1 OFFSET 5000), 0),
            coalesce((SELECT id FROM events WHERE event NOT IN ('resized', 'relief')
                ORDER BY id DESC LIMIT 1 OFFSET 10000), 0)
        );
        DELETE FROM events WHERE event IN ('resized', 'relief') AND id <= (
            SELECT id FROM events WHERE event IN ('resized', 'relief') ORDER BY id DESC LIMIT 1 OFFSET 5000
        );
        DELETE FROM events WHERE event NOT IN ('resized', 'relief') AND id <= (
            SELECT id FROM events WHERE event NOT IN ('resized', 'relief') ORDER BY id DESC LIMIT 1 OFFSET 10000
        );
    END;
    """,
    # 8: an event for a new name
    """
    CREATE TRIGGER sandbox_renamed AFTER UPDATE OF name ON sandboxes WHEN NEW.name <> OLD.name BEGIN
        INSERT INTO events (at, event, sandbox, image, labels, detail)
        VALUES ((julianday('now') - 2440587.5) * 86400.0, 'renamed', NEW.name, NEW.image, NEW.labels, OLD.name);
    END;
    """,
)

#: The version that this program reads and writes.
VERSION = len(MIGRATIONS)
