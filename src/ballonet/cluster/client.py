"""A cluster as a program uses it: ``Cluster("auto").create("box", memory="1G").exec(["true"])``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from ballonet.base.arguments import check_words
from ballonet.base.errors import ConfigError, HostError
from ballonet.cluster.addresses import connects_from, use_token
from ballonet.cluster.answers import value_of
from ballonet.cluster.node_notes import read_node, token_path
from ballonet.cluster.request import Affinity, Strategy
from ballonet.cluster.request_of import request_of
from ballonet.sdk.sandbox_commands import ExecResult


class Cluster:
    """A connection to a cluster, from one of its hosts. A program has one cluster at a time.

    :param address: ``HOST:PORT`` of the head; ``auto``: the cluster that this host has joined.
    :param token: the file with the cluster's token; by default the one that ``cluster up`` or ``join`` uses.
    :raises BallonetError: there is no such cluster, or it does not answer.
    """

    def __init__(self, address: str = "auto", *, token: Path | None = None) -> None:
        if find_spec("ray") is None:
            raise ConfigError("a cluster needs Ray", hint="pip install 'ballonet[cluster]'")
        if address == "auto":
            node = read_node()
            if node is None or not node.process.alive():
                raise HostError(
                    "this host is not part of a cluster",
                    hint="'ballonet cluster up' starts one, 'ballonet cluster join ADDRESS' joins one",
                )
            address = node.address
            token = token or node.token
        token = token or token_path()
        connects_from(address)
        use_token(token)
        from ballonet.cluster import ray_actors

        ray_actors.connect(address, token)
        self.address = address
        self._ray = ray_actors
        self._directory = ray_actors.start_directory()

    def create(
        self,
        name: str,
        *,
        expected: str | int | None = None,
        labels: Mapping[str, str] | None = None,
        group: str | None = None,
        affinity: Affinity | None = None,
        strategy: Strategy = "spread",
        **settings: Any,
    ) -> ClusterSandbox:
        """Create a detached sandbox on the host that fits best, and return when its guest answers.

        :param expected: the memory that it will use on average, such as ``300M``; by default, what others of its image
            use, or a quarter of its ceiling.
        :param labels: labels that the host must have.
        :param group: sandboxes of a group are placed ``near`` or ``apart`` from each other (``affinity``).
        :param strategy: ``spread``: the emptiest host; ``pack``: the fullest one that has room.
        :param settings: as in :meth:`ballonet.Sandbox.create`, except ``rootfs``, ``detached`` and ``admission``.
        :raises AdmissionError: no host has room; the message has the numbers of each.
        :raises NameInUseError: a sandbox on some host has this name.
        :raises BallonetError: it did not start; nothing is left behind.
        """
        request = request_of(
            name,
            settings,
            expected=expected,
            labels=labels,
            group=group,
            affinity=affinity,
            strategy=strategy,
        )
        host = value_of(self._ray.ask(self._directory, "create", request, settings))
        return ClusterSandbox(self, name, host)

    def get(self, name: str) -> ClusterSandbox:
        """Find a sandbox on any host.

        :raises UnknownSandboxError: no host has it.
        """
        return ClusterSandbox(self, name, value_of(self._ray.ask(self._directory, "find", name)))

    def status(self) -> dict[str, Any]:
        """Each host: its offer, with its age as a negative ``at_s``, its sandboxes and their states, and why it does
        not answer."""
        found: dict[str, Any] = value_of(self._ray.ask(self._directory, "status"))
        return found

    def drain(self, host: str, *, undo: bool = False) -> None:
        """Place no more sandboxes on a host; those that run there keep running.

        :raises ConfigError: there is no such host.
        """
        value_of(self._ray.ask(self._directory, "check_host", host))
        why = None if undo else "it is being drained"
        self.call(host, "close_host", why)

    def close(self) -> None:
        """Disconnect this program. Sandboxes keep running.

        If the head ends first, Ray ends a program that is still connected a minute later.
        """
        self._ray.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, host: str, method: str, *what: Any, **how: Any) -> Any:
        """Ask the agent of a host.

        :raises BallonetError: its answer is an error, or it does not answer.
        """
        try:
            actor = self._ray.find_host(host)
        except ValueError:
            raise HostError(f"host {host} has left the cluster") from None
        return value_of(self._ray.ask(actor, method, *what, **how), host)


class ClusterSandbox:
    """A sandbox of a cluster, on some host. It keeps running when the program ends."""

    def __init__(self, cluster: Cluster, name: str, host: str) -> None:
        self._cluster = cluster
        self.name = name
        self.host = host

    def __repr__(self) -> str:
        return f"<ClusterSandbox {self.name} on {self.host}>"

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command and collect its output, as :meth:`ballonet.Sandbox.exec`."""
        words = check_words("argv", argv)
        done = self._cluster.call(
            self.host, "exec", self.name, words, env=env, cwd=cwd, user=user, stdin=stdin, timeout=timeout
        )
        return ExecResult(*done)

    def stop(self) -> None:
        """Stop it; it stays registered on its host."""
        self._cluster.call(self.host, "stop", self.name)

    def remove(self, *, force: bool = False) -> None:
        """Remove it.

        :param force: even if it is running.
        """
        self._cluster.call(self.host, "remove", self.name, force)
