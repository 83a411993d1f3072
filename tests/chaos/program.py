"""The program: runs workers concurrently until the time is up, removes everything, and checks what is left."""

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
from ballonet.machine.launch import expect_starts
from ballonet.sdk.sandbox import Sandbox
from tests.chaos import host_steps, leftovers
from tests.chaos.context import Context
from tests.chaos.log import Log
from tests.chaos.model import Box, SkippedError, State, WrongError
from tests.chaos.plan import (
    GROUPS,
    HOST_KINDS,
    KINDS,
    NEEDED,
    Step,
    plan_host_steps,
    plan_script,
    share,
    steps,
)
from tests.chaos.steps import STEPS
from tests.chaos.testbed import Testbed
from tests.vm.processes import descriptors

#: Parts of steps and checks that ``--without`` can leave out, in addition to groups.
PARTS = ("early-leftovers", "hard-cap", "small-disk")


@dataclass
class Run:
    """One run: its options, the workers' common state, and failures."""

    options: argparse.Namespace
    testbed: Testbed
    log: Log
    boxes: list[Box] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    #: Number of steps that workers have done; host steps wait for it.
    done: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    counts: dict[str, int] = field(default_factory=dict)

    def fail(self, what: str) -> None:
        self.failures.append(what)
        self.log.line(f"FAILED {what[:4000]}")
        if not self.options.keep_going:
            self.over.set()


async def work(run: Run, worker: int, boxes: list[Box]) -> None:
    """Do the steps of one worker until the time is up."""
    who = f"w{worker}"
    for step in steps(run.options.seed, worker, len(boxes), run.testbed.without):
        if run.over.is_set() or (run.options.steps and step.number > run.options.steps):
            return
        box = boxes[step.slot]
        ctx = Context(run.testbed, box, random.Random(step.seed))
        async with run.testbed.step_lock.shared():
            if run.over.is_set():
                return
            await one_step(run, who, step, ctx)
        async with run.moved:
            run.done += 1
            run.moved.notify_all()


async def one_step(run: Run, who: str, step: Step, ctx: Context) -> None:
    """Do one step and log it; record its failure."""
    started = time.monotonic()
    name = step.kind.name
    label = ctx.box.name
    run.log.begin(who, name, label)

    def log_result(result: str) -> None:
        run.log.end(who, name, label, result, time.monotonic() - started)

    try:
        await ctx.bring(step.kind.needs)
        details = await STEPS[name](ctx)
    except SkippedError as skipped:
        log_result(f"skipped: {skipped}")
    except (WrongError, BallonetError) as error:
        log_result("FAILED")
        words = f"{type(error).__name__}: {error}" if isinstance(error, BallonetError) else str(error)
        run.fail(f"{who} step {step.number} {name} {label}: {words}")
        await _give_up(run, ctx)
    except Exception:
        log_result("FAILED")
        run.fail(f"{who} step {step.number} {name} {label}: {traceback.format_exc()}")
        await _give_up(run, ctx)
    else:
        run.counts[name] = run.counts.get(name, 0) + 1
        log_result(f"ok{': ' + details if details else ''}")


async def _give_up(run: Run, ctx: Context) -> None:
    if run.options.keep_going:
        try:
            await ctx.forget()
        except WrongError as error:
            run.log.line(f"       cannot be removed either: {error}")


async def work_on_host(run: Run, boxes: list[Box]) -> None:
    """Do host steps between the workers' steps."""
    state = host_steps.HostState(run.testbed, boxes)
    seen = 0
    try:
        for step in plan_host_steps(run.options.seed, run.testbed.without):
            seen += step.slot
            async with run.moved:
                await run.moved.wait_for(lambda: run.done >= seen or run.over.is_set())  # noqa: B023
            if run.over.is_set():
                return
            seen = run.done
            state.rng = random.Random(step.seed)
            gate = (
                run.testbed.step_lock.exclusive()
                if step.kind.name in host_steps.ALONE
                else contextlib.nullcontext()
            )
            async with gate:
                await _one_host_step(run, step, state)
    finally:
        await _end_pilot(run, state)


async def _one_host_step(run: Run, step: Step, state: host_steps.HostState) -> None:
    started = time.monotonic()
    run.log.begin("host", step.kind.name, "all")

    def log_result(result: str) -> None:
        run.log.end("host", step.kind.name, "all", result, time.monotonic() - started)

    try:
        await host_steps.check_pilot(state)
        details = await host_steps.HOST_STEPS[step.kind.name](state)
    except SkippedError as skipped:
        log_result(f"skipped: {skipped}")
    except (WrongError, BallonetError) as error:
        log_result("FAILED")
        run.fail(f"host step {step.number} {step.kind.name}: {error}")
    except Exception:
        log_result("FAILED")
        run.fail(f"host step {step.number} {step.kind.name}: {traceback.format_exc()}")
    else:
        run.counts[step.kind.name] = run.counts.get(step.kind.name, 0) + 1
        log_result(f"ok: {details}")


async def _end_pilot(run: Run, state: host_steps.HostState) -> None:
    if state.pilot is not None:
        try:
            await host_steps.pilot_end(state)
        except WrongError as error:
            run.fail(f"host: {error}")
    state.pilot = None


async def work_script(run: Run, box: Box) -> None:
    """Do the steps of ``--script``."""
    state = host_steps.HostState(run.testbed, [box])
    try:
        for step in plan_script(run.options.seed, run.options.script):
            if run.over.is_set():
                return
            if step.kind.name in STEPS:
                await one_step(run, "w0", step, Context(run.testbed, box, random.Random(step.seed)))
            else:
                state.rng = random.Random(step.seed)
                await _one_host_step(run, step, state)
    finally:
        await _end_pilot(run, state)


async def end_all(run: Run) -> None:
    """Remove everything with the documented commands, and check that nothing is left, partly even before ``prune``."""
    testbed = run.testbed
    listed = (await testbed.cli("ls", "-q")).text.split()
    dead = {box.name for box in run.boxes if box.state is not State.RUNNING}
    if "early-leftovers" not in testbed.without:
        places = {entry.partition("/")[0] for entry in leftovers.run_entries(testbed)}
        if left := sorted(places & dead | places - {box.name for box in run.boxes}):
            run.fail(f"before a prune the run directory has entries of ended sandboxes: {', '.join(left)}")
    if listed:
        await testbed.cli("rm", "--force", *listed)
    await leftovers.wait_until(lambda: not leftovers.processes(testbed), "all processes are gone", 30)
    await testbed.cli("prune")
    await testbed.cli("volume", "prune")
    if rows := (await testbed.cli("ls", "-q")).text.split():
        run.fail(f"removed sandboxes are listed: {', '.join(rows)}")
    for line in leftovers.summary(testbed):
        run.fail(f"left at the end: {line}")
    volumes = sorted(path.name for path in (testbed.data_dir / "volumes").glob("*"))
    if volumes:
        run.fail(f"unused volumes exist after a prune: {', '.join(volumes)}")


async def drive(run: Run) -> None:
    """The whole run."""
    options = run.options
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: run.fail(f"unhandled exception in the event loop: {_shown(context)}")
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.over.set)
    prepare_guest()
    before: dict[str, str] = {}
    if options.script:
        run.boxes.append(Box(f"c{run.testbed.mark}-0a"))
        await work_script(run, run.boxes[0])
    else:
        await _warm_up(run)
        before = descriptors()
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
        boxes = [Box(f"c{run.testbed.mark}-{worker}{'abcde'[slot]}") for slot in range(slots)]
        run.boxes += boxes
        workers.append(asyncio.create_task(work(run, worker, boxes)))
    host_task = asyncio.create_task(work_on_host(run, run.boxes))
    over = asyncio.create_task(run.over.wait())
    done = asyncio.gather(*workers)
    either: set[asyncio.Future[Any]] = {over, done}
    await asyncio.wait(either, timeout=run.options.seconds, return_when=asyncio.FIRST_COMPLETED)
    run.over.set()
    async with run.moved:
        run.moved.notify_all()
    await asyncio.gather(done, host_task, over)


async def _warm_up(run: Run) -> None:
    """Open and create what is needed once, before descriptors are counted."""
    name = f"c{run.testbed.mark}-warm"
    async with await Sandbox.create(name, memory=128) as sandbox:
        await sandbox.exec(["true"])
        await sandbox.balloon.get()
    expect_starts(2)  # the fork server, which the second start would get
    await run.testbed.cli("version")


async def _same_descriptors(run: Run, before: dict[str, str]) -> None:
    """Check that long use of the SDK does not leave file descriptors open."""
    more = {fd: to for fd, to in descriptors().items() if fd not in before}
    if more:
        run.fail(f"file descriptors left open: {more}")


def _shown(context: dict[str, Any]) -> str:
    error = context.get("exception")
    if error is None:
        return str(context.get("message"))
    return "".join(traceback.format_exception(error))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay the steps of this seed (default: random)")
    parser.add_argument(
        "--seconds", type=float, default=600, help="duration; steps in progress are completed (default: 600)"
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="end each worker after this many steps (default: no limit)"
    )
    parser.add_argument("--script", default="", help="do these comma-separated steps with one sandbox")
    parser.add_argument("--workers", type=int, default=3, help="number of concurrent workers (default: 3)")
    parser.add_argument(
        "--live", type=int, default=4, help="maximum number of running sandboxes (default: 4)"
    )
    parser.add_argument(
        "--without",
        default="",
        help=f"comma-separated groups to leave out: {', '.join((*GROUPS, *PARTS))}",
    )
    parser.add_argument("--only", default="", help="comma-separated groups to use, in addition to 'life'")
    parser.add_argument("--freeze", type=float, default=30, help="longest freeze in seconds (default: 30)")
    parser.add_argument(
        "--keep-going", action="store_true", help="continue after failures and report all at the end"
    )
    options = parser.parse_args(argv)
    options.script = tuple(filter(None, options.script.split(",")))
    if unknown := set(options.script) - {kind.name for kind in (*KINDS, *HOST_KINDS)}:
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    options.without = frozenset(filter(None, options.without.split(",")))
    only = frozenset(filter(None, options.only.split(",")))
    if unknown := (options.without | only) - {*GROUPS, *PARTS}:
        parser.error(f"unknown groups: {', '.join(sorted(unknown))}")
    if only:
        options.without |= frozenset(GROUPS) - only - NEEDED
    if options.without & NEEDED or not 1 <= options.workers <= options.live <= 5 * options.workers:
        parser.error("'life' cannot be left out, and each worker needs one to five sandboxes")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def replay(options: argparse.Namespace) -> str:
    """The command line that replays the run."""
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
    """Run the program; returns 0 if there was no failure, otherwise 1."""
    options = parse(argv)
    testbed = Testbed.make(without=options.without, longest_freeze_s=options.freeze)
    if not options.without & {"small-disk", "disk-full"}:
        testbed.small_disk = host_steps.mount_state(testbed)
    path = testbed.root / "chaos.log"
    with path.open("w") as file:
        log = Log(sys.stdout, file)
        log.line(f"seed {options.seed}, in {testbed.root}; replay: {replay(options)}")
        run = Run(options, testbed, log)
        try:
            asyncio.run(drive(run))
        finally:
            leftovers.end_all_processes(testbed)
            if testbed.small_disk:
                host_steps.unmount_state(testbed)
        return _conclude(run)


def _conclude(run: Run) -> int:
    done = ", ".join(f"{number} {name}" for name, number in sorted(run.counts.items()))
    print(f"\n{sum(run.counts.values())} steps: {done}")
    if not run.failures:
        run.testbed.remove()
        print(f"no failures, nothing left behind; seed {run.options.seed}")
        return 0
    print(f"\nThe last {len(run.log.last)} lines:")
    for line in run.log.last:
        print(f"  {line}")
    for who, what in run.log.under_way.items():
        print(f"  in progress: {who} {what}")
    print(f"\n{len(run.failures)} failures:")
    for failure in run.failures:
        print(f"- {failure[:4000]}")
    print(f"\nseed {run.options.seed}; files are in {run.testbed.root}\nreplay: {replay(run.options)}")
    sys.stdout.flush()
    return 1
