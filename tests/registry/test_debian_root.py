"""A Debian root built from this host's package sources: real, with the packages that were asked for."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ballonet.base.errors import ProcessError
from ballonet.images.debian_root import build_debian
from ballonet.images.store import ImageStore
from tests.unit.erofs_reader import Reader
from tests.vm.processes import with_variable

pytestmark = pytest.mark.extended


@pytest.mark.slow
def test_a_debian_root_has_what_was_asked_for(store: ImageStore) -> None:
    said: list[str] = []
    image = build_debian(
        store, "debian-python", include=["python3-minimal"], variant="essential", report=said.append
    )
    assert image.names == ("docker.io/library/debian-python:latest",)
    assert "bash" in image.config.cmd
    found = Reader(image.root).files()
    assert found["/usr/bin/python3.11"].mode == stat.S_IFREG | 0o755
    assert found["/usr/bin/su"].mode == stat.S_IFREG | 0o4755, (
        "owners and modes are right for a plain user, too"
    )
    assert {file.uid for path, file in found.items() if path.startswith("/usr/")} == {0}
    assert not {"/etc/hostname", "/etc/resolv.conf"} & set(found), "the host's own"
    assert not list((store.directory / "work").iterdir())
    assert any("installing" in line for line in said)
    assert image.root.stat().st_size == image.size_bytes


@pytest.mark.slow
def test_an_unknown_package_is_told_and_nothing_is_kept(store: ImageStore) -> None:
    with pytest.raises(ProcessError, match="no-such-package") as caught:
        build_debian(store, "debian-python", include=["no-such-package"], variant="essential")
    assert caught.value.hint
    assert store.list() == []
    assert not list((store.directory / "work").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_build_that_is_ended_leaves_no_process_and_no_root(tmp_path: Path, by: signal.Signals) -> None:
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o755)
    mark = f"BALLONET_TEST_BUILD={tmp_path.name}-{os.getpid()}"
    name, _, value = mark.partition("=")
    environment = {**os.environ, "TMPDIR": str(roots), "XDG_DATA_HOME": str(tmp_path / "data"), name: value}
    words = [sys.executable, "-P", "-m", "ballonet", "image", "build-debian", "--variant", "essential"]
    with subprocess.Popen(
        [*words, "--tag", "killed"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as build:
        while not list(roots.glob("*/usr/bin/dpkg")):  # packages are being unpacked
            assert build.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        build.send_signal(by)
    deadline = time.monotonic() + 60
    while left := with_variable(mark):
        assert time.monotonic() < deadline, f"processes {left} go on"
        time.sleep(0.1)
    assert list(roots.iterdir()) == []
