"""Files of saved virtual machines, and start templates, without a VM."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.machine.templates import Template, prune_templates
from ballonet.vmm.guest_ram import create_guest_ram
from ballonet.vmm.saved_state import PAGE, PendingState, SavedState, SavedStateError, write_state

KEY = "k" * 64
DEVICE = os.urandom(70_000)
PAGES = {0: b"first", 7 * PAGE: b"seven", 8 * PAGE: b"eight", (16 << 20) - PAGE: b"last"}


@pytest.fixture
def ram() -> Iterator[int]:
    fd = create_guest_ram(16)
    for place, content in PAGES.items():
        os.pwrite(fd, content, place)
    os.pwrite(fd, bytes(PAGE), 100 * PAGE)  # allocated, and zero
    yield fd
    os.close(fd)


def saved(path: Path, ram: int) -> Path:
    pending = PendingState.claim(path)
    assert pending is not None
    write_state(pending.file, KEY, ram, DEVICE, cpu_s=2.5, engine="QEMU 7.2.22", notes=b"notes")
    pending.commit()
    return path


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_a_state_gives_back_what_was_saved_and_holes_stay_holes(ram: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "one.state", ram)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 200_000
    filled = create_guest_ram(16)
    with SavedState.open(path, KEY) as state:
        assert (state.ram_bytes, state.cpu_s, state.device) == (16 << 20, 2.5, DEVICE)
        state.fill(filled)
    assert content(filled) == content(ram)
    assert os.fstat(filled).st_blocks * 512 == len(PAGES) * PAGE
    os.close(filled)


def test_a_file_is_private_whatever_the_umask(ram: int, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert saved(tmp_path / "one.state", ram).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: os.truncate(file, os.fstat(file).st_size - 1), "truncated"),
        (lambda file: os.truncate(file, 100), "not a saved state|truncated"),
        (lambda file: os.truncate(file, 0), "not a saved state"),
        (lambda file: os.pwrite(file, b"\xff", os.fstat(file).st_size - 1), "damaged"),
        (lambda file: os.pwrite(file, b"\xff\xfe", 5 * PAGE + 9), "damaged"),
        (lambda file: os.pwrite(file, b"ELF", 0), "not a saved state"),
        (lambda file: os.pwrite(file, b'{"format": 9', 0), "another version of ballonet"),
        (lambda file: os.pwrite(file, b"[]" + b"\n", 0), "not a saved state"),
        (lambda file: os.fchmod(file, 0o622), "only you can write"),
    ],
)
def test_a_damaged_file_is_refused(
    damage: Callable[[int], object], message: str, ram: int, tmp_path: Path
) -> None:
    path = saved(tmp_path / "one.state", ram)
    with path.open("r+b") as file:
        damage(file.fileno())
    with pytest.raises(SavedStateError, match=message):
        SavedState.open(path, KEY)


def test_a_state_of_another_machine_and_a_link_are_refused(ram: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "one.state", ram)
    with pytest.raises(SavedStateError, match="another virtual machine"):
        SavedState.open(path, "other")
    with pytest.raises(SavedStateError, match=r"made with QEMU 7\.2\.22, .*: here is QEMU 10\.0\.3"):
        SavedState.open(path, "other", "QEMU 10.0.3")
    with SavedState.open(path, None) as state:
        assert state.notes == b"notes", "they can be read without the key"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(SavedStateError):
        SavedState.open(tmp_path / "link", KEY)
    with pytest.raises(FileNotFoundError):
        SavedState.open(tmp_path / "absent", KEY)


def test_a_file_has_its_name_only_when_it_is_whole_and_one_process_writes_it(
    ram: int, tmp_path: Path
) -> None:
    path = tmp_path / "one.state"
    first = PendingState.claim(path)
    assert first is not None
    assert PendingState.claim(path) is None
    os.write(first.file, b"half")
    os.close(os.dup(first.file))
    # As after a kill: the descriptor is closed, and the file is left.
    os.close(first.file)
    second = PendingState.claim(path)
    assert second is not None
    assert os.fstat(second.file).st_size == 0
    assert not path.exists()
    second.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_removed_meanwhile_is_not_committed(ram: int, tmp_path: Path) -> None:
    path = tmp_path / "one.state"
    pending = PendingState.claim(path)
    assert pending is not None
    (tmp_path / "one.state.part").unlink()
    with pytest.raises(HostError, match="removed meanwhile"):
        pending.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(ram: int, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"):
        write_state(full.fileno(), KEY, ram, DEVICE)


def test_templates_are_bounded_and_the_least_recently_used_go_first(ram: int, tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{number}.state", ram) for number in range(5)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "left.state.part").touch()
    assert prune_templates(tmp_path, most=3) == [tmp_path / "left.state.part", paths[3], paths[4]]
    size = paths[0].stat().st_blocks * 512
    assert prune_templates(tmp_path, most=3, most_bytes=2 * size) == [paths[2]]
    assert sorted(tmp_path.iterdir()) == paths[:2]
    assert prune_templates(tmp_path, most=0) == paths[:2]


def test_a_template_is_reserved_by_one_process_and_not_made_twice(ram: int, tmp_path: Path) -> None:
    one, two = Template(KEY, tmp_path), Template(KEY, tmp_path)
    assert one.open() is None
    assert one.reserve()
    assert not two.reserve()
    one.close()
    assert two.reserve()
    two.close()
    saved(tmp_path / f"{KEY[:32]}.state", ram)
    assert not one.reserve()
    assert [path.suffix for path in tmp_path.iterdir()] == [".state"]
    state = one.open()
    assert state is not None
    state.close()
    one.discard()
    assert one.open() is None


def test_an_incomplete_template_that_is_being_written_is_left(tmp_path: Path) -> None:
    one = Template(KEY, tmp_path)
    assert one.reserve()
    assert prune_templates(tmp_path, most=0) == []
    one.close()
