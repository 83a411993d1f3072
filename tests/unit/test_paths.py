from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ballonet.base import paths
from ballonet.base.errors import ConfigError, HostError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_cache_dir_follows_xdg_and_is_private(tmp_path: Path) -> None:
    made = paths.cache_dir({"XDG_CACHE_HOME": str(tmp_path / "c"), "HOME": "/nonexistent"})
    assert made == tmp_path / "c/ballonet"
    assert mode_of(made) == 0o700


@pytest.mark.parametrize("xdg", [None, "", "relative/dir"])
def test_cache_dir_is_in_the_home_directory_otherwise(xdg: str | None, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)} | ({} if xdg is None else {"XDG_CACHE_HOME": xdg})
    assert paths.cache_dir(env) == tmp_path / ".cache/ballonet"


def test_run_dir_is_the_chosen_one(tmp_path: Path) -> None:
    env = {"BALLONET_RUN_DIR": str(tmp_path / "a/b"), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert paths.run_dir(env) == tmp_path / "a/b"
    assert mode_of(tmp_path / "a/b") == 0o700


def test_relative_run_dir_is_refused() -> None:
    with pytest.raises(ConfigError, match="BALLONET_RUN_DIR is 'run', not an absolute path"):
        paths.run_dir({"BALLONET_RUN_DIR": "run"})


def test_run_dir_is_in_the_runtime_directory(tmp_path: Path) -> None:
    assert paths.run_dir({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "ballonet"


def test_run_dir_without_environment(tmp_path: Path) -> None:
    uid = os.getuid()
    stranger = uid + 1
    (tmp_path / "run/user" / str(uid)).mkdir(parents=True)
    (tmp_path / "run/user" / str(stranger)).mkdir()
    choose = paths._run_dir_path
    assert choose({}, 0, tmp_path) == tmp_path / "run/ballonet"
    if uid != 0:
        assert choose({}, uid, tmp_path) == tmp_path / f"run/user/{uid}/ballonet"
    assert choose({}, stranger, tmp_path) == tmp_path / f"tmp/ballonet-{stranger}", (
        "that parent is not its own"
    )
    assert choose({}, stranger + 1, tmp_path) == tmp_path / f"tmp/ballonet-{stranger + 1}", (
        "it has no such parent"
    )
    # As su leaves it: the runtime directory of another user.
    assert (
        choose({"XDG_RUNTIME_DIR": str(tmp_path)}, stranger, tmp_path)
        == tmp_path / f"tmp/ballonet-{stranger}"
    )


def test_open_directory_of_ours_is_closed(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    paths.private_dir(loose)
    assert mode_of(loose) == 0o700


def test_link_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o755)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(HostError, match="link is a symbolic link"):
        paths.private_dir(tmp_path / "link")
    assert mode_of(target) == 0o755


def test_file_in_the_directorys_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="file cannot be used: Not a directory"):
        paths.private_dir(tmp_path / "file")
    with pytest.raises(HostError, match="file/x cannot be used: Not a directory") as caught:
        paths.private_dir(tmp_path / "file/x", hint="elsewhere")
    assert caught.value.hint == "elsewhere"


def test_directory_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(HostError, match="directory /proc/self/x/y cannot be created"):
        paths.private_dir(Path("/proc/self/x/y"))


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(HostError, match=f"belongs to user {other - 1}, not to you"):
        paths.private_dir(tmp_path)


def test_sandbox_dir_is_in_the_run_dir(tmp_path: Path) -> None:
    assert paths.sandbox_dir("web-1", {"BALLONET_RUN_DIR": str(tmp_path)}) == tmp_path / "web-1"


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc", "a\0b"])
def test_sandbox_name_that_is_no_plain_entry_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a directory name"):
        paths.sandbox_dir(name, {"BALLONET_RUN_DIR": str(tmp_path)})


def test_replaced_file_is_new_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    paths.replace_file(path, b"one")
    before = path.stat().st_ino
    held = path.open("rb")
    paths.replace_file(path, b"two", mode=0o640)
    with held:
        assert held.read() == b"one", "a reader keeps what it opened"
    assert path.read_bytes() == b"two"
    assert path.stat().st_ino != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_file_that_cannot_be_replaced_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(HostError, match="taken cannot be written: Is a directory"):
        paths.replace_file(tmp_path / "taken", b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with paths.exclusive(tmp_path / "lock"):
                inside.append(number)
                most.append(len(inside))
                (tmp_path / "work").write_text(str(number))  # a system call, so that the threads do alternate
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), paths.exclusive(tmp_path / "lock"):
        raise RuntimeError
    with paths.exclusive(tmp_path / "lock"):
        pass


def test_lock_in_no_directory_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(HostError, match=r"none/lock cannot be opened: No such file"),
        paths.exclusive(tmp_path / "none/lock"),
    ):
        pass
