"""Registry: the SQLite file, opened, migrated, and its rows read and written. Knows nothing of processes.

Several programs may use one registry at once: SQLite's write-ahead log lets readers go on beside a writer, and a
writer waits for another up to :data:`BUSY_S`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

from ballonet.errors import NameInUseError, RegistryError, UnknownSandboxError
from ballonet.host.identity import ProcessId
from ballonet.paths import state_dir
from ballonet.registry.record import Command, Record, State
from ballonet.registry.schema import MIGRATIONS, VERSION
from ballonet.suggest import hint_for

FILE_NAME = "registry.db"
#: How long a program waits for another's write (seconds).
BUSY_S = 30.0

_COLUMNS = tuple(field.name for field in fields(Record))


class Registry:
    """``with Registry.open() as registry: …``. Not for several threads at once."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, directory: Path | None = None) -> Self:
        """Open the registry in ``directory`` (the user's state directory by default), made or migrated if need be.

        :raises RegistryError: it is from a newer version, damaged, or cannot be written.
        """
        path = (state_dir() if directory is None else directory) / FILE_NAME
        with _explained(path):
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
        """:raises NameInUseError: there is a sandbox of that name."""
        marks = ", ".join("?" * len(_COLUMNS))
        statement = f"INSERT INTO sandboxes ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608  (our own names)
        try:
            with _explained(self.path):
                self._connection.execute(statement, [_encode(getattr(record, name)) for name in _COLUMNS])
        except sqlite3.IntegrityError:
            raise NameInUseError(
                f"there is a sandbox named {record.name!r} already",
                hint=f"choose another name, or remove it: ballonet rm --force {record.name}",
            ) from None

    def find(self, name: str) -> Record | None:
        """The sandbox of that name, or ``None``."""
        with _explained(self.path):
            row = self._connection.execute(f"{_SELECT} WHERE name = ?", [name]).fetchone()
        return None if row is None else _decode(row)

    def get(self, name: str) -> Record:
        """:raises UnknownSandboxError: there is no sandbox of that name."""
        record = self.find(name)
        if record is None:
            known = [other.name for other in self.list()]
            raise UnknownSandboxError(
                f"there is no sandbox named {name!r}"[:200],
                hint=hint_for(name, known, "'ballonet ls' lists all sandboxes"),
            )
        return record

    def list(self) -> list[Record]:
        """All, the oldest first."""
        with _explained(self.path):
            rows = self._connection.execute(f"{_SELECT} ORDER BY created_at, name").fetchall()
        return [_decode(row) for row in rows]

    def update(self, name: str, *, if_run: str | None = None, **changes: Any) -> bool:
        """Change columns of one row; whether there was such a row.

        :param if_run: only if that is still the row's run: a late word on an earlier run changes nothing.
        """
        settings = ", ".join(f"{column} = ?" for column in changes)
        statement = f"UPDATE sandboxes SET {settings} WHERE name = ?"  # noqa: S608  (keyword names of our own)
        values = [*map(_encode, changes.values()), name]
        if if_run is not None:
            statement, values = f"{statement} AND run_id = ?", [*values, if_run]
        with _explained(self.path):
            return self._connection.execute(statement, values).rowcount == 1

    def begin_run(self, name: str, run_id: str, starter: ProcessId) -> bool:
        """Make the row a starting one, unless it lives; whether we were the one who did."""
        lives = [state.value for state in State if state.lives]
        with _explained(self.path):
            done = self._connection.execute(
                "UPDATE sandboxes SET state = ?, run_id = ?, starter = ?, started_at = NULL, ended_at = NULL,"
                " end_reason = NULL, end_detail = NULL, exit_code = NULL"
                " WHERE name = ? AND state NOT IN (?, ?)",
                [State.STARTING.value, run_id, _encode(starter), name, *lives],
            )
        return done.rowcount == 1

    def remove(self, name: str, *, if_run: str | None = None) -> bool:
        """Delete the row; whether there was one (of that run, if given)."""
        statement, values = "DELETE FROM sandboxes WHERE name = ?", [name]
        if if_run is not None:
            statement, values = f"{statement} AND run_id = ?", [name, if_run]
        with _explained(self.path):
            return self._connection.execute(statement, values).rowcount == 1


_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM sandboxes"  # noqa: S608  (our own names)


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    version = _version(connection)
    if version > VERSION:
        raise RegistryError(
            f"the registry {path} is of version {version}; this ballonet knows versions up to {VERSION}",
            hint="use the newer ballonet that wrote it, or another XDG_STATE_HOME",
        )
    if version == VERSION:
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")  # of two programs that come at once, the second finds it done
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
        case Command():
            return json.dumps(asdict(value))
        case tuple():
            return json.dumps(value)
        case State():
            return value.value
        case bool():
            return int(value)
    return value


def _decode(row: tuple[Any, ...]) -> Record:
    values = dict(zip(_COLUMNS, row, strict=True))
    try:
        values["flags"] = tuple(json.loads(values["flags"]))
        values["state"] = State(values["state"])
        values["auto_remove"] = bool(values["auto_remove"])
        if values["starter"] is not None:
            values["starter"] = ProcessId.from_json(json.loads(values["starter"]))
        if values["command"] is not None:
            command = json.loads(values["command"])
            values["command"] = Command(**{**command, "argv": tuple(command["argv"])})
        return Record(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise RegistryError(
            f"the registry's row of sandbox {values['name']!r} cannot be read: {error}",
            hint=f"remove it: ballonet rm --force {values['name']}",
        ) from error


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what SQLite's errors mean for a person."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            hint = f"make {path.parent} and what is in it writable for you, or set XDG_STATE_HOME"
        elif "full" in text or "disk I/O" in text:
            hint = f"make room on the file system of {path.parent}"
        elif "locked" in text:
            hint = "another program keeps it locked; try again, or end that program"
        elif "not a database" in text or "malformed" in text:
            hint = f"the file is damaged: move {path} away; sandboxes that run go on"
        else:
            hint = None
        raise RegistryError(f"the registry {path} cannot be used: {text}", hint=hint) from error
