"""The registry: opens and migrates the SQLite file, and reads and writes its rows. Knows nothing of processes.

Several programs may use a registry at the same time: with SQLite's write-ahead log, readers do not wait for a writer,
and a writer waits for another one up to :data:`BUSY_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from ballonet.base.dataclass import MISSING, Field, asdict, replace
from ballonet.base.errors import NameInUseError, RegistryError, UnknownSandboxError
from ballonet.base.paths import state_dir
from ballonet.base.suggest import hint_for
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.record import (
    Command,
    Defaults,
    Record,
    State,
    flags_problem,
    stored_fields,
    unreadable_hint,
)
from ballonet.lifecycle.schema import MIGRATIONS, VERSION

FILE_NAME = "registry.db"
#: Reserves the disk space that SQLite needs to read and write the registry. It is deleted when the disk is full, so
#: that sandboxes can still be listed and removed.
BALLAST_NAME, BALLAST_BYTES = "ballast", 256 << 10
#: How long to wait for another program's write (seconds).
BUSY_S = 30.0

_COLUMNS = tuple(field.name for field in stored_fields())


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
        marks = ", ".join("?" * len(_COLUMNS))
        statement = f"INSERT INTO sandboxes ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608  (constant names)
        try:
            with _explained(self.path):
                self._connection.execute(statement, [_encode(getattr(record, name)) for name in _COLUMNS])
        except sqlite3.IntegrityError:
            raise NameInUseError(
                f"there is a sandbox named {record.name!r} already",
                hint=f"choose another name, or remove it: ballonet rm --force {record.name}",
            ) from None

    def find(self, name: str) -> Record | None:
        """The sandbox with that name, or ``None``."""
        with _explained(self.path):
            row = self._connection.execute(f"{_SELECT} WHERE name = ?", [name]).fetchone()
        return None if row is None else _decode(row)

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
        return [_with_flags_checked(_decode_in_part(row)) for row in rows]

    def update(self, name: str, *, if_run: str | None = None, **changes: Any) -> bool:
        """Change columns of one row; returns whether there was such a row.

        :param if_run: only if the row has this run: late news of an earlier run is ignored.
        """
        settings = ", ".join(f"{column} = ?" for column in changes)
        statement = f"UPDATE sandboxes SET {settings} WHERE name = ?"  # noqa: S608  (names of keyword arguments)
        values = [*map(_encode, changes.values()), name]
        if if_run is not None:
            statement, values = f"{statement} AND run_id = ?", [*values, if_run]
        with _explained(self.path):
            return self._connection.execute(statement, values).rowcount == 1

    def begin_run(self, name: str, run_id: str, starter: ProcessId, *, run_dir: Path | None = None) -> bool:
        """Set the state to starting, unless the sandbox runs; returns whether this call did it."""
        lives = [state.value for state in State if state.lives]
        with _explained(self.path):
            done = self._connection.execute(
                "UPDATE sandboxes SET state = ?, run_id = ?, starter = ?, run_dir = ?, process = NULL,"
                " started_at = NULL, ended_at = NULL, end_reason = NULL, end_detail = NULL, exit_code = NULL"
                " WHERE name = ? AND state NOT IN (?, ?)",
                [State.STARTING.value, run_id, _encode(starter), _encode(run_dir), name, *lives],
            )
        return done.rowcount == 1

    def remove(self, record: Record, and_then: Callable[[], None] | None = None) -> bool:
        """Delete the row if it still has the same sandbox and run; returns whether it had.

        :param and_then: called before another program can take the name; if it raises, the row is kept.
        """
        with self._transaction():
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
        with self._transaction():
            row = self._connection.execute("SELECT 1 FROM sandboxes WHERE name = ?", [name]).fetchone()
            absent = row is None
            if absent:
                then()
            return absent

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
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


_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM sandboxes"  # noqa: S608  (constant names)


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
            for statement in script.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _encode(value: Any) -> Any:
    match value:
        case ProcessId():
            return json.dumps(value.to_json())
        case Path():
            return str(value)
        case Command() | Defaults():
            return json.dumps(asdict(value))
        case tuple() | dict():
            return json.dumps(value)
        case State():
            return value.value
        case str():
            # Text from outside, such as the name of a command in an error: SQLite accepts only UTF-8.
            return value.encode(errors="backslashreplace").decode()
        case bool():
            return int(value)
    return value


def _decode(row: tuple[Any, ...]) -> Record:
    """:raises RegistryError: the row cannot be read."""
    record = _decode_in_part(row)
    if record.unreadable is not None:
        raise RegistryError(
            f"the registry's row of sandbox {record.name!r} cannot be read: {record.unreadable}",
            hint=unreadable_hint(record.name),
        )
    return record


def _decode_in_part(row: tuple[Any, ...]) -> Record:
    """The row. A column that cannot be read has its default; :attr:`Record.unreadable` says why."""
    values = dict(zip(_COLUMNS, row, strict=True))
    problems = []
    for field in stored_fields():
        decode = _DECODERS.get(field.name)
        if decode is None or values[field.name] is None:
            continue
        try:
            values[field.name] = decode(values[field.name])
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{field.name}: {error}")
            values[field.name] = _initial(field)
    return Record(**values, unreadable="; ".join(problems) or None)


def _with_flags_checked(record: Record) -> Record:
    if record.unreadable is not None:
        return record
    problem = flags_problem(record.flags)
    return record if problem is None else replace(record, unreadable=f"flags: {problem}")


def _decode_flags(text: str) -> tuple[str, ...]:
    flags = json.loads(text)
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ValueError("not a list of words")
    return tuple(flags)


def _decode_process(text: str) -> ProcessId | None:
    return ProcessId.from_json(json.loads(text))


def _decode_command(text: str) -> Command:
    command = json.loads(text)
    return Command(**{**command, "argv": tuple(command["argv"])})


def _decode_labels(text: str) -> dict[str, str]:
    labels = json.loads(text)
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ValueError("not a mapping of text")
    return labels


#: Decoders of columns other than plain text and numbers.
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "flags": _decode_flags,
    "state": State,
    "auto_remove": bool,
    "starter": _decode_process,
    "process": _decode_process,
    "command": _decode_command,
    "labels": _decode_labels,
    "defaults": lambda text: Defaults(**json.loads(text)),
}


def to_json(record: Record) -> bytes:
    """A row as JSON, for :func:`from_json`."""
    return json.dumps({name: _encode(getattr(record, name)) for name in _COLUMNS}).encode()


def from_json(content: bytes) -> Record:
    """The row in JSON of :func:`to_json`; missing columns have their defaults.

    :raises RegistryError: it is not such a row.
    """
    try:
        values = json.loads(content)
        return _decode(tuple(values.get(field.name, _default(field)) for field in stored_fields()))
    except (ValueError, AttributeError) as error:
        raise RegistryError(f"not a row of the registry: {error}") from error


def _default(field: Field[Any]) -> Any:
    has_none = field.default is MISSING and field.default_factory is MISSING
    return None if has_none else _encode(_initial(field))


def _initial(field: Field[Any]) -> Any:
    """The default of a field; without one, an empty list of words."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return () if field.default is MISSING else field.default


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
