"""A sandbox of a cluster as a program uses it, without asyncio: what :class:`ballonet.sync.Sandbox` has, from afar."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ballonet.base.arguments import check_words, to_bytes
from ballonet.base.errors import BallonetError, HostError, UnknownSandboxError
from ballonet.cluster.cluster_code import ClusterCodeSession
from ballonet.cluster.cluster_files import ClusterFiles
from ballonet.cluster.cluster_process import PIECE_BYTES, ClusterProcess
from ballonet.machine.output_log import Entry
from ballonet.sdk.sandbox_commands import ExecResult


class SavedCopies(NamedTuple):
    """A snapshot that was made."""

    name: str
    #: The hosts that have it.
    hosts: Sequence[str]
    #: Why there are fewer copies than asked for; ``None``: there are as many.
    problem: str | None


class ClusterSnapshot(NamedTuple):
    """A snapshot that was made through the cluster."""

    name: str
    #: The sandbox that was saved.
    sandbox: str
    #: The hosts that have it.
    hosts: Sequence[str]
    age_s: float
    #: Whether it is a state of the sandbox that has that name now.
    current: bool
    #: The cluster made it by itself (``save_every``), and removes it when there is a newer one.
    automatic: bool


class Caller(Protocol):
    """The connection of this program to its cluster: :class:`ballonet.cluster.client.Cluster`."""

    @property
    def session(self) -> str: ...

    def call(self, host: str, method: str, *what: Any, **how: Any) -> Any: ...

    def streaming(self, host: str) -> None: ...

    def get(self, name: str) -> ClusterSandbox: ...

    def fork(self, name: str, names: Sequence[str], *, detached: bool = True) -> str: ...

    def remove(self, name: str, *, force: bool = False) -> None: ...

    def save(self, name: str, snapshot: str | None, *, copies: int, trim: bool) -> SavedCopies: ...


class ClusterSandbox:
    """A sandbox of a cluster, on some host."""

    def __init__(self, cluster: Caller, name: str, host: str) -> None:
        self._cluster = cluster
        self.name = name
        #: Where it was when it was last found. It may be moved.
        self.host = host

    @property
    def session(self) -> str:
        """Names this program to the hosts."""
        return self._cluster.session

    def __repr__(self) -> str:
        return f"<ClusterSandbox {self.name} on {self.host}>"

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command and collect its output, as :meth:`ballonet.Sandbox.exec`."""
        words = check_words("argv", argv)
        how = {"env": env, "cwd": cwd, "user": user, "timeout": timeout}
        data = None if stdin is None else to_bytes("stdin", stdin)
        status, number, stdout, stderr = self.stream("exec", self.session, self.name, words, how, data)
        if status is not None:
            return ExecResult(status, stdout, stderr)
        with ClusterProcess(self, number) as process:
            return process.collect(stdout, stderr)

    def exec_stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
        timeout: float | None = None,
    ) -> ClusterProcess:
        """Start a command and return while it runs, as :meth:`ballonet.Sandbox.exec_stream`. It ends at the latest
        half a minute after this program."""
        words = check_words("argv", argv)
        how = {
            "env": env,
            "cwd": cwd,
            "user": user,
            "stdin": stdin,
            "tty": tty,
            "rows": rows,
            "cols": cols,
            "timeout": timeout,
        }
        return ClusterProcess(self, self.stream("open_command", self.session, self.name, words, how))

    def code(
        self,
        language: str = "python",
        *,
        session: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> ClusterCodeSession:
        """Start a session that runs code and keeps its variables, or find one, as :meth:`ballonet.Sandbox.code`."""
        how = {"env": env, "cwd": cwd, "user": user}
        name, spoken = self.stream("code_session", self.session, self.name, language, session, how)
        return ClusterCodeSession(self, name, spoken)

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[Entry]:
        """The output of the sandbox's own command, as its host logged it.

        :param follow: go on until the sandbox stops.
        :param tail: only this many lines from the end.
        :param since: only what was written since then: unix seconds; 0 and less are relative to now. Times are those
            of the host's clock.
        :param until: likewise, only what was written until then.
        :raises ConfigError: it has no command of its own.
        """
        number = self.stream("open_logs", self.session, self.name, follow, tail, since, until)
        with ClusterProcess(self, number) as entries:
            while some := entries.read():
                yield from some  # type: ignore[misc]  # this stream gives entries

    @property
    def fs(self) -> ClusterFiles:
        """The guest's files."""
        return ClusterFiles(self)

    @property
    def balloon(self) -> ClusterBalloon:
        """The guest's balloon."""
        return ClusterBalloon(self)

    def metrics(self) -> Any:
        """Memory statistics of the guest and of its host."""
        return self.use("metrics")

    def pause(self, *, force: bool = False) -> None:
        self.use("pause", force=force)

    def resume(self) -> None:
        self.use("resume")

    def modify(self, **settings: Any) -> Any:
        """Change settings, as :meth:`ballonet.Sandbox.modify`."""
        return self.use("modify", **settings)

    def fork(self, *names: str, detached: bool = True) -> list[ClusterSandbox]:
        """Make copies of the running sandbox, on its host: see :meth:`ballonet.Sandbox.fork`."""
        host = self._cluster.fork(self.name, names, detached=detached)
        return [ClusterSandbox(self._cluster, name, host) for name in names]

    def snapshot(self, name: str | None = None, *, copies: int = 1, trim: bool = True) -> SavedCopies:
        """Save it with its memory, processes and disk, as :meth:`ballonet.Sandbox.snapshot`. It runs on.

        :param name: of the snapshot; by default the sandbox's name and the time.
        :param copies: on how many other hosts it is kept as well. A sandbox with ``restart="elsewhere"`` whose host is
            lost continues from the last of its snapshots that another host has.
        :param trim: have the guest give up caches and free memory first, if it is idle.
        :raises NameInUseError: some host has a snapshot with that name.
        """
        return self._cluster.save(self.name, name, copies=copies, trim=trim)

    def stop(self) -> None:
        """Stop it; it stays registered on its host."""
        self._call("stop", self.name)

    def remove(self, *, force: bool = False) -> None:
        """Remove it.

        :param force: even if it is running.
        """
        self._cluster.remove(self.name, force=force)

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[tuple[str, int]]:
        """Reach a published port of the guest at an address of this machine's loopback, in a ``with`` block.

        The connections go through the cluster, to whoever has its token; nothing listens on the host's network.
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=self._accept, args=(server, port), daemon=True)
            thread.start()
            try:
                yield server.getsockname()
            finally:
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)  # ends accept()
                thread.join()

    def _accept(self, server: socket.socket, port: int) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(connection, port), daemon=True).start()

    def _pass_on(self, connection: socket.socket, port: int) -> None:
        """Pass a connection on until both sides have ended."""
        with connection:
            try:
                number = self.stream("open_port", self.session, self.name, port)
            except BallonetError:
                return  # the connection is closed, as by a host that has no such port

            def send() -> None:
                with contextlib.suppress(BallonetError, OSError):
                    while piece := connection.recv(PIECE_BYTES):
                        self.stream("write", number, piece)
                    self.stream("end_input", number)

            sending = threading.Thread(target=send, daemon=True)
            sending.start()
            with contextlib.suppress(BallonetError, OSError):
                while piece := self.stream("read", number):
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                sending.join()
            with contextlib.suppress(BallonetError):
                self.stream("close", number)

    def use(self, method: str, *what: Any, **how: Any) -> Any:
        """Call a method of the sandbox on its host."""
        return self._call("use", self.name, method, what, how)

    def stream(self, method: str, *what: Any) -> Any:
        """Do something about a stream on its host."""
        self._cluster.streaming(self.host)
        return self._call("stream", method, *what)

    def _call(self, method: str, *what: Any) -> Any:
        """Ask its host; once more if it has been moved."""
        try:
            return self._cluster.call(self.host, method, *what)
        except (UnknownSandboxError, HostError):
            host = self._cluster.get(self.name).host
            if host == self.host:
                raise
            self.host = host
        return self._cluster.call(self.host, method, *what)


class ClusterBalloon:
    """The balloon of a sandbox on another host."""

    def __init__(self, box: ClusterSandbox) -> None:
        self._box = box

    def get(self) -> Any:
        return self._box.use("balloon.get")

    def set(self, target: int | str, **how: Any) -> Any:
        return self._box.use("balloon.set", target, **how)

    def limit(self, limit: int | str | None) -> Any:
        return self._box.use("balloon.limit", limit)

    def stats(self) -> Any:
        return self._box.use("balloon.stats")

    def trim(self) -> Any:
        return self._box.use("balloon.trim")
