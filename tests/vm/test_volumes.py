"""Directories of the host in a guest: shared, protected, confined, and noticed when they fail."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.errors import HostError, VolumeInUseError
from ballonet.lifecycle import volumes
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings import named_volumes
from tests.vm.processes import alive, descendants, guest_ram_mib, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Debian 12's virtiofsd needs root")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``data``, ``kept`` (read-only for the guest) and ``secret``, which the guest does not get."""
    directory = tmp_path_factory.mktemp("host, with = and : not").parent / "host, odd = name"
    for name in ("data", "kept", "secret"):
        (directory / name).mkdir(parents=True)
    (directory / "kept/file").write_text("as it was\n")
    (directory / "secret/file").write_text("not for guests\n")
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(guest: object, run_directory: Path, host: Path) -> AsyncIterator[Sandbox]:
    shared = [f"{host}/data:/data", f"{host}/kept:/kept:ro", "cache:/var/cache/named"]
    async with await Sandbox.create("volumes", volumes=shared, tmpfs=["/scratch:32"]) as running:
        yield running
    with Registry.open() as registry:
        volumes.remove(registry, "cache")


async def run(sandbox: Sandbox, script: str, status: int = 0) -> str:
    result = await sandbox.shell(script)
    assert result.returncode == status, result
    return (result.stdout + result.stderr).decode()


async def test_both_sides_see_what_the_other_writes(box: Sandbox, host: Path) -> None:
    (host / "data/from-host").write_text("hello guest\n")
    assert (
        await run(box, "cat /data/from-host; echo hello host > /data/from-guest; mkdir /data/dir")
        == "hello guest\n"
    )
    assert (host / "data/from-guest").read_text() == "hello host\n"
    assert (host / "data/dir").is_dir()
    (host / "data/from-host").write_text("changed\n")
    assert await run(box, "sleep 2; cat /data/from-host") == "changed\n"


async def test_modes_owners_and_links_go_through(box: Sandbox, host: Path) -> None:
    await run(box, "cd /data && echo x > m && chmod 640 m && chown 1234:56 m && ln m hard && ln -s m soft")
    status = (host / "data/m").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid, status.st_nlink) == (0o640, 1234, 56, 2)
    assert (host / "data/soft").readlink() == Path("m")


async def test_read_only_holds_on_the_host_whatever_the_guest_does(box: Sandbox, host: Path) -> None:
    assert "Read-only" in await run(box, "echo x > /kept/new", 1)
    # The guest's root may mount it as it likes: the server is what cannot write.
    await run(box, "mount -o remount,rw /kept")
    for attempt in ("echo x > /kept/new", "echo x >> /kept/file", "rm /kept/file", "chmod 600 /kept/file"):
        assert "Read-only" in await run(box, attempt, 1)
    assert (host / "kept/file").read_text() == "as it was\n"
    assert [path.name for path in (host / "kept").iterdir()] == ["file"]


async def test_no_link_and_no_dots_lead_out_of_a_volume(box: Sandbox, host: Path) -> None:
    """Links made by either side mean places in the guest, and what is above a mount is the guest's."""
    (host / "data/to-secret").symlink_to(host / "secret")
    (host / "data/up").symlink_to("../secret")
    await run(box, f"ln -s '{host}/secret' /data/made-here; ln -s ../../../../../../../../../etc /data/far")
    for path in ("to-secret/file", "up/file", "made-here/file", "../secret/file", "../../secret/file"):
        assert "No such file" in await run(box, f"cat '/data/{path}'", 1)
    assert await run(box, "cat /data/far/hostname") == await run(box, "cat /etc/hostname")
    # What replaces a directory while it is open does not move its holder out either.
    script = "mkdir -p /data/a/b; cd /data/a/b; rm -rf /data/a; ln -s / /data/a; cat ../../secret/file"
    assert "No such file" in await run(box, script, 1)


async def test_a_named_volume_is_in_use_while_its_sandbox_is_there(box: Sandbox) -> None:
    await run(box, "echo kept > /var/cache/named/file")
    with Registry.open() as registry:
        assert [(volume.name, volume.users) for volume in volumes.list_volumes(registry)] == [
            ("cache", ("volumes",))
        ]
        with pytest.raises(VolumeInUseError, match="used by 'volumes'"):
            volumes.remove(registry, "cache")
    assert (named_volumes.path_of("cache") / "file").read_text() == "kept\n"


async def test_a_tmpfs_has_its_size(box: Sandbox) -> None:
    assert await run(box, "df -k /scratch | tail -1 | awk '{print $2}'") == f"{32 * 1024}\n"


async def test_memory_that_a_server_fills_comes_back_too(box: Sandbox, host: Path) -> None:
    """The server writes into the guest's memory: a shrink takes such pages from both processes."""
    (host / "data/big").write_bytes(os.urandom(200 << 20))
    await run(box, "cat /data/big > /dev/null")
    before = guest_ram_mib(box.engine_pid)
    assert (await box.balloon.set(200, wait=True, timeout_s=120)).state == "applied"
    assert guest_ram_mib(box.engine_pid) < before
    (host / "data/big").unlink()
    assert (await box.balloon.set(512, wait=True, timeout_s=120)).state == "applied"


async def test_a_server_that_ends_ends_its_sandbox_with_the_reason(
    guest: object, run_directory: Path, tmp_path: Path
) -> None:
    async with await Sandbox.create("failing", volumes=[f"{tmp_path}:/data"]) as failing:
        servers = [pid for pid in descendants(failing.pid) if "virtiofsd" in _command(pid)]
        assert servers
        reader = await failing.exec_stream(["sh", "-c", "while :; do ls /data; done"])
        os.kill(servers[-1], signal.SIGKILL)
        end = await failing.wait()
        assert end.reason == "volume-failed"
        assert f"{tmp_path}:/data" in end.detail
        reader.abandon()
    wait_until(lambda: not any(map(alive, servers)), "the end of the servers")


async def test_a_guest_that_powers_off_is_no_failure_of_its_volumes(
    guest: object, run_directory: Path, tmp_path: Path
) -> None:
    async with await Sandbox.create("poweroff", volumes=[f"{tmp_path}:/data"]) as box:
        running = await box.exec_stream(["poweroff", "-f"])
        end = await box.wait()
        assert end.reason == "guest-poweroff"
        running.abandon()


async def test_a_server_that_does_not_start_is_told_in_its_own_words(
    guest: object, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "virtiofsd"
    program.write_text("#!/bin/sh\n[ $1 = --help ] && exit 0\necho 'no such right' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("BALLONET_VIRTIOFSD", str(program))
    with pytest.raises(HostError, match=r":/data ended with status 1: no such right"):
        await Sandbox.create("unserved", volumes=[f"{tmp_path}:/data"])


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
