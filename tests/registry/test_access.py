"""Registries with TLS, with logins, and behind a mirror, as the configuration of skopeo has them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import ImageFetchError
from ballonet.base.paths import cache_dir
from ballonet.images.skopeo import Skopeo
from ballonet.images.store import ImageStore
from tests.certificates import Certificate, make_certificate
from tests.registry.server import Registry
from tests.unit.oci import Layout, entry, layer

#: The password ``secret`` of the user ``alice``, as ``htpasswd -B`` writes it.
USERS = "alice:$2b$05$0Z3WYOKsQTRKgXYJkhTNAePl2bt9Wk4rJO3qbtxGABr.BBmnK5/5q\n"
LOGIN = "alice:secret"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has no configuration of skopeo yet."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_dir().parent))  # with the registry's program
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))  # with the logins
    return home


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
def secure(tmp_path: Path, layout: Layout, certificate: Certificate) -> Iterator[Registry]:
    """A registry with TLS, which wants a login."""
    (tmp_path / "secure").mkdir()
    (tmp_path / "users").write_text(USERS)
    running = Registry(tmp_path / "secure", certificate=certificate, users=tmp_path / "users")
    layout.add(layer(entry("etc/hostname", b"secure")), name="app")
    yield running
    running.stop()


def verifying(store: ImageStore) -> ImageStore:
    """As with a registry on another host."""
    return ImageStore(store.directory, skopeo=Skopeo(tls_verify=True))


def trust(home: Path, registry: Registry, certificate: Certificate) -> None:
    """Where skopeo looks for the authority of a registry: containers-certs.d(5)."""
    directory = home / ".config/containers/certs.d" / registry.address
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(certificate.certificate.read_bytes())


def log_in(registry: Registry, login: str) -> None:
    user, _, password = login.partition(":")
    words = ["skopeo", "login", "--tls-verify=false", "-u", user, "-p", password, registry.address]
    subprocess.run(words, check=True, capture_output=True)


def test_a_certificate_is_verified_unless_its_authority_is_trusted(
    store: ImageStore, layout: Layout, secure: Registry, certificate: Certificate, home: Path
) -> None:
    reference = secure.push(layout, "app", login=LOGIN)
    log_in(secure, LOGIN)
    with pytest.raises(ImageFetchError, match="certificate signed by unknown authority") as caught:
        verifying(store).resolve(reference)
    assert f"/etc/containers/certs.d/{secure.address}/ca.crt" in str(caught.value.hint)
    trust(home, secure, certificate)
    assert verifying(store).resolve(reference).names == (f"{reference}:latest",)


def test_a_login_is_needed_and_that_of_skopeo_is_used(
    store: ImageStore, layout: Layout, secure: Registry
) -> None:
    reference = secure.push(layout, "app", login=LOGIN)
    with pytest.raises(ImageFetchError, match="authentication required") as caught:
        store.resolve(reference)
    assert f"skopeo login {secure.address}" in str(caught.value.hint)
    log_in(secure, LOGIN)
    assert store.resolve(reference).names == (f"{reference}:latest",)


def test_a_mirror_with_plain_http_takes_the_place_of_a_registry(
    store: ImageStore, layout: Layout, registry: Registry, home: Path
) -> None:
    layout.add(layer(entry("etc/hostname", b"mirrored")), name="app")
    registry.push(layout, "app")
    configuration = home / ".config/containers/registries.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(f"""
[[registry]]
location = "registry.invalid"
[[registry.mirror]]
location = "{registry.address}"
insecure = true
""")
    assert store.resolve("registry.invalid/app").names == ("registry.invalid/app:latest",)
    with pytest.raises(ImageFetchError, match="HTTPS client"):
        verifying(store).resolve("registry.invalid/app:other")
