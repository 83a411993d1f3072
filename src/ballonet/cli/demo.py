"""``ballonet demo``: boots a sandbox, uses its memory, reclaims it, and shows what the host got back."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestError, HostError
from ballonet.cli.progress import report_progress
from ballonet.control.backend import BalloonSnapshot, Stats
from ballonet.control.client import Client
from ballonet.metrics.model import SandboxSample, sample_of
from ballonet.sdk.sandbox import Sandbox, random_name
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import Accel

CEILING_MIB, INITIAL_MIB, FLOOR_MIB = 1024, 512, 256
#: How much memory the demo's guest program touches before it exits: well over half of the ceiling.
TOUCH_MIB = 640
#: How often the progress line and the plot's samples are taken (seconds).
SAMPLE_S = 0.25
_WAIT_S = 120.0


@dataclass(frozen=True)
class Row:
    """One line of the table. Sizes are MiB, ``seconds`` is the time until the target was reached; ``None``: unknown."""

    step: str
    requested: int
    effective: int
    actual: int | None
    available: int | None
    resident: int | None
    seconds: float | None
    state: str


_COLUMNS = ("step", "requested", "effective", "actual", "available", "resident", "seconds", "state")
_HEADINGS = (
    "",
    "requested",
    "effective",
    "actual",
    "guest avail.",
    "guest RAM on host",
    "converged in",
    "state",
)
_WIDTHS = (30, 9, 9, 6, 12, 17, 12, 13)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accel", choices=list(map(str, Accel)), default="auto", help="KVM or emulation")
    parser.add_argument(
        "--plot", metavar="FILE.png", type=Path, help="also plot the memory over time (requires matplotlib)"
    )


def run(options: argparse.Namespace) -> int:
    from ballonet.guest.bundle import prepare_guest

    if options.plot is not None:
        from ballonet.metrics.plotting import check_can_draw

        check_can_draw(options.plot, "--plot")
    prepare_guest(report=report_progress)
    config = SandboxConfig(
        name=random_name("demo"),
        memory_mib=CEILING_MIB,
        balloon_initial_mib=INITIAL_MIB,
        balloon_min_mib=FLOOR_MIB,
        accel=options.accel,
    )
    return asyncio.run(_Demo(config, options.plot).go())


class _Demo:
    def __init__(self, config: SandboxConfig, plot: Path | None) -> None:
        self._config = config
        self._plot = plot
        self._samples: list[SandboxSample] = []
        self._waiting_for: str | None = None
        self._sandbox: Sandbox
        self._client: Client

    async def go(self) -> int:
        print(
            f"Booting a sandbox: ceiling {CEILING_MIB} MiB, {INITIAL_MIB} MiB at boot, floor {FLOOR_MIB} MiB."
        )
        async with AsyncExitStack() as stack:
            self._sandbox = await Sandbox.create(self._config)
            stack.push_async_callback(self._sandbox.kill)
            socket = self._sandbox.control_socket
            if socket is None:
                raise HostError("the demo's sandbox has no control socket")
            print(f"Booted in {self._sandbox.boot_s:.1f} s. Control socket: {socket}\n")
            print(_line(_HEADINGS))
            self._client = await stack.enter_async_context(await Client.connect(socket))
            sampler = await stack.enter_async_context(await Client.connect(socket))
            sampling = asyncio.create_task(self._sample(sampler))
            stack.callback(sampling.cancel)
            verdict = await self._play()
            if self._plot is not None:
                from ballonet.metrics.plotting import draw

                draw([self._samples], self._plot, from_start=True)
        self._clear_progress()
        print(f"\n{verdict}")
        if self._plot is not None:
            print(f"plot written to {self._plot}")
        return 0

    async def _play(self) -> str:
        await self._move("boot at initial", INITIAL_MIB)
        await self._move("grow to the ceiling", CEILING_MIB)
        before = await self._client.stats()
        await self._touch()
        peak = await self._row(f"touched {TOUCH_MIB} MiB, freed it")
        shrunk = await self._move("shrink below the floor", 100)
        await self._move("grow again", 768)
        await self._touch(400)
        await self._row("touched 400 MiB again")
        untouched = before.host.guest_ram_mib
        if peak.resident is None or shrunk.resident is None or untouched is None:
            return "The host's memory accounting could not be read: how much it got back is unknown."
        got, cost = peak.resident - shrunk.resident, peak.resident - untouched
        return (
            f"The host got back {got} of {cost} MiB that the guest had touched and freed "
            f"(guest RAM on the host: {untouched} → {peak.resident} → {shrunk.resident} MiB)."
        )

    async def _move(self, step: str, target_mib: int) -> Row:
        """Set a target through the control socket, wait until it is reached, and print the row."""
        self._waiting_for = f"{step}: target {target_mib} MiB"
        started = time.monotonic()
        reply = await self._client.set(target_mib, wait=True, timeout_s=_WAIT_S)
        return await self._row(step, time.monotonic() - started, requested=reply.requested_mib)

    async def _touch(self, mib: int = TOUCH_MIB) -> None:
        """Run a guest program that fills that much memory and exits."""
        self._waiting_for = f"a guest program touches {mib} MiB"
        done = await self._sandbox.exec(["dd", "if=/dev/zero", "of=/dev/null", f"bs={mib}M", "count=1"])
        if done.returncode != 0:
            raise GuestError(
                f"dd in the guest exited with status {done.returncode}: {done.stderr.decode()[-300:]}"
            )

    async def _row(self, step: str, seconds: float | None = None, *, requested: int | None = None) -> Row:
        balloon, stats = await self._client.get(), await self._client.stats()
        self._samples.append(self._sampled(balloon, stats))
        row = Row(
            step=step,
            requested=balloon.requested_mib if requested is None else requested,
            effective=balloon.target_mib,
            actual=balloon.actual_mib,
            available=stats.guest.available_mib,
            resident=stats.host.guest_ram_mib,
            seconds=seconds,
            state=balloon.state,
        )
        self._clear_progress()
        print(_line(tuple(_show(getattr(row, column)) for column in _COLUMNS)), flush=True)
        return row

    async def _sample(self, client: Client) -> None:
        """Take the samples for the plot, and update the progress line."""
        while True:
            balloon, stats = await client.get(), await client.stats()
            self._samples.append(self._sampled(balloon, stats))
            if self._waiting_for is not None and sys.stdout.isatty():
                ram = _show(stats.host.guest_ram_mib)
                line = f"  … {self._waiting_for}: actual {_show(balloon.actual_mib)}, guest RAM on host {ram} MiB"
                print(f"\r\x1b[K{line[:100]}", end="", flush=True)
            await asyncio.sleep(SAMPLE_S)

    def _sampled(self, balloon: BalloonSnapshot, stats: Stats) -> SandboxSample:
        return sample_of(
            name=self._config.name,
            run_id=None,
            at=time.time(),
            balloon=balloon,
            stats=stats,
            ceiling_mib=balloon.ceiling_mib,
        )

    def _clear_progress(self) -> None:
        self._waiting_for = None
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")


def _show(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if isinstance(value, float) else str(value)


def _line(cells: tuple[str, ...]) -> str:
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])
