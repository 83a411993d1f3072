"""A sandbox's writable disk on the host."""

import subprocess
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.base.memory import MIB, mib_to_bytes
from ballonet.base.process import find_program
from ballonet.machine.disk import obtain_disk


def test_a_disk_is_sparse_private_and_a_sound_file_system(tmp_path: Path) -> None:
    disk = obtain_disk(tmp_path, 8192)
    status = disk.stat()
    assert status.st_size == mib_to_bytes(8192)
    assert status.st_blocks * 512 < 16 * MIB
    assert status.st_mode & 0o777 == 0o600
    subprocess.run(
        [find_program("e2fsck", hint="apt install e2fsprogs"), "-fn", disk], check=True, capture_output=True
    )
    assert list(tmp_path.iterdir()) == [disk]


def test_a_disk_is_kept_grows_and_never_shrinks(tmp_path: Path) -> None:
    disk = obtain_disk(tmp_path, 128)
    inode = disk.stat().st_ino
    assert obtain_disk(tmp_path, 128) == disk
    assert obtain_disk(tmp_path, 256).stat().st_size == mib_to_bytes(256)
    with pytest.raises(HostError, match="256 MiB and cannot be shrunk"):
        obtain_disk(tmp_path, 128)
    assert disk.stat().st_ino == inode


def test_one_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="16777216 MiB"):
        obtain_disk(tmp_path, 16 << 20)  # more than ext4 takes in a file
    assert list(tmp_path.iterdir()) == []
