"""Resume, fork, snapshot and pool, compared with a cold start of bare QEMU.

One process measures all arms, one after the other in each round, through the SDK. Some 100 MiB of the guest are not
zero. The size of snapshots is compared with what the host held for the guest before, for another guest whose caches
have a file that it has written.
"""

from __future__ import annotations

import time

from ballonet import Pool, Sandbox, Snapshots
from ballonet.guest.bundle import prepare_guest
from ballonet.host.proc import read_resident
from bench.boot import bare
from bench.common import Arms, options_parser, private_directories, report, run_ballonet, timed

#: Random bytes in the guest's memory (MiB), so that they are neither zero nor equal.
FILL_MIB = 48
#: The file in the caches of the guest whose snapshots are compared by size (MiB).
CACHED_MIB = 120
#: A waiting sandbox is taken this many times in a round.
TAKES = 3
FORKS = 10
SNAPSHOT = "bench-saved"


def guest_mib(box: Sandbox) -> float:
    """What the host holds for the guest's RAM."""
    resident = read_resident(box.engine_pid)
    assert resident is not None
    return float(resident.guest_ram_mib)


def run_true(box: Sandbox) -> None:
    assert box.exec(["true"]).returncode == 0


def resume(name: str) -> float:
    """Seconds to resume a paused sandbox, to the exit of its next command."""
    run_ballonet("pause", name)
    box = Sandbox.get(name)
    began = time.perf_counter()
    box.resume()
    run_true(box)
    return time.perf_counter() - began


def fork(box: Sandbox, count: int) -> float:
    """Seconds to fork a sandbox, to the exit of a command in each fork."""
    began = time.perf_counter()
    forks = box.fork(*(f"fork-{number}" for number in range(count)))
    for one in forks:
        run_true(one)
    took_s = time.perf_counter() - began
    for one in forks:
        one.close()
    return took_s


def sizes(memory: Arms) -> None:
    """Saves a guest with caches, with and without a trim. Each has other caches: the first save of a round may drop
    them."""
    with Sandbox.create("cached", memory="512M", disk="512M") as box:
        for arm, trim in (("snapshot --no-trim", False), ("snapshot", True)):
            filled = box.shell(f"head -c {CACHED_MIB << 20} /dev/urandom > /disk/x && sync")
            assert filled.returncode == 0, filled.stderr
            if trim:
                memory["resident before"].append(guest_mib(box))
            snapshot = box.snapshot(SNAPSHOT, trim=trim)
            memory[arm].append(snapshot.state_path.stat().st_size / 2**20)
            Snapshots.remove(SNAPSHOT)


def main() -> None:
    rounds = options_parser(__doc__, rounds=5).parse_args().rounds
    prepare_guest()
    wall: Arms = {"bare QEMU": [], "resume": [], "one fork": [], f"{FORKS} forks at once": [], "take()": []}
    memory: Arms = {"resident before": [], "snapshot": [], "snapshot --no-trim": []}
    stops: Arms = {"stopped for a snapshot": []}
    with private_directories("saved"):
        box = Sandbox.create("parent", memory="512M", detached=True)
        box.shell(
            f"mount -o remount,size=80% /dev/shm; dd if=/dev/urandom of=/dev/shm/x bs=1M count={FILL_MIB}"
        )
        with Pool(size=2, memory="512M") as pool:
            pool.fill()
            for _ in range(rounds):
                wall["bare QEMU"].append(bare())
                sizes(memory)
                snapshot = box.snapshot(SNAPSHOT)
                stops["stopped for a snapshot"].append(snapshot.readable().stopped_s * 1000)
                Snapshots.remove(SNAPSHOT)
                wall["one fork"].append(fork(box, 1))
                wall[f"{FORKS} forks at once"].append(fork(box, FORKS))
                wall["resume"].append(resume("parent"))
                for _ in range(TAKES):
                    pool.fill()
                    with timed(wall["take()"]):
                        taken = pool.take()
                    taken.close()
        Sandbox.remove("parent", force=True)
    report("saved", wall, unit="s", base="bare QEMU", note="to the exit of the first command")
    report("saved-stop", stops, unit="ms", base="stopped for a snapshot", note="of a guest that runs on")
    report("saved-size", memory, unit="MiB", base="resident before", note=f"{CACHED_MIB} MiB of files")


if __name__ == "__main__":
    main()
