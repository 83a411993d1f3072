"""What each worker does, step after step: decided by the seed alone, so that a seed replays. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.model import ABSENT, DEAD, IDLE, RUNNING, State


@dataclass(frozen=True)
class Kind:
    """A kind of step: how often, for which states, and what it is meant to leave behind."""

    name: str
    #: What ``--without`` turns off.
    group: str
    weight: int
    needs: frozenset[State]
    #: The state that it leads to; ``None``: the same as before.
    leaves: State | None = None


@dataclass(frozen=True)
class Step:
    """One step of one worker. What it decides by itself comes from a generator that has ``seed``."""

    number: int
    kind: Kind
    slot: int
    seed: int


_ALIVE_OR_IDLE = IDLE | RUNNING

#: What a worker does with one of its own sandboxes.
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
#: What is done to all sandboxes at once, between the workers' steps.
SKY = (
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

GROUPS = tuple(sorted({kind.group for kind in (*KINDS, *SKY)}))
#: Without these there is nothing to do.
NEEDED = frozenset({"life"})


def steps(seed: int, worker: int, slots: int, without: Collection[str] = ()) -> Iterator[Step]:
    """The endless steps of one worker over its ``slots`` sandboxes."""
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


def sky_steps(seed: int, without: Collection[str] = ()) -> Iterator[Step]:
    """The endless steps of what concerns all; ``slot`` is how many steps of workers to wait for first."""
    kinds = [kind for kind in SKY if kind.group not in without]
    generator = random.Random(f"{seed}/sky")
    number = 0
    while kinds:
        (kind,) = generator.choices(kinds, [kind.weight for kind in kinds])
        number += 1
        yield Step(number, kind, generator.randint(1, 5), generator.getrandbits(32))


def script_steps(seed: int, names: Sequence[str]) -> Iterator[Step]:
    """These kinds of steps, one after the other, for one sandbox and the sky.

    :raises KeyError: there is no such kind.
    """
    known = {kind.name: kind for kind in (*KINDS, *SKY)}
    generator = random.Random(f"{seed}/script")
    for number, name in enumerate(names, 1):
        yield Step(number, known[name], 0, generator.getrandbits(32))


def share(slots: int, workers: int) -> list[int]:
    """How many sandboxes each worker has, of ``slots`` that may live at once."""
    return [slots // workers + (worker < slots % workers) for worker in range(workers)]
