"""The socket's file: what may be replaced, what is never touched, and what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ballonet.base.errors import BindError, BusyError, ConfigError
from ballonet.control.socketfile import ControlSocket, bind_control_socket, check_socket_path

FAKE = Path(__file__).with_name("fake_backend.py")


@contextmanager
def bound(path: Path, mode: int = 0o600) -> Iterator[ControlSocket]:
    control_socket = bind_control_socket(path, mode=mode)
    try:
        yield control_socket
    finally:
        control_socket.close()


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
        abandoned.listen()


def serve_in_a_process(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, FAKE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().startswith("ready")
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)


def test_close_leaves_nothing(tmp_path: Path) -> None:
    with bound(tmp_path / "s"):
        assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "s.lock"]
        assert can_connect(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with bound(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
            assert stat.S_IMODE((tmp_path / "s.lock").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_socket_is_never_wider_than_its_owner_between_bind_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real_bind = socket.socket.bind

    class Spy(socket.socket):
        def bind(self, address: object, /) -> None:
            real_bind(self, address)  # type: ignore[arg-type]
            modes.append(stat.S_IMODE(Path(str(address)).stat().st_mode))

    monkeypatch.setattr(socket, "socket", Spy)
    before = os.umask(0)
    try:
        with bound(tmp_path / "s"):
            pass
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_wider_mode_is_set_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with bound(tmp_path / "s", 0o666):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_live_socket_is_never_stolen(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path):
        with pytest.raises(BusyError, match=str(os.getpid())) as caught:
            bind_control_socket(path)
        assert str(path) in str(caught.value)
        assert can_connect(path)


def test_live_socket_of_another_process_is_never_stolen(tmp_path: Path) -> None:
    path = tmp_path / "s"
    process = serve_in_a_process(path)
    try:
        with pytest.raises(BusyError, match=f"pid {process.pid}"):
            bind_control_socket(path)
        assert can_connect(path)
    finally:
        end(process)


def test_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    process = serve_in_a_process(path)
    process.send_signal(signal.SIGKILL)
    end(process)
    assert path.is_socket() and (tmp_path / "s.lock").exists()
    with bound(path):
        assert can_connect(path)
    assert not list(tmp_path.iterdir())


def test_stale_socket_without_a_lock_is_replaced(tmp_path: Path) -> None:
    leave_stale_socket(tmp_path / "s")
    with bound(tmp_path / "s"):
        assert can_connect(tmp_path / "s")


def test_foreign_listener_is_never_stolen(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(tmp_path / "s"))
        foreign.listen()
        with pytest.raises(BusyError, match="another program is listening"):
            bind_control_socket(tmp_path / "s")
        assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_foreign_datagram_socket_is_never_stolen(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as foreign:
        foreign.bind(str(tmp_path / "s"))
        with pytest.raises(BusyError):
            bind_control_socket(tmp_path / "s")
        assert (tmp_path / "s").is_socket()


@pytest.mark.parametrize(
    "kind", ["file", "directory", "fifo", "link to a file", "dangling link", "link to a socket"]
)
def test_what_is_not_a_socket_is_never_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    other = tmp_path / "other"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link to a file":
            other.write_text("precious")
            path.symlink_to(other)
        case "dangling link":
            path.symlink_to(other)
        case _:
            leave_stale_socket(other)
            path.symlink_to(other)
    before = path.lstat()
    existed = other.exists()
    with pytest.raises(BindError, match="left alone"):
        bind_control_socket(path)
    with pytest.raises(ConfigError, match="left alone"):
        check_socket_path(path)
    assert path.lstat().st_ino == before.st_ino
    assert other.exists() == existed
    if kind == "file":
        assert path.read_text() == "precious"
    assert not (tmp_path / "s.lock").exists()


@pytest.mark.parametrize("content", ["precious", "ballone"])
def test_lock_file_of_somebody_else_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.lock").write_text(content)
    if content == "precious":
        with pytest.raises(BindError, match="not a lock file of ballonet"):
            bind_control_socket(tmp_path / "s")
        assert (tmp_path / "s.lock").read_text() == content
    else:  # cut off while it was written
        with bound(tmp_path / "s"):
            pass


def test_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / "s.lock").symlink_to(tmp_path / "other")
    with pytest.raises(BindError, match=r"s\.lock"):
        bind_control_socket(tmp_path / "s")
    assert (tmp_path / "other").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("", "empty"),
        ("x" * 108, "the maximum for a Unix socket is 107"),
        ("missing/s", "does not exist"),
        ("file/s", "not a directory"),
        ("file/deeper/s", "cannot be used"),
        ("a\0b", "NUL byte"),
        (".", "a directory"),
    ],
)
def test_impossible_path_is_named_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cause: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BindError, match=cause) as bind_error:
        bind_control_socket(name)
    with pytest.raises(ConfigError, match=cause) as config_error:
        check_socket_path(name)
    assert repr(name) in str(bind_error.value) and repr(name) in str(config_error.value)
    assert bind_error.value.hint and config_error.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_longest_possible_path_can_be_bound() -> None:
    base = Path(f"/tmp/ballonet-test-{os.getpid()}")
    base.mkdir(mode=0o700)
    path = base / ("x" * (107 - len(str(base)) - 1))
    try:
        with bound(path):
            assert can_connect(path)
        with pytest.raises(BindError, match="108 bytes"):
            bind_control_socket(f"{path}y")
    finally:
        base.rmdir()


def test_path_is_measured_in_bytes() -> None:
    with pytest.raises(ConfigError, match="bytes"):
        check_socket_path("/tmp/" + "ü" * 52)


def test_directory_without_write_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # root may write anywhere, so the kernel's answer is put in its mouth
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(BindError, match="not writable"):
        bind_control_socket(tmp_path / "s")


def test_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with bound(Path("s")) as control_socket:
        monkeypatch.chdir("elsewhere")
        assert control_socket.is_bound()
    assert not (tmp_path / "s").exists()


def test_close_leaves_what_replaced_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    control_socket = bind_control_socket(path)
    path.unlink()
    path.write_text("somebody else's")
    assert not control_socket.is_bound()
    control_socket.close()
    control_socket.close()
    assert path.read_text() == "somebody else's"


def test_deleted_socket_can_be_bound_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path) as control_socket:
        path.unlink()
        assert not control_socket.is_bound()
        control_socket.rebind().close()
        assert control_socket.is_bound() and can_connect(path)
        with pytest.raises(BusyError):
            bind_control_socket(path)
    assert not list(tmp_path.iterdir())


def test_deleted_lock_is_taken_again_with_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path) as control_socket:
        path.unlink()
        (tmp_path / "s.lock").unlink()
        control_socket.rebind().close()
        with pytest.raises(BusyError):
            bind_control_socket(path)
    assert not list(tmp_path.iterdir())


def test_path_that_another_sandbox_took_is_not_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path) as first:
        path.unlink()
        (tmp_path / "s.lock").unlink()
        with bound(path) as second:
            with pytest.raises(BusyError):
                first.rebind()
            first.close()
            assert second.is_bound() and can_connect(path)
            with pytest.raises(BusyError):
                bind_control_socket(path)


def test_many_that_race_for_one_path_leave_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "s"
    leave_stale_socket(path)
    script = (
        "import sys; from ballonet.control.socketfile import *; from ballonet.base.errors import BusyError\n"
        "sys.stdin.readline()\n"
        "try: held = bind_control_socket(sys.argv[1]); print('won', flush=True)\n"
        "except BusyError: print('busy', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(4)
    ]
    try:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
        assert sorted(said) == ["busy", "busy", "busy", "won"]
    finally:
        for racer in racers:
            end(racer)
