"""An outer machine reaches package sources as this host does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.machines.network import host_files


def test_proxies_certificates_and_indexes_go_along_and_local_directories_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "certificates").write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128/a b")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///somewhere/simple")
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "certificates"))
    files = {path: content.decode() for path, content in host_files().items()}
    assert "export HTTPS_PROXY='http://proxy.example:3128/a b'\n" in files["/etc/profile.d/host.sh"]
    assert files["/etc/ssl/certs/ca-certificates.crt"] == "-----BEGIN CERTIFICATE-----\n"
    settings = files["/etc/pip.conf"].splitlines()
    assert "index-url = https://index.example/simple" in settings
    assert "cert = /etc/ssl/certs/ca-certificates.crt" in settings
    assert str(tmp_path) not in files["/etc/pip.conf"]
    assert "file:" not in files["/etc/pip.conf"]
    assert "/etc/apt/apt.conf.d/00host" in files
