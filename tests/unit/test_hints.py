"""A hint fits how its error came to be: missing, failed, forbidden, full."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import BallonetError, HostError, ProcessError, os_hint
from ballonet.base.missing_modules import missing_module
from ballonet.base.paths import private_dir, replace_file
from ballonet.base.process import find_program, run
from ballonet.cli.main import main
from ballonet.guest import bzimage
from ballonet.guest.modules import read_module
from ballonet.host.virtiofsd import find_virtiofsd
from ballonet.machine.disk import obtain_disk
from ballonet.machine.ports import check_ports_free
from ballonet.machine.shares import serve_volume
from ballonet.vmm.attach import Port, Volume
from ballonet.vmm.default_engine import DefaultEngine
from tests.unit import images
from tests.unit.disks import mounted_disk

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or mount")
NOBODY = 65534


def error_of(do: Callable[[], object]) -> tuple[str, str]:
    """Its message and its hint."""
    try:
        do()
    except BallonetError as error:
        return error.message, error.hint or ""
    raise AssertionError("it raised nothing")


def as_a_plain_user(do: Callable[[], object]) -> tuple[str, str]:
    """The same, of a process that has become a plain user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, "\0".join(error_of(do)).encode())
        except BaseException as error:
            os.write(writing, f"{error!r}\0".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        message, _, hint = file.read().partition("\0")
    os.waitpid(child, 0)
    return message, hint


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk that is nearly full."""
    with mounted_disk(tmp_path / "disk", "1m") as directory:
        (directory / "filler").write_bytes(bytes(900_000))
        yield directory


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def leave_out(module: str) -> None:
        monkeypatch.setitem(sys.modules, module, None)

    return leave_out


@pytest.mark.parametrize(
    ("compression", "module", "package"), [("lz4", "lz4.block", "lz4"), ("zstd", "zstandard", "zstandard")]
)
def test_a_missing_decoder_is_no_damaged_kernel(
    without: Callable[[str], None], compression: str, module: str, package: str
) -> None:
    image = images.bzimage(images.COMPRESSIONS[compression](images.vmlinux(padding=4096)))
    without(module)
    message, hint = error_of(lambda: bzimage.unpack(image, "vmlinuz"))
    assert "damaged:" not in message
    assert f"the Python package {package} is not installed" in message
    assert hint.startswith(f"pip install {package}")


def test_a_missing_decoder_is_no_damaged_module(without: Callable[[str], None], tmp_path: Path) -> None:
    without("zstandard")
    (tmp_path / "x.ko.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    message, hint = error_of(lambda: read_module(tmp_path / "x.ko.zst"))
    assert "is damaged" not in message
    assert hint.startswith("pip install zstandard")


def test_a_module_of_pythons_own_is_not_to_be_installed() -> None:
    error = missing_module(
        ModuleNotFoundError("No module named '_lzma'", name="_lzma"), "it cannot be unpacked"
    )
    assert "pip" not in str(error.hint)
    assert "_lzma" in error.message


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("zstandard", "apt-get install python3-zstandard"),
        ("lz4.block", "apt-get install python3-lz4"),
        ("qemu.qmp", "install ballonet into a virtual environment"),
    ],
)
def test_a_python_that_belongs_to_the_distribution_is_not_for_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, hint: str
) -> None:
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    error = missing_module(
        ModuleNotFoundError(f"No module named {module!r}", name=module), "it cannot be unpacked"
    )
    assert str(error.hint).startswith(hint)
    assert "pip install" not in str(error.hint)
    monkeypatch.setattr(sys, "prefix", "/somewhere/venv")
    error = missing_module(
        ModuleNotFoundError(f"No module named {module!r}", name=module), "it cannot be unpacked"
    )
    assert str(error.hint).startswith("pip install")


def test_a_missing_extra_is_told(
    without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("prometheus_client", "ballonet.metrics.expo"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    without("prometheus_client")
    assert main(["metrics"]) == 125
    assert "pip install 'ballonet[metrics]'" in capsys.readouterr().err


def test_a_missing_program_names_its_package_and_one_that_fails_does_not(tmp_path: Path) -> None:
    _, hint = error_of(
        lambda: find_program("mke2fs", hint="apt-get install e2fsprogs", search=[str(tmp_path)])
    )
    assert hint == "apt-get install e2fsprogs"
    with pytest.raises(ProcessError) as caught:
        run(["/bin/sh", "-c", "exit 3"])
    assert caught.value.hint is None


def test_a_program_that_may_not_be_run_is_not_missing(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o600)
    message, hint = error_of(lambda: run([program]))
    assert "Permission denied" in message
    assert "access to" in hint


@root_only
def test_mke2fs_on_a_full_disk_is_not_to_be_installed(full_disk: Path) -> None:
    message, hint = error_of(lambda: obtain_disk(full_disk, 256))
    assert "No space left" in message
    assert hint == f"free up space on the file system of {full_disk}"
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


@root_only
def test_whatever_is_written_on_a_full_disk_is_told(full_disk: Path) -> None:
    message, hint = error_of(lambda: replace_file(full_disk / "file", bytes(1 << 20)))
    assert "No space left" in message
    assert hint == f"free up space on the file system of {full_disk}"


@root_only
def test_a_directory_that_is_not_ours_is_another_matter_than_a_full_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_dir(tmp_path / "mine")
    _, hint = as_a_plain_user(lambda: private_dir(tmp_path / "mine/x", hint="set XDG_STATE_HOME"))
    assert hint == "set XDG_STATE_HOME"


@root_only
def test_virtiofsd_that_is_for_root_only_is_not_missing() -> None:
    find_virtiofsd.cache_clear()
    if find_virtiofsd().rust:
        pytest.skip("this host has the one in Rust")
    find_virtiofsd.cache_clear()
    with tempfile.TemporaryDirectory() as made:  # pytest's own directories are closed to others
        place = Path(made)
        place.chmod(0o755)
        message, hint = as_a_plain_user(lambda: serve_volume(Volume(place, "/v"), place))
    assert "only for root" in message
    assert "ballonet cp" in hint
    assert "install" not in hint


def test_virtiofsd_that_does_not_run_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALLONET_VIRTIOFSD", "/bin/false")
    find_virtiofsd.cache_clear()
    message, hint = error_of(find_virtiofsd)
    assert "status 1" in message
    assert "BALLONET_VIRTIOFSD" in hint
    assert "apt-get" not in hint


@pytest.mark.parametrize("program", ["/nonexistent", "/bin/false", "/bin/echo"])
def test_a_qemu_that_was_named_is_not_to_be_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str
) -> None:
    monkeypatch.setenv("BALLONET_QEMU", program)
    message, hint = error_of(lambda: DefaultEngine.find(tmp_path))
    assert program in message
    assert "BALLONET_QEMU" in hint


@root_only
def test_a_low_port_is_for_root() -> None:
    message, hint = as_a_plain_user(lambda: check_ports_free([Port.parse("80:80")]))
    assert "80" in message
    assert "below 1024" in hint


def test_an_address_that_is_not_here_is_told() -> None:
    _, hint = error_of(lambda: check_ports_free([Port.parse("192.0.2.1:8080:80")]))
    assert "no interface of this host" in hint


def test_what_the_operating_system_says_is_no_defect_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")

    monkeypatch.setattr("ballonet.cli.main._dispatch", fail)
    assert main(["ls"]) == 125
    said = capsys.readouterr().err
    assert said.startswith("ballonet: error: /some/file: No space left on device\n  hint: free up space")


def test_a_cause_that_says_nothing_more_has_no_hint() -> None:
    assert os_hint(OSError(errno.EIO, "x"), "/f") is None
    assert isinstance(missing_module(ImportError("x", name="lz4"), "y"), HostError)
