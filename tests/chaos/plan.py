"""Chooses the steps of each worker from the seed, so that a seed can be replayed. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.model import ABSENT, DEAD, IDLE, RUNNING, State


@dataclass(frozen=True)
class Kind:
    """A kind of step: how often it is chosen, for which states, and the state that it leads to."""

    name: str
    #: The group for ``--without`` and ``--only``.
    group: str
    weight: int
    needs: frozenset[State]
    #: The state afterwards; ``None``: unchanged.
    leaves: State | None = None


@dataclass(frozen=True)
class Step:
    """One step. Its own random choices come from a generator with ``seed``."""

    number: int
    kind: Kind
    slot: int
    seed: int


_ALIVE_OR_IDLE = IDLE | RUNNING

#: Steps of a worker with one of its sandboxes.
KINDS = (
    Kind("create", "life", 4, ABSENT, State.CREATED),
    Kind("run", "life", 16, ABSENT, State.RUNNING),
    Kind("one-shot", "life", 3, ABSENT),
    Kind("start", "life", 10, IDLE, State.RUNNING),
    Kind("stop", "life", 3, RUNNING, State.STOPPED),
    Kind("restart", "life", 2, _ALIVE_OR_IDLE, State.RUNNING),
    Kind("remove", "life", 3, IDLE, State.ABSENT),
    Kind("remove-force", "life", 2, _ALIVE_OR_IDLE, State.ABSENT),
    Kind("exec-echo", "exec", 4, RUNNING),
    Kind("exec-large", "exec", 3, RUNNING),
    Kind("exec-stdin", "exec", 3, RUNNING),
    Kind("exec-status", "exec", 3, RUNNING),
    Kind("exec-signal", "exec", 2, RUNNING),
    Kind("exec-crowd", "exec", 2, RUNNING),
    Kind("exec-dead", "exec", 2, DEAD),
    Kind("copy-file", "copy", 4, RUNNING),
    Kind("copy-tree", "copy", 2, RUNNING),
    Kind("balloon-set", "balloon", 5, RUNNING),
    Kind("balloon-plain", "balloon", 3, RUNNING),
    Kind("balloon-client", "balloon", 3, RUNNING),
    Kind("balloon-limit", "balloon", 2, RUNNING),
    Kind("balloon-trim", "balloon", 2, RUNNING),
    Kind("balloon-watch", "balloon", 2, RUNNING),
    Kind("modify", "modify", 3, _ALIVE_OR_IDLE),
    Kind("modify-target", "modify", 2, RUNNING),
    Kind("volume", "volumes", 4, RUNNING),
    Kind("fill-disk", "disk", 1, RUNNING),
    Kind("kill-engine", "kill-engine", 3, RUNNING, State.STOPPED),
    Kind("kill-engine-in-exec", "kill-engine", 2, RUNNING, State.STOPPED),
    Kind("kill-supervisor", "kill-supervisor", 4, RUNNING, State.STOPPED),
    Kind("kill-supervisor-in-exec", "kill-supervisor", 2, RUNNING, State.STOPPED),
    Kind("kill-volume-server", "kill-virtiofsd", 3, RUNNING, State.STOPPED),
    Kind("kill-client", "kill-client", 5, RUNNING),
    Kind("kill-starter", "kill-client", 3, ABSENT | IDLE),
    Kind("kill-owner", "kill-client", 2, ABSENT),
    Kind("kill-stopper", "kill-client", 2, RUNNING, State.STOPPED),
    Kind("kill-remover", "kill-client", 2, RUNNING, State.ABSENT),
    Kind("freeze", "freeze", 4, RUNNING),
    Kind("freeze-and-remove", "freeze", 2, RUNNING, State.ABSENT),
    Kind("damage-machine-note", "notes", 3, RUNNING),
    Kind("damage-end-note", "notes", 3, RUNNING, State.STOPPED),
    Kind("lose-run-entry", "run-entries", 3, RUNNING),
    Kind("other-run-dir", "other-run-dir", 3, RUNNING),
)

_ANY = frozenset(State)
#: Steps that affect all sandboxes, between the workers' steps.
HOST_KINDS = (
    Kind("look-crowd", "crowd", 5, _ANY),
    Kind("prune", "prune", 4, _ANY),
    Kind("pilot-start", "pilot", 4, _ANY),
    Kind("pilot-end", "pilot", 3, _ANY),
    Kind("pilot-kill", "pilot", 2, _ANY),
    Kind("pilot-freeze", "pilot", 2, _ANY),
    Kind("lock-registry", "registry-lock", 3, _ANY),
    Kind("damage-registry", "registry-damage", 3, _ANY),
    Kind("fill-state-dir", "disk-full", 3, _ANY),
    Kind("lose-run-dir", "run-dir", 3, _ANY),
)

GROUPS = tuple(sorted({kind.group for kind in (*KINDS, *HOST_KINDS)}))
#: Groups that cannot be left out.
NEEDED = frozenset({"life"})


def steps(seed: int, worker: int, slots: int, without: Collection[str] = ()) -> Iterator[Step]:
    """The endless steps of one worker with its ``slots`` sandboxes."""
    kinds = [kind for kind in KINDS if kind.group not in without]
    generator = random.Random(f"{seed}/{worker}")
    states = [State.ABSENT] * slots
    number = 0
    while True:
        slot = generator.randrange(slots)
        fitting = [kind for kind in kinds if states[slot] in kind.needs]
        (kind,) = generator.choices(fitting, [kind.weight for kind in fitting])
        states[slot] = kind.leaves or states[slot]
        number += 1
        yield Step(number, kind, slot, generator.getrandbits(32))


def plan_host_steps(seed: int, without: Collection[str] = ()) -> Iterator[Step]:
    """The endless host steps; ``slot`` is the number of workers' steps to wait for first."""
    kinds = [kind for kind in HOST_KINDS if kind.group not in without]
    generator = random.Random(f"{seed}/sky")  # kept from earlier versions, so that their seeds replay
    number = 0
    while kinds:
        (kind,) = generator.choices(kinds, [kind.weight for kind in kinds])
        number += 1
        yield Step(number, kind, generator.randint(1, 5), generator.getrandbits(32))


def plan_script(seed: int, names: Sequence[str]) -> Iterator[Step]:
    """The named steps, for one sandbox and the host.

    :raises KeyError: a name is unknown.
    """
    known = {kind.name: kind for kind in (*KINDS, *HOST_KINDS)}
    generator = random.Random(f"{seed}/script")
    for number, name in enumerate(names, 1):
        yield Step(number, known[name], 0, generator.getrandbits(32))


def share(slots: int, workers: int) -> list[int]:
    """The number of sandboxes of each worker, ``slots`` in total."""
    return [slots // workers + (worker < slots % workers) for worker in range(workers)]
