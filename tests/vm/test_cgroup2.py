"""Limits on a host with cgroup version 2 and no systemd. The host is a real guest; its kernel is asked."""

from __future__ import annotations

from pathlib import Path

import ballonet
from ballonet.sdk.sandbox import Sandbox

#: In a leaf that has another process, too: the memory controller cannot be given to children there (EBUSY).
_SCRIPT = """
set -e
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
grep -qw memory /sys/fs/cgroup/cgroup.controllers
mkdir -p /sys/fs/cgroup/a/leaf
sleep 600 >/dev/null 2>&1 &
echo $! >/sys/fs/cgroup/a/leaf/cgroup.procs
echo $$ >/sys/fs/cgroup/a/leaf/cgroup.procs
PYTHONPATH=/host python3 - <<'EOF'
import os
from ballonet.host.cgroup import open_group, prune_groups
group = open_group("ballonet-test")
assert group.set_limit(64 << 20)
directory = group.procs_file.parent
print(directory, (directory / "memory.max").read_text().strip())
pid = os.fork()
if pid == 0:
    group.procs_file.write_text("0")
    bytearray(200 << 20)
    os._exit(0)
print(os.waitpid(pid, 0)[1], group.kills() > 0)
print(prune_groups("ballonet-"), directory.exists())
os.close(group._lock)  # as if its owner had ended
print(prune_groups("ballonet-"), directory.exists())
EOF
"""

#: Both limits have one group. Two processes would use two processors, or all of one.
_CPU_SCRIPT = """
set -e
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
PYTHONPATH=/host python3 - <<'EOF'
import os, time
from ballonet.host.cgroup import open_cpu_group, open_group
memory = open_group("ballonet-both")
assert memory.set_limit(64 << 20)
group = open_cpu_group("ballonet-both", beside=memory)
group.set_quota(20)
directory = group.procs_file.parent
print(directory == memory.procs_file.parent, (directory / "cpu.max").read_text().strip())
burners = []
for _ in range(2):
    if not (pid := os.fork()):
        group.procs_file.write_text("0")
        while True:
            pass
    burners.append(pid)
def stat():
    return {key: int(value) for key, value in map(str.split, (directory / "cpu.stat").read_text().splitlines())}
began = time.monotonic()
while stat()["nr_throttled"] < 20:
    time.sleep(0.1)
used = stat()["usage_usec"]
print(used / 1e6 <= 0.2 * 1.25 * (time.monotonic() - began) + 0.1)
group.set_quota(None)
print((directory / "cpu.max").read_text().strip())
for pid in burners:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
group.remove()
memory.remove()
print(directory.exists())
killed = open_cpu_group("ballonet-again")
killed.set_quota(10)
directory = open_group("ballonet-again").procs_file.parent
print((directory / "cpu.max").read_text().strip())
EOF
"""


async def test_both_limits_hold_in_one_group_of_version_2(run_directory: Path, debian_image: str) -> None:
    source = Path(ballonet.__file__).parent.parent
    async with await Sandbox.create(
        "cgroup2-cpu", image=debian_image, memory="768M", volumes=[f"{source}:/host:ro"]
    ) as box:
        done = await box.shell(_CPU_SCRIPT)
        assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        "True 20000 100000",
        "True",
        "max 100000",
        "False",
        "max 100000",
    ]


async def test_root_gets_a_group_beside_a_leaf_that_has_other_processes(
    run_directory: Path, debian_image: str
) -> None:
    source = Path(ballonet.__file__).parent.parent
    async with await Sandbox.create(
        "cgroup2", image=debian_image, memory="768M", volumes=[f"{source}:/host:ro"]
    ) as box:
        done = await box.shell(_SCRIPT)
        assert done.returncode == 0, done.stderr.decode()
        place, killed, kept, pruned = done.stdout.decode().splitlines()
    path, limit = place.split()
    assert path in ("/sys/fs/cgroup/a/ballonet-test", "/sys/fs/cgroup/ballonet-test")
    assert int(limit) == (64 << 20) + (32 << 20)
    assert killed == "9 True", "the limit is the kernel's"
    assert kept == "[] True"
    assert pruned == "['ballonet-test'] False"
