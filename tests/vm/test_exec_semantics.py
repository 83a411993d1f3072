"""How commands start and end in a real guest: its users, streams, limits, names; what they leave, and what is killed.

The agent's part that needs no machine is in tests/unit/test_agent_exec.py."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.errors import GuestCommandError
from ballonet.guest.bundle import GuestBundle, find_busybox
from ballonet.guest.messages import ExitStatus
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.unit import oci

Call = Callable[..., subprocess.CompletedProcess[str]]

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1000:\nextra:x:2000:app\nmore:x:2001:other,app\n"
_APPLETS = (
    "sh id pwd echo cat sleep ls sed mkdir rm mv mkfifo setsid seq head wc ps kill hostname ping yes adduser chmod "
    "stat grep ln tty"
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small image whose working directory is not in it, and which wants to be stopped by SIGUSR1."""
    layout = oci.Layout(tmp_path_factory.mktemp("layout") / "semantics")
    entries = [
        *(oci.entry(name) for name in ("bin", "etc", "root", "home")),
        oci.entry("bin/busybox", find_busybox(os.environ).read_bytes(), mode=0o755),
        *(oci.link(f"bin/{name}", "busybox") for name in _APPLETS.split()),
        oci.entry("etc/passwd", PASSWD.encode()),
        oci.entry("etc/group", GROUP.encode()),
        oci.entry("etc/hosts", b"10.9.8.7 of-the-image\n"),
        oci.entry("home/app", uid=1000, gid=1000),
    ]
    script = "trap 'echo asked; exit 3' USR1; echo ready >/dev/stdout; while :; do sleep 0.1; done"
    config = {
        "Cmd": ["/bin/sh", "-c", script],
        "User": "app",
        "WorkingDir": "/srv/not/there",
        "StopSignal": "SIGUSR1",
        "Env": ["PATH=/bin"],
    }
    layout.add(oci.layer(*entries), config=config)
    return layout.reference()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain(guest: GuestBundle, run_directory: Path) -> AsyncIterator[Sandbox]:
    async with await Sandbox.create(SandboxConfig(name="plain-box", memory_mib=512)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def imaged(guest: GuestBundle, run_directory: Path, image: str) -> AsyncIterator[Sandbox]:
    async with await Sandbox.create("image-box", image=image, memory="320M") as running:
        yield running


async def said(box: Sandbox, script: str, **options: str) -> str:
    done = await box.exec(["sh", "-c", script], **options)  # type: ignore[arg-type]
    assert done.returncode == 0, (script, done)
    return (done.stdout + done.stderr).decode()


BY_NAME = "echo out >/dev/stdout; echo err >/dev/stderr; echo two >/dev/fd/2; cat </dev/stdin"


@pytest.mark.parametrize("user", ["0", "1000:1000"])
async def test_streams_are_opened_by_name_by_any_user(plain: Sandbox, imaged: Sandbox, user: str) -> None:
    for box in (plain, imaged):
        done = await box.exec(["sh", "-c", BY_NAME], user=user, stdin=b"in\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"out\nin\n", b"err\ntwo\n")
        assert await said(box, BY_NAME, user=user) == "out\nerr\ntwo\n"
        tty = 'echo one >/dev/stdout; echo two >/dev/tty; echo three >"$(tty)"'
        async with await box.exec_stream(["sh", "-c", tty], user=user, tty=True) as process:
            out, _ = await process.communicate()
        assert out.split() == [b"one", b"two", b"three"]


async def test_users_that_were_added_or_changed_in_the_guest_are_known(imaged: Sandbox) -> None:
    show = 'echo $(id -u) $(id -G) "$HOME"'
    assert await said(imaged, show) == "1000 1000 2000 2001 /home/app\n"
    assert await said(imaged, show, user="root") == "0 0 /root\n"
    assert await said(imaged, show, user="1000") == "1000 1000 2000 2001 /home/app\n"
    assert await said(imaged, show, user="app:more") == "1000 2001 /home/app\n"
    assert await said(imaged, show, user="7777") == "7777 0 /\n"
    change = (
        "sed -i s/app:x:1000:1000/app:x:1500:1500/ /etc/passwd; echo dev:x:1001:1001::/home/dev:/bin/sh >>/etc/passwd;"
        "echo team:x:3000:dev >>/etc/group"
    )
    await said(imaged, change, user="0")
    try:
        assert await said(imaged, show) == "1500 1500 2000 2001 /home/app\n"
        assert await said(imaged, show, user="dev") == "1001 1001 3000 /home/dev\n"
        assert await said(imaged, show, user=":team") == "0 3000 /root\n"
        with pytest.raises(
            GuestCommandError, match="unable to find user gone: no matching entry in passwd file"
        ):
            await imaged.exec(["id"], user="gone")
        with pytest.raises(
            GuestCommandError, match="unable to find group gone: no matching entry in group file"
        ):
            await imaged.exec(["id"], user="app:gone")
    finally:
        await said(imaged, f"printf '{PASSWD}' >/etc/passwd; printf '{GROUP}' >/etc/group", user="0")


@pytest.mark.parametrize(
    "spoil",
    [
        "rm /etc/passwd /etc/group",
        "rm /etc/passwd; mkfifo /etc/passwd",
        "rm /etc/passwd; mkdir /etc/passwd",
        "rm /etc/passwd; ln -s /dev/zero /etc/passwd",
        "rm /etc/passwd; ln -s passwd /etc/passwd",
        "head -c 9000000 /dev/zero >/etc/passwd",
        "seq 400000 >/etc/passwd",
        "printf ':::::::\\n+\\nroot\\n#x\\nx:x:none:0::/:\\nx:x:99999999999:0::/:\\n\\n' >/etc/passwd",
    ],
)
async def test_files_of_users_that_are_none_hold_up_nobody(imaged: Sandbox, spoil: str) -> None:
    await said(imaged, spoil, user="0")
    try:
        # Not by id, which reads those files itself.
        show = "sed -n 's/^[UG]id:.\\([0-9]*\\).*/\\1/p' /proc/self/status; echo $HOME"
        assert await said(imaged, show, user="5:6") == "5\n6\n/\n"
        with pytest.raises(GuestCommandError, match="unable to find user app"):
            await imaged.exec(["id"])
    finally:
        restore = f"rm -r /etc/passwd; printf '{PASSWD}' >/etc/passwd; printf '{GROUP}' >/etc/group"
        await said(imaged, restore, user="0")
    assert await said(imaged, "id -u") == "1000\n"


async def test_limits_are_what_servers_ask_for(plain: Sandbox) -> None:
    show = "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -Sc); ulimit -n 1048576 && ulimit -n; cat /proc/self/limits"
    for user in ("0", "1000"):
        lines = (await said(plain, show, user=user)).splitlines()
        assert lines[:2] == ["65536 1048576 0", "1048576"]
        (processes,) = (line for line in lines if line.startswith("Max processes"))
        assert processes.split()[2:4] == ["unlimited", "unlimited"]


async def test_as_many_words_as_linux_takes_run_and_more_are_told(plain: Sandbox) -> None:
    done = await plain.exec(["sh", "-c", "echo $#", "sh", *map(str, range(60_000))])
    assert done.stdout == b"60000\n"
    done = await plain.exec(["sh", "-c", "echo $# ${#20}", "sh", *["x" * 100_000] * 20])
    assert done.stdout == b"20 100000\n"
    done = await plain.exec(["sh", "-c", 'echo "$#[$1]$A"', "sh", "", ""], env={"A": "one\ntwo\n"})
    assert done.stdout == b"2[]one\ntwo\n\n"
    for words in (["x" * (128 << 10)], ["x" * 100_000] * 22):
        with pytest.raises(GuestCommandError, match="argument list too long"):
            await plain.exec(["true", *words])


async def test_what_is_left_in_the_background_lives_and_writes_on(plain: Sandbox) -> None:
    writer = "while :; do echo tick; sleep 5; done & echo pid $!"
    pids = []
    for _ in range(80):
        lines = (await said(plain, writer)).splitlines()
        pids.append(next(line[4:] for line in lines if line.startswith("pid ")))
    # A flood of 20 MB, which nobody takes from the pipes: its end is told by a file that is moved into its place.
    flood = "(trap '' PIPE; head -c 20000000 /dev/zero; echo $? >/tmp/new; mv /tmp/new /tmp/flooded) & :"
    await said(plain, flood)
    assert await said(plain, "until [ -e /tmp/flooded ]; do sleep 0.1; done; cat /tmp/flooded") == "0\n"
    alive = await said(plain, f"kill -0 {' '.join(pids)} && echo all")
    assert alive == "all\n"
    # What ended in the background has been waited for. The writers' own children are theirs, and end all the time.
    zombies = "cat /proc/[0-9]*/stat 2>/dev/null | grep ') Z 1 '"
    waits = f"for i in $(seq 300); do {zombies} >/tmp/zombies || exit 0; sleep 0.1; done; cat /tmp/zombies"
    assert await said(plain, waits) == ""
    await said(plain, f"kill -9 {' '.join(pids)}")
    # Their cgroups are not kept for ever.
    for _ in range(80):
        await said(plain, "sleep 0 & :")
    assert int(await said(plain, "ls -d /sys/fs/cgroup/ballonet/*/ | wc -l")) <= 170


async def test_with_a_terminal_what_is_left_lives_and_writes_on_too(plain: Sandbox) -> None:
    script = (
        # Ignored before it is left: the end of the terminal's leader hangs up whatever has not ignored it yet.
        "trap '' HUP; rm -f /tmp/written;"
        "(head -c 2000000 /dev/zero; echo $? >/tmp/part; mv /tmp/part /tmp/written) & echo left"
    )
    async with await plain.exec_stream(["sh", "-c", script], tty=True) as process:
        await process.communicate()
    assert await said(plain, "until [ -e /tmp/written ]; do sleep 0.1; done; cat /tmp/written") == "0\n"


async def test_kill_ends_daemons_that_the_command_started_and_nothing_else(plain: Sandbox) -> None:
    other = (await said(plain, "sleep 1000 >/dev/null 2>&1 & echo $!")).strip()
    # Orphaned, in a session of its own, with no stream of the command's: a daemon in every respect.
    daemon = "setsid sh -c 'setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!'"
    async with await plain.exec_stream(["sh", "-c", f"{daemon}; echo started; sleep 1000"]) as process:
        out = b""
        while b"started" not in out:
            out += await process.stdout.read()
        pid = out.split()[0].decode()
        assert await said(plain, f"grep PPid /proc/{pid}/status") == "PPid:\t1\n"
        await process.kill()
        assert await process.wait() == ExitStatus(True, signal.SIGKILL)
    await said(plain, f"while kill -0 {pid}; do sleep 0.1; done 2>/dev/null")
    await said(plain, f"kill -0 {other} && kill -9 {other}")


async def test_hundreds_of_commands_that_are_killed_at_once_hold_up_nothing(plain: Sandbox) -> None:
    processes = await asyncio.gather(*(plain.exec_stream(["sleep", "1000"]) for _ in range(300)))
    for process in processes:
        await process.kill()
    assert {await process.wait() for process in processes} == {ExitStatus(True, signal.SIGKILL)}


async def test_an_images_missing_working_directory_is_made(imaged: Sandbox) -> None:
    assert await said(imaged, "pwd; stat -c '%u:%g %a' .") == "/srv/not/there\n0:0 755\n"


async def test_a_working_directory_that_cannot_be_is_named(imaged: Sandbox) -> None:
    with pytest.raises(GuestCommandError, match="the working directory /missing: No such file"):
        await imaged.exec(["pwd"], cwd="/missing")
    with pytest.raises(GuestCommandError, match="the working directory /etc/hosts: Not a directory"):
        await imaged.exec(["pwd"], cwd="/etc/hosts")
    await said(imaged, "chmod 700 /root", user="0")
    with pytest.raises(GuestCommandError, match="the working directory /root: Permission denied"):
        await imaged.exec(["pwd"], cwd="/root")


async def test_a_guest_knows_its_name_and_its_loopback(plain: Sandbox, imaged: Sandbox) -> None:
    for box in (plain, imaged):
        assert await said(box, "hostname; cat /etc/hostname") == f"{box.name}\n{box.name}\n"
        hosts = await said(box, "cat /etc/hosts")
        assert "127.0.0.1\tlocalhost\n::1\tlocalhost" in hosts
        assert "of-the-image" not in hosts
        assert "(127.0.0.1)" in await said(box, "ping -c1 -W5 localhost", user="0")
        await said(box, f"ping -c1 -W5 {box.name}", user="0")
        await said(box, "ping -c1 -W5 ::1", user="0")
        assert await said(box, "head -c 64 /dev/random | wc -c") == "64\n"


def call(*words: str) -> str:
    """Run the command line, which may leave a detached sandbox."""
    command = [sys.executable, "-P", "-m", "ballonet", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (words, done)
    return done.stdout


def test_the_sandboxs_own_command_has_its_user_streams_directory_and_stop_signal(
    guest: GuestBundle, run_directory: Path, image: str
) -> None:
    call("run", "-d", "--name", "own", "--memory", "192M", "--image", image)
    try:
        # The trap is set before it says that it is ready.
        while "ready" not in call("logs", "own"):
            pass
        assert call("exec", "own", "sh", "-c", "id -un; pwd") == "app\n/srv/not/there\n"
        call("stop", "own")
        assert call("logs", "own") == "ready\nasked\n"
        (record,) = json.loads(call("inspect", "own"))
        assert record["exit_code"] == 3
    finally:
        call("rm", "-f", "own")


def test_run_makes_the_directory_it_is_given_and_exec_does_not(ballonet: Call) -> None:
    done = ballonet("run", "--memory", "192M", "-w", "/new/place", "-u", "1000", "--", "pwd")
    assert (done.returncode, done.stdout) == (0, "/new/place\n"), done
    done = ballonet("run", "--memory", "192M", "-w", "/etc/passwd/x", "--", "pwd")
    assert done.returncode == 126
    assert "cannot create the working directory /etc/passwd/x: Not a directory" in done.stderr


async def test_a_command_that_cannot_start_has_the_status_of_a_shell(plain: Sandbox, ballonet: Call) -> None:
    def status(*words: str) -> tuple[int, str]:
        done = ballonet("exec", *words)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    assert status(plain.name, "no-such-command")[0] == 127
    assert status(plain.name, "/etc/passwd")[0] == 126
    code, text = status("-w", "/missing", plain.name, "pwd")
    assert (code, "/missing" in text) == (126, True)
    code, text = status("-u", "nobody-here", plain.name, "id")
    assert (code, "unable to find user nobody-here" in text) == (126, True)
    code, text = status("-u", "a:b:c", plain.name, "id")
    assert (code, "'a:b:c'" in text) == (2, True)
    code, text = status("-e", "A=" + "x" * 100_000, plain.name, "true", *["x" * 100_000] * 15)
    assert (code, text) == (0, "")
    # More than this host's own limit cannot be said in a command line: the rest comes from the environment.
    code, text = status(plain.name, "true", "x" * 131_071, *["y" * 110_000] * 16)
    assert (code, text) == (0, "")
