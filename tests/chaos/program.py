"""The program: workers side by side until the time is over, then the end of everything, and a look at what is left."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.guest.bundle import prepare_guest
from ballonet.sdk.sandbox import Sandbox
from tests.chaos import leftovers, sky
from tests.chaos.actions import ACTIONS
from tests.chaos.context import Context
from tests.chaos.faults import FAULTS
from tests.chaos.log import Log
from tests.chaos.model import Box, SkippedError, State, WrongError
from tests.chaos.plan import GROUPS, KINDS, NEEDED, SKY, Step, script_steps, share, sky_steps, steps
from tests.chaos.world import World

#: Parts of steps and of checks that can be turned off beside the groups of steps.
PARTS = ("early-leftovers", "hard-cap", "small-disk")
_DO = {**ACTIONS, **FAULTS}


@dataclass
class Run:
    """One run: its settings, its workers' common state, and what went wrong."""

    options: argparse.Namespace
    world: World
    log: Log
    boxes: list[Box] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    #: Steps that workers have done; the sky waits for them.
    done: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    counts: dict[str, int] = field(default_factory=dict)

    def fail(self, what: str) -> None:
        self.failures.append(what)
        self.log.line(f"WRONG  {what[:4000]}")
        if not self.options.keep_going:
            self.over.set()


async def work(run: Run, worker: int, boxes: list[Box]) -> None:
    """One worker's steps, one after the other, until the time is over."""
    who = f"w{worker}"
    for step in steps(run.options.seed, worker, len(boxes), run.world.without):
        if run.over.is_set() or (run.options.steps and step.number > run.options.steps):
            return
        box = boxes[step.slot]
        ctx = Context(run.world, box, random.Random(step.seed))
        async with run.world.gate.together():
            if run.over.is_set():
                return
            await one_step(run, who, step, ctx)
        async with run.moved:
            run.done += 1
            run.moved.notify_all()


async def one_step(run: Run, who: str, step: Step, ctx: Context) -> None:
    """Do one step and log it; what goes wrong with it is the run's failure."""
    started = time.monotonic()
    name = step.kind.name
    label = ctx.box.name
    run.log.begin(who, name, label)

    def told(result: str) -> None:
        run.log.end(who, name, label, result, time.monotonic() - started)

    try:
        await ctx.bring(step.kind.needs)
        said = await _DO[name](ctx)
    except SkippedError as skipped:
        told(f"skipped: {skipped}")
    except (WrongError, BallonetError) as error:
        told("WRONG")
        words = f"{type(error).__name__}: {error}" if isinstance(error, BallonetError) else str(error)
        run.fail(f"{who} step {step.number} {name} {label}: {words}")
        await _give_up(run, ctx)
    except Exception:
        told("WRONG")
        run.fail(f"{who} step {step.number} {name} {label}: {traceback.format_exc()}")
        await _give_up(run, ctx)
    else:
        run.counts[name] = run.counts.get(name, 0) + 1
        told(f"ok{': ' + said if said else ''}")


async def _give_up(run: Run, ctx: Context) -> None:
    if run.options.keep_going:
        try:
            await ctx.forget()
        except WrongError as error:
            run.log.line(f"       and it cannot be removed: {error}")


async def work_sky(run: Run, boxes: list[Box]) -> None:
    """What concerns all, between the workers' steps."""
    state = sky.Sky(run.world, boxes)
    seen = 0
    try:
        for step in sky_steps(run.options.seed, run.world.without):
            seen += step.slot
            async with run.moved:
                await run.moved.wait_for(lambda: run.done >= seen or run.over.is_set())  # noqa: B023
            if run.over.is_set():
                return
            seen = run.done
            state.rng = random.Random(step.seed)
            gate = run.world.gate.alone() if step.kind.name in sky.ALONE else contextlib.nullcontext()
            async with gate:
                await _one_sky_step(run, step, state)
    finally:
        await _end_pilot(run, state)


async def _one_sky_step(run: Run, step: Step, state: sky.Sky) -> None:
    started = time.monotonic()
    run.log.begin("sky", step.kind.name, "all")

    def told(result: str) -> None:
        run.log.end("sky", step.kind.name, "all", result, time.monotonic() - started)

    try:
        await sky.check_pilot(state)
        said = await sky.SKY_STEPS[step.kind.name](state)
    except SkippedError as skipped:
        told(f"skipped: {skipped}")
    except (WrongError, BallonetError) as error:
        told("WRONG")
        run.fail(f"sky step {step.number} {step.kind.name}: {error}")
    except Exception:
        told("WRONG")
        run.fail(f"sky step {step.number} {step.kind.name}: {traceback.format_exc()}")
    else:
        run.counts[step.kind.name] = run.counts.get(step.kind.name, 0) + 1
        told(f"ok: {said}")


async def _end_pilot(run: Run, state: sky.Sky) -> None:
    if state.pilot is not None:
        try:
            await sky.pilot_end(state)
        except WrongError as error:
            run.fail(f"sky: {error}")
    state.pilot = None


async def work_script(run: Run, box: Box) -> None:
    """The steps that were asked for, one after the other."""
    state = sky.Sky(run.world, [box])
    try:
        for step in script_steps(run.options.seed, run.options.script):
            if run.over.is_set():
                return
            if step.kind.name in _DO:
                await one_step(run, "w0", step, Context(run.world, box, random.Random(step.seed)))
            else:
                state.rng = random.Random(step.seed)
                await _one_sky_step(run, step, state)
    finally:
        await _end_pilot(run, state)


async def end_all(run: Run) -> None:
    """Remove everything by the documented commands; nothing may be left, in part even before ``prune``."""
    world = run.world
    listed = (await world.cli("ls", "-q")).text.split()
    dead = {box.name for box in run.boxes if box.state is not State.RUNNING}
    if "early-leftovers" not in world.without:
        places = {entry.partition("/")[0] for entry in leftovers.run_entries(world)}
        if left := sorted(places & dead | places - {box.name for box in run.boxes}):
            run.fail(f"before any prune the run directory still has {', '.join(left)}, which do not live")
    if listed:
        await world.cli("rm", "--force", *listed)
    await leftovers.wait_until(lambda: not leftovers.processes(world), "all processes are gone", 30)
    await world.cli("prune")
    await world.cli("volume", "prune")
    if rows := (await world.cli("ls", "-q")).text.split():
        run.fail(f"rows that were removed are listed: {', '.join(rows)}")
    for line in leftovers.summary(world):
        run.fail(f"left at the end: {line}")
    volumes = sorted(path.name for path in (world.data_dir / "volumes").glob("*"))
    if volumes:
        run.fail(f"volumes that nobody has were pruned, and are there: {', '.join(volumes)}")


async def drive(run: Run) -> None:
    """The run from beginning to end."""
    options = run.options
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: run.fail(f"an exception was lost in the event loop: {_shown(context)}")
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.over.set)
    prepare_guest()
    before: dict[str, str] = {}
    if options.script:
        run.boxes.append(Box(f"c{run.world.mark}-0a"))
        await work_script(run, run.boxes[0])
    else:
        await _warm_up(run)
        before = leftovers.descriptors()
        await _work_side_by_side(run)
    if not run.failures or options.keep_going:
        try:
            await end_all(run)
        except WrongError as error:
            run.fail(f"at the end: {error}")
    if not options.script:
        await _same_descriptors(run, before)


async def _work_side_by_side(run: Run) -> None:
    workers = []
    for worker, slots in enumerate(share(run.options.live, run.options.workers)):
        boxes = [Box(f"c{run.world.mark}-{worker}{'abcde'[slot]}") for slot in range(slots)]
        run.boxes += boxes
        workers.append(asyncio.create_task(work(run, worker, boxes)))
    heaven = asyncio.create_task(work_sky(run, run.boxes))
    over = asyncio.create_task(run.over.wait())
    done = asyncio.gather(*workers)
    either: set[asyncio.Future[Any]] = {over, done}
    await asyncio.wait(either, timeout=run.options.seconds, return_when=asyncio.FIRST_COMPLETED)
    run.over.set()
    async with run.moved:
        run.moved.notify_all()
    await asyncio.gather(done, heaven, over)


async def _warm_up(run: Run) -> None:
    """What is opened or made once is made now."""
    name = f"c{run.world.mark}-warm"
    async with await Sandbox.create(name, memory=128) as sandbox:
        await sandbox.exec(["true"])
        await sandbox.balloon.get()
    await run.world.cli("version")


async def _same_descriptors(run: Run, before: dict[str, str]) -> None:
    """A program that has used the SDK for long has open what it had before."""
    more = {fd: to for fd, to in leftovers.descriptors().items() if fd not in before}
    if more:
        run.fail(f"descriptors that this program has open now, and had not: {more}")


def _shown(context: dict[str, Any]) -> str:
    error = context.get("exception")
    if error is None:
        return str(context.get("message"))
    return "".join(traceback.format_exception(error))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="replays what was done with this seed (default: a random one)"
    )
    parser.add_argument(
        "--seconds", type=float, default=600, help="how long (default: 600); then what is begun ends"
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="end each worker after so many steps, if that is sooner"
    )
    parser.add_argument("--script", default="", help="do these steps, with commas, to one sandbox, and end")
    parser.add_argument("--workers", type=int, default=3, help="how many work side by side (default: 3)")
    parser.add_argument(
        "--live", type=int, default=4, help="how many sandboxes at most live at once (default: 4)"
    )
    parser.add_argument(
        "--without", default="", help=f"groups to leave out, with commas: {', '.join((*GROUPS, *PARTS))}"
    )
    parser.add_argument("--only", default="", help="leave out all groups but these and 'life'")
    parser.add_argument("--freeze", type=float, default=30, help="the longest freeze (default: 30 s)")
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after a failure, and tell all at the end"
    )
    options = parser.parse_args(argv)
    options.script = tuple(filter(None, options.script.split(",")))
    if unknown := set(options.script) - {kind.name for kind in (*KINDS, *SKY)}:
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    options.without = frozenset(filter(None, options.without.split(",")))
    only = frozenset(filter(None, options.only.split(",")))
    if unknown := (options.without | only) - {*GROUPS, *PARTS}:
        parser.error(f"unknown groups: {', '.join(sorted(unknown))}")
    if only:
        options.without |= frozenset(GROUPS) - only - NEEDED
    if options.without & NEEDED or not 1 <= options.workers <= options.live <= 5 * options.workers:
        parser.error("'life' is needed, and each worker has one to five sandboxes")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def replay(options: argparse.Namespace) -> str:
    """The command that does the same again."""
    words = [f"python -m tests.chaos --seed {options.seed}"]
    if options.script:
        words.append(f"--script {','.join(options.script)}")
    else:
        words.append(f"--workers {options.workers} --live {options.live} --seconds {options.seconds:g}")
    if options.steps:
        words.append(f"--steps {options.steps}")
    if options.without:
        words.append(f"--without {','.join(sorted(options.without))}")
    if options.freeze != 30:
        words.append(f"--freeze {options.freeze:g}")
    return " ".join(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 if nothing went wrong, 1 if something did."""
    options = parse(argv)
    world = World.make(without=options.without, longest_freeze_s=options.freeze)
    if not options.without & {"small-disk", "disk-full"}:
        world.small_disk = sky.mount_state(world)
    path = world.root / "chaos.log"
    with path.open("w") as file:
        log = Log(sys.stdout, file)
        log.line(f"seed {options.seed}, in {world.root}; replay: {replay(options)}")
        run = Run(options, world, log)
        try:
            asyncio.run(drive(run))
        finally:
            leftovers.end_all_processes(world)
            if world.small_disk:
                sky.unmount_state(world)
        return _conclude(run)


def _conclude(run: Run) -> int:
    done = ", ".join(f"{number} {name}" for name, number in sorted(run.counts.items()))
    print(f"\n{sum(run.counts.values())} steps: {done}")
    if not run.failures:
        run.world.remove()
        print(f"nothing went wrong, and nothing is left; seed {run.options.seed}")
        return 0
    print(f"\nThe last {len(run.log.last)} lines:")
    for line in run.log.last:
        print(f"  {line}")
    for who, what in run.log.under_way.items():
        print(f"  under way: {who} {what}")
    print(f"\n{len(run.failures)} things went wrong:")
    for failure in run.failures:
        print(f"- {failure[:4000]}")
    print(f"\nseed {run.options.seed}; its files are in {run.world.root}\nreplay: {replay(run.options)}")
    sys.stdout.flush()
    return 1
