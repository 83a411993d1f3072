"""Named volumes, and who uses them; the servers' command lines."""

from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError, HostError, UnknownVolumeError, VolumeInUseError
from ballonet.base.paths import state_dir_of
from ballonet.host.virtiofsd import Virtiofsd, find_virtiofsd
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle import volumes
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings import named_volumes
from tests.unit.own_host import own_directories


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    own_directories(tmp_path, monkeypatch)
    return Registry.open()


def test_a_named_volume_is_made_with_its_sandbox_and_kept_while_it_is_used(registry: Registry) -> None:
    config = SandboxBuilder("box").volume("cache:/cache").build()
    assert volumes.list_volumes(registry) == [], "nothing is made before it is needed"
    lifecycle.create(registry, config)
    (volume,) = volumes.list_volumes(registry)
    assert (volume.name, volume.users) == ("cache", ("box",))
    with pytest.raises(VolumeInUseError, match="volume 'cache' is used by 'box'"):
        volumes.remove(registry, "cache")
    assert volumes.prune(registry) == []
    registry.remove(registry.get("box"))
    (volume.path / "file").write_text("x")
    assert volumes.prune(registry) == ["cache"]
    assert not volume.path.exists()


def test_volumes_are_closed_to_other_users_of_the_host(registry: Registry) -> None:
    path = volumes.create("cache")
    path.chmod(0o700)
    assert volumes.create("cache") == path
    assert path.stat().st_mode & 0o777 == 0o700, "one that is there is left as it is"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_removing_never_follows_a_link_out(registry: Registry, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    (volumes.create("cache") / "link").symlink_to(outside)
    (named_volumes.volumes_dir() / "evil").symlink_to(outside)
    volumes.remove(registry, "cache")
    assert [volume.name for volume in volumes.list_volumes(registry)] == []
    with pytest.raises(HostError, match="evil"):
        volumes.remove(registry, "evil")
    assert (outside / "file").exists()


def test_names_and_absences_are_told(registry: Registry) -> None:
    with pytest.raises(UnknownVolumeError, match="no volume named 'nothing'"):
        volumes.remove(registry, "nothing")
    for name in ("", ".", "..", "a/b", "-a", "a" * 64):
        with pytest.raises(ConfigError):
            volumes.create(name)


def test_a_host_directory_that_is_not_there_leaves_no_sandbox(registry: Registry, tmp_path: Path) -> None:
    config = SandboxBuilder("box").volume(f"{tmp_path}/absent:/data").build()
    with pytest.raises(HostError, match="absent does not exist on the host"):
        lifecycle.create(registry, config)
    assert registry.list() == []
    assert not state_dir_of("box").exists()
    assert not (tmp_path / "absent").exists()


def test_both_servers_confine_themselves_and_take_any_path() -> None:
    old = Virtiofsd(Path("/c"), rust=False, read_only=False).command(Path("/a,b\\c"), 7, read_only=True)
    assert old[-1].startswith("source=/a\\,b\\\\c,sandbox=namespace,")
    new = Virtiofsd(Path("/r"), rust=True, read_only=True).command(Path("/a,b"), 7, read_only=True)
    assert new[:4] == ["/r", "--shared-dir", "/a,b", "--fd=7"]
    assert "--readonly" in new
    assert new[new.index("--sandbox") + 1] == "namespace"


def test_the_hosts_server_is_found_and_asked_what_it_is() -> None:
    found = find_virtiofsd()
    assert found.binary.is_file()
    assert found.read_only <= found.rust


def test_a_directory_of_the_guest_may_have_a_slash_at_its_end(tmp_path: Path) -> None:
    config = SandboxBuilder("box").volume(f"{tmp_path}:/data/:ro").tmpfs("/scratch/:64M").build()
    assert [str(volume) for volume in config.volumes] == [f"{tmp_path}:/data:ro"]
    assert [str(tmpfs) for tmpfs in config.tmpfs] == ["/scratch:64"]
    for root in ("/", "//"):
        with pytest.raises(ConfigError, match="not the root"):
            SandboxBuilder("box").tmpfs(root).build()
