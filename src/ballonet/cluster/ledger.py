"""What the cluster has placed, kept on the head: a host that is dead cannot say what ran there.

Without this file (a new head), it is written anew from what the hosts report; then only sandboxes of hosts that do not
answer are unknown.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from ballonet.base.errors import ConfigError, HostError
from ballonet.cluster.request import Request

#: ``no``: its name stays in use until its host returns. ``elsewhere``: it is started on another host.
Restart = Literal["no", "elsewhere"]
RESTARTS: tuple[Restart, ...] = ("no", "elsewhere")


#: How long a directory waits for the end of one before it (seconds).
LOCK_S = 5.0
#: How often a sandbox may be saved by itself at most (seconds).
LEAST_SAVE_S = 10


class Order(NamedTuple):
    """A sandbox as it was asked for."""

    request: Request
    settings: Mapping[str, Any]
    restart: Restart = "no"
    #: The program that owns it; ``None``: it is detached.
    session: str | None = None
    #: How often it is saved for a restart elsewhere (seconds); ``None``: only when somebody says so.
    save_every_s: int | None = None

    @property
    def name(self) -> str:
        return self.request.name

    def to_json(self) -> str:
        words = [
            self.request._asdict(),
            _plain(self.settings),
            self.restart,
            self.session,
            self.save_every_s,
        ]
        return json.dumps(words, default=_refuse)

    @classmethod
    def from_json(cls, text: str) -> Self:
        request, settings, restart, session, *more = json.loads(text)
        return cls(Request(**request), _whole(settings), restart, session, *more)


class Placed(NamedTuple):
    """A sandbox of the cluster, and where it is."""

    order: Order
    host: str
    #: ``creating``; ``placed``; ``lost``: its host does not answer.
    state: Literal["creating", "placed", "lost"]
    #: How it was started again after it was lost, in words for a person; empty: it was not.
    started: str = ""


class Saved(NamedTuple):
    """A snapshot that the cluster made of a sandbox."""

    snapshot: str
    #: The sandbox, as it was asked for.
    order: Order
    #: Later ones have higher numbers.
    number: int
    #: The hosts that have a copy.
    hosts: tuple[str, ...]
    #: When, on the head's clock (unix seconds): to show its age.
    saved_s: float
    #: Whether it is a state of the sandbox that has this name now.
    current: bool = True
    #: The cluster made it by itself, and removes it when there is a newer one.
    automatic: bool = False


def check_order(order: Order) -> Order:
    """Return ``order`` unchanged.

    :raises ConfigError: it cannot be kept, or contradicts itself.
    """
    if order.restart not in RESTARTS:
        raise ConfigError(f"unknown restart {order.restart!r}", hint=f"choose one of {', '.join(RESTARTS)}")
    if order.restart == "elsewhere" and order.settings.get("ports"):
        taken = [port for port in order.settings["ports"] if not str(port).startswith("0:")]
        if taken:
            raise ConfigError(
                f"sandbox {order.name!r}: port {taken[0]} may be in use on another host",
                hint='with restart="elsewhere", publish ports as "0:PORT", and use forward()',
            )
    if order.save_every_s is not None:
        if order.restart != "elsewhere":
            raise ConfigError(
                f"sandbox {order.name!r}: save_every needs restart='elsewhere', which uses what is saved",
                hint="--save-every needs --restart elsewhere",
            )
        if order.save_every_s < LEAST_SAVE_S:
            raise ConfigError(
                f"sandbox {order.name!r}: save_every of {order.save_every_s} s is less than {LEAST_SAVE_S} s"
            )
        if order.settings.get("volumes"):
            raise ConfigError(f"sandbox {order.name!r} has volumes, so that it cannot be saved (save_every)")
    order.to_json()
    return order


def fork_of(order: Order, name: str, session: str | None) -> Order:
    """The order of a copy. It is not started elsewhere, where it would not be a copy, and publishes no ports."""
    settings = {word: value for word, value in order.settings.items() if word != "ports"}
    return Order(order.request._replace(name=name), settings, "no", session)


class Ledger:
    """All sandboxes of the cluster."""

    def __init__(self, path: Path | str) -> None:
        """:raises HostError: the file cannot be used."""
        with _explained(path):
            # Locked as long as it is open: there is one directory at a time.
            self._file = sqlite3.connect(path, isolation_level=None, timeout=LOCK_S)
            self._file.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS placed "
                '(name TEXT PRIMARY KEY, host TEXT NOT NULL, state TEXT NOT NULL, "order" TEXT NOT NULL)'
            )
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS saved "
                '(number INTEGER PRIMARY KEY, snapshot TEXT NOT NULL, hosts TEXT NOT NULL, "order" TEXT NOT NULL, '
                "saved_s REAL NOT NULL, current INTEGER NOT NULL, automatic INTEGER NOT NULL)"
            )
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS started (name TEXT PRIMARY KEY, how TEXT NOT NULL)"
            )
            self._file.execute("BEGIN EXCLUSIVE")
            self._file.execute("COMMIT")
            rows = self._file.execute('SELECT name, host, state, "order" FROM placed').fetchall()
            how = dict(self._file.execute("SELECT name, how FROM started").fetchall())
            saved = self._file.execute(
                'SELECT snapshot, "order", number, hosts, saved_s, current, automatic FROM saved'
            ).fetchall()
        self._path = path
        self._durable: bool | None = None
        self.rows: dict[str, Placed] = {
            name: Placed(Order.from_json(order), host, state, how.get(name, ""))
            for name, host, state, order in rows
        }
        #: The snapshots that the cluster made, by name.
        self.saved: dict[str, Saved] = {
            name: Saved(
                name, Order.from_json(order), number, tuple(json.loads(hosts)), at, bool(now), bool(auto)
            )
            for name, order, number, hosts, at, now, auto in saved
        }
        #: Their names by host, and by sandbox.
        self.saved_on: dict[str, set[str]] = {}
        self._saved_of: dict[str, set[str]] = {}
        for one in self.saved.values():
            self._index(one)

    def put(self, order: Order, host: str, state: Literal["creating", "placed", "lost"]) -> None:
        """:raises HostError: the file cannot be written; nothing has changed."""
        known = self.rows.get(order.name)
        moved = known is None or known.host != host
        with _explained(self._path):
            # Where a name belongs must survive a loss of power; its state is found out again from the host.
            if moved != self._durable:
                self._file.execute(f"PRAGMA synchronous={'FULL' if moved else 'NORMAL'}")
                self._durable = moved
            self._file.execute(
                "INSERT OR REPLACE INTO placed VALUES (?, ?, ?, ?)",
                (order.name, host, state, order.to_json()),
            )
        self.rows[order.name] = Placed(order, host, state, "" if known is None else known.started)

    def drop(self, name: str) -> None:
        """The sandbox is gone. What was saved of it is not of the next one that gets its name."""
        with _explained(self._path):
            self._file.execute("DELETE FROM placed WHERE name = ?", (name,))
            self._file.execute("DELETE FROM started WHERE name = ?", (name,))
        self.rows.pop(name, None)
        self.outdate(name)

    def note_start(self, name: str, how: str) -> None:
        """Keep how a sandbox was started again."""
        row = self.rows.get(name)
        if row is not None:
            with _explained(self._path):
                self._file.execute("INSERT OR REPLACE INTO started VALUES (?, ?)", (name, how))
            self.rows[name] = row._replace(started=how)

    def next_number(self) -> int:
        """For a snapshot that is about to be made."""
        return max((saved.number for saved in self.saved.values()), default=0) + 1

    def _index(self, saved: Saved) -> None:
        self._saved_of.setdefault(saved.order.name, set()).add(saved.snapshot)
        for host in saved.hosts:
            self.saved_on.setdefault(host, set()).add(saved.snapshot)

    def _forget(self, snapshot: str) -> Saved | None:
        known = self.saved.pop(snapshot, None)
        if known is not None:
            for index, words in ((self._saved_of, [known.order.name]), (self.saved_on, known.hosts)):
                for word in words:
                    index[word].discard(snapshot)
                    if not index[word]:
                        del index[word]
        return known

    def put_saved(self, saved: Saved) -> None:
        with _explained(self._path):
            self._file.execute(
                "INSERT OR REPLACE INTO saved VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    saved.number,
                    saved.snapshot,
                    json.dumps(saved.hosts),
                    saved.order.to_json(),
                    saved.saved_s,
                    saved.current,
                    saved.automatic,
                ),
            )
        self._forget(saved.snapshot)
        self.saved[saved.snapshot] = saved
        self._index(saved)

    def drop_saved(self, snapshot: str) -> None:
        known = self.saved.get(snapshot)
        if known is not None:
            with _explained(self._path):
                self._file.execute("DELETE FROM saved WHERE number = ?", (known.number,))
            self._forget(snapshot)

    def saved_of(self, name: str) -> list[Saved]:
        """The states of the sandbox that has this name now, the latest first."""
        found = [self.saved[snapshot] for snapshot in self._saved_of.get(name, ())]
        return sorted((one for one in found if one.current), key=lambda saved: -saved.number)

    def outdate(self, name: str) -> None:
        """None of the states is that of the sandbox that has this name now. Those that the cluster made by itself are
        dropped: their hosts remove them when they report them."""
        for saved in self.saved_of(name):
            if saved.automatic:
                self.drop_saved(saved.snapshot)
            else:
                self.put_saved(saved._replace(current=False))

    def on(self, host: str) -> list[Placed]:
        """The sandboxes of a host."""
        return [row for row in self.rows.values() if row.host == host]

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise HostError(
            f"the cluster's ledger {path} cannot be used: {error}",
            hint="free up space, or move the file away",
        ) from error


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    from ballonet.base.dataclass import asdict
    from ballonet.sdk.creation import Balloon

    return {
        word: {"balloon": asdict(value)} if isinstance(value, Balloon) else value
        for word, value in settings.items()
    }


def _whole(settings: dict[str, Any]) -> dict[str, Any]:
    from ballonet.sdk.creation import Balloon

    balloon = settings.get("balloon")
    if isinstance(balloon, dict):
        settings = {**settings, "balloon": Balloon(**balloon["balloon"])}
    return settings


def _refuse(value: object) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "__fspath__") or type(value).__str__ is not object.__str__:
        return str(value)  # a port, a volume or a rule, which is also written as text
    raise ConfigError(f"{value!r} cannot be sent to another host"[:300], hint="write it as text")
