"""A Debian root built from this host's package sources: real, with the packages that were asked for."""

from __future__ import annotations

import stat

import pytest

from ballonet.base.errors import ProcessError
from ballonet.images.debian_root import build_debian
from ballonet.images.store import ImageStore
from tests.unit.erofs_reader import Reader

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
