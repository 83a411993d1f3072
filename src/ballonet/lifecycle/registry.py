"""The registry: opens and migrates the SQLite file, and reads and writes its rows. Knows nothing of processes.

Several programs may use a registry at the same time: with SQLite's write-ahead log, readers do not wait for a writer,
and a writer waits for another one up to :data:`BUSY_S`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ballonet.base.errors import NameInUseError, RegistryError, UnknownSandboxError
from ballonet.base.paths import state_dir
from ballonet.base.suggest import hint_for
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.record import (
    Record,
    State,
)
from ballonet.lifecycle.row_codec import COLUMNS, decode, decode_in_part, encode, with_flags_checked
from ballonet.lifecycle.schema import MIGRATIONS, VERSION

FILE_NAME = "registry.db"
#: Reserves the disk space that SQLite needs to read and write the registry. It is deleted when the disk is full, so
#: that sandboxes can still be listed and removed.
BALLAST_NAME, BALLAST_BYTES = "ballast", 256 << 10
#: How long to wait for another program's write (seconds).
BUSY_S = 30.0


class Registry:
    """``with Registry.open() as registry: …``. Use it in one thread only."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, directory: Path | None = None) -> Self:
        """Open the registry in ``directory``, by default the user's state directory; create or migrate it if needed.

        :raises RegistryError: it has a newer version, is damaged, or cannot be written.
        """
        path = (state_dir() if directory is None else directory) / FILE_NAME
        with _explained(path):
            _make_private(path)
            _reserve_space(path.parent)
            connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            try:
                _migrate(path, connection)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(self, record: Record) -> None:
        """:raises NameInUseError: a sandbox with that name exists."""
        marks = ", ".join("?" * len(COLUMNS))
        statement = f"INSERT INTO sandboxes ({', '.join(COLUMNS)}) VALUES ({marks})"  # noqa: S608  (constant names)
        try:
            with _explained(self.path):
                self._connection.execute(statement, [encode(getattr(record, name)) for name in COLUMNS])
        except sqlite3.IntegrityError:
            raise NameInUseError(
                f"there is a sandbox named {record.name!r} already",
                hint=f"choose another name, or remove it: ballonet rm --force {record.name}",
            ) from None

    def find(self, name: str) -> Record | None:
        """The sandbox with that name, or ``None``."""
        with _explained(self.path):
            row = self._connection.execute(f"{_SELECT} WHERE name = ?", [name]).fetchone()
        return None if row is None else decode(row)

    def get(self, name: str) -> Record:
        """:raises UnknownSandboxError: there is no sandbox with that name."""
        record = self.find(name)
        if record is None:
            known = [other.name for other in self.list()]
            raise UnknownSandboxError(
                f"there is no sandbox named {name!r}"[:200],
                hint=hint_for(name, known, "'ballonet ls' lists all sandboxes"),
            )
        return record

    def list(self) -> list[Record]:
        """All, the oldest first. A row that cannot be read is among them: see :attr:`Record.unreadable`."""
        with _explained(self.path):
            rows = self._connection.execute(f"{_SELECT} ORDER BY created_at, name").fetchall()
        return [with_flags_checked(decode_in_part(row)) for row in rows]

    def update(
        self, name: str, /, *, if_run: str | None = None, if_state: str | None = None, **changes: Any
    ) -> bool:
        """Change columns of one row; returns whether there was such a row.

        :param if_run: only if the row has this run: late news of an earlier run is ignored.
        :param if_state: only if the row has this state.
        """
        settings = ", ".join(f"{column} = ?" for column in changes)
        statement = f"UPDATE sandboxes SET {settings} WHERE name = ?"  # noqa: S608  (names of keyword arguments)
        values = [*map(encode, changes.values()), name]
        if if_run is not None:
            statement, values = f"{statement} AND run_id = ?", [*values, if_run]
        if if_state is not None:
            statement, values = f"{statement} AND state = ?", [*values, str(if_state)]
        with _explained(self.path):
            return self._connection.execute(statement, values).rowcount == 1

    def begin_run(
        self,
        name: str,
        run_id: str,
        starter: ProcessId,
        *,
        run_dir: Path | None = None,
        resume: bool = False,
    ) -> bool:
        """Set the state to starting, unless the sandbox runs; returns whether this call did it.

        :param resume: a saved guest is continued.
        """
        lives = [state.value for state in State if state.lives]
        with _explained(self.path):
            done = self._connection.execute(
                "UPDATE sandboxes SET state = ?, run_id = ?, starter = ?, run_dir = ?, process = NULL,"
                " resumed = (? AND state = 'paused' AND end_reason IS NOT NULL),"  # not that of a new fork
                " started_at = NULL, ended_at = NULL, end_reason = NULL, end_detail = NULL, exit_code = NULL"
                " WHERE name = ? AND state NOT IN (?, ?)",
                [State.STARTING.value, run_id, encode(starter), encode(run_dir), resume, name, *lives],
            )
        return done.rowcount == 1

    def remove(
        self,
        record: Record,
        and_then: Callable[[], None] | None = None,
        *,
        ended: Mapping[str, Any] | None = None,
    ) -> bool:
        """Delete the row if it still has the same sandbox and run; returns whether it had.

        :param and_then: called before another program can take the name; if it raises, the row is kept.
        :param ended: columns that tell how its run has ended, for the events.
        """
        with self.transaction():
            if ended:
                self.update(record.name, if_run=record.run_id, **ended)
            done = self._connection.execute(
                "DELETE FROM sandboxes WHERE name = ? AND created_at = ? AND run_id IS ?",
                [record.name, record.created_at, record.run_id],
            )
            if done.rowcount == 1 and and_then is not None:
                and_then()
            return done.rowcount == 1

    def remove_unread(self, name: str) -> None:
        """Delete a row without reading it."""
        with _explained(self.path):
            self._connection.execute("DELETE FROM sandboxes WHERE name = ?", [name])

    def if_absent(self, name: str, then: Callable[[], None]) -> bool:
        """If no sandbox has that name, call ``then`` while no program can take it; returns whether it did."""
        with self.transaction():
            row = self._connection.execute("SELECT 1 FROM sandboxes WHERE name = ?", [name]).fetchone()
            absent = row is None
            if absent:
                then()
            return absent

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Execute a statement on other tables; returns its rows."""
        with _explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """An exclusive transaction: no other program writes meanwhile."""
        with _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


_SELECT = f"SELECT {', '.join(COLUMNS)} FROM sandboxes"  # noqa: S608  (constant names)


def _make_private(path: Path) -> None:
    """Make the file private, because variables of commands may be secret. SQLite gives its other files the same mode.

    An existing file is not opened: closing it would release SQLite's locks on it (fcntl(2)).
    """
    with contextlib.suppress(OSError):  # SQLite reports the error
        try:
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
        except FileNotFoundError:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _reserve_space(directory: Path) -> None:
    """Reserve disk space, or free it if the disk is full."""
    ballast = directory / BALLAST_NAME
    with contextlib.suppress(OSError):
        found = os.statvfs(directory)
        free = found.f_bavail * found.f_frsize
        if free < BALLAST_BYTES:
            ballast.unlink(missing_ok=True)
        elif free > 4 * BALLAST_BYTES and not ballast.exists():
            fd = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, BALLAST_BYTES)
            finally:
                os.close(fd)


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    version = _version(connection)
    if version > VERSION:
        raise RegistryError(
            f"the registry {path} has version {version}; this ballonet supports versions up to {VERSION}",
            hint="use a newer ballonet, or set XDG_STATE_HOME to another directory",
        )
    if version == VERSION:
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")  # if two programs migrate at once, the second one finds it done
    try:
        for script in MIGRATIONS[_version(connection) :]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script. That of a trigger contains semicolons."""
    statement = ""
    for part in script.split(";")[:-1]:
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert errors of SQLite."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            hint = f"make {path.parent} and its files writable, or set XDG_STATE_HOME to another directory"
        elif "full" in text or "disk I/O" in text:
            hint = f"free up space on the file system of {path.parent}"
        elif "locked" in text:
            hint = "another program holds a lock on it: try again, or end that program"
        elif "not a database" in text or "malformed" in text:
            hint = f"the file is damaged: move {path} away, then run 'ballonet prune' to register running sandboxes"
        else:
            hint = None
        raise RegistryError(f"the registry {path} cannot be used: {text}", hint=hint) from error
