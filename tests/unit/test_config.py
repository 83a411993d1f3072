"""What a sandbox configuration accepts, and how it says no."""

from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Port, Tmpfs, Volume
from ballonet.vmm.config import Accel, Machine


def test_defaults_leave_the_balloon_out() -> None:
    config = SandboxConfig(name="box")
    assert (config.cpus, config.memory_mib) == (1, 512)
    assert not config.has_balloon


@pytest.mark.parametrize(
    "field",
    [{"balloon_initial_mib": 256}, {"balloon_min_mib": 0}, {"balloon_control_socket": Path("x.sock")}],
)
def test_any_balloon_field_makes_a_balloon(field: dict[str, Any]) -> None:
    assert SandboxConfig(name="box", **field).has_balloon


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"memory_mib": 512, "balloon_initial_mib": 600},
            "balloon_initial_mib 600 MiB must not exceed memory_mib 512 MiB",
        ),
        (
            {"memory_mib": 1024, "balloon_initial_mib": 512, "balloon_min_mib": 600},
            "balloon_min_mib 600 MiB must not exceed balloon_initial_mib 512 MiB",
        ),
        (
            {"memory_mib": 512, "balloon_min_mib": 600},
            "balloon_min_mib 600 MiB must not exceed memory_mib 512 MiB",
        ),
        ({"memory_mib": 0}, "memory_mib 0 MiB is outside"),
        ({"memory_mib": -1}, "memory_mib -1 MiB is outside"),
        ({"memory_mib": 2**70}, "is outside"),
        ({"memory_mib": "512"}, "memory_mib must be a whole number, not str ('512')"),
        ({"memory_mib": 512.0}, "memory_mib must be a whole number, not float (512.0)"),
        ({"memory_mib": True}, "memory_mib must be a whole number, not bool (True)"),
        ({"balloon_initial_mib": 0}, "balloon_initial_mib 0 MiB is outside"),
        ({"balloon_min_mib": -5}, "balloon_min_mib -5 MiB is outside"),
        ({"cpus": 0}, "cpus 0 is outside 1 to 255"),
        ({"machine": "pc"}, "machine 'pc' is unknown; choose one of microvm, q35"),
        ({"accel": "hax"}, "accel 'hax' is unknown"),
        ({"root": Path("/r.erofs")}, "root '/r.erofs' is read-only and has no disk_mib"),
        ({"root": Path("r.erofs"), "disk_mib": 64}, "root 'r.erofs' is not an absolute path"),
        ({"disk_mib": 8}, "disk_mib 8 MiB is outside 64 to"),
        ({"net": "bridge"}, "net 'bridge' is unknown; choose one of none, user, isolated"),
        ({"ports": (Port(80, 80),)}, "port 127.0.0.1:80:80/tcp cannot be published without a network"),
        ({"ports": (Port(80, 0),), "net": "user"}, "port 127.0.0.1:80:0/tcp has a port outside 1 to 65535"),
        ({"ports": (Port(80, 1), Port(80, 2)), "net": "user"}, "127.0.0.1:80 is published twice"),
        ({"ports": (Port(80, 1, "::1"),), "net": "isolated"}, "an IPv6 address needs the network user"),
        ({"ports": (Port(80, 1, "::x"),), "net": "user"}, "has '::x', which is not an IP address"),
        ({"ports": (Port(80, 1, "::1", "udp"),), "net": "user"}, "can be published at IPv4 addresses only"),
        ({"volumes": (Volume(Path("data"), "/data"),)}, "must be an absolute path without a colon"),
        ({"volumes": (Volume(Path("/a:b"), "/data"),)}, "must be an absolute path without a colon"),
        ({"volumes": (Volume(Path("/a"), "data"),)}, "must be mounted at an absolute path, not at"),
        ({"volumes": (Volume(Path("/a"), "/"),)}, "cannot be mounted at '/'"),
        ({"volumes": (Volume(Path("/a"), "/x/../proc"),)}, "cannot be mounted at '/x/../proc'"),
        ({"volumes": (Volume(Path("/a"), "/proc/x"),)}, "cannot be mounted at '/proc/x'"),
        ({"tmpfs": (Tmpfs("/dev"),)}, "tmpfs '/dev' cannot be mounted at '/dev'"),
        ({"tmpfs": (Tmpfs("/a", 0),)}, "size of tmpfs /a 0 MiB is outside"),
        ({"tmpfs": (Tmpfs("/a"), Tmpfs("/a"))}, "/a is already a mount point"),
        ({"tmpfs": (Tmpfs("/disk"),), "disk_mib": 64}, "/disk is already a mount point"),
        ({"volumes": (Volume(Path("/a"), "/a"),) * 17}, "17 volumes; at most 16 are supported"),
        ({"confidential": True}, "not supported yet"),
    ],
)
def test_impossible_settings_are_refused_with_their_values(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SandboxConfig(name="box", **fields)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "field",
    [{"balloon_initial_mib": 256}, {"balloon_min_mib": 128}, {"balloon_control_socket": Path("x.sock")}],
)
def test_confidential_with_any_balloon_field_is_refused_before_anything_starts(field: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="confidential cannot be combined with a balloon"):
        SandboxConfig(name="box", confidential=True, **field)


@pytest.mark.parametrize(
    "name", ["", "a" * 64, "a" * 300, "../up", "a/b", "-x", ".hidden", "a b", "ü", "a\0b", None, 7]
)
def test_odd_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="is not valid") as caught:
        SandboxConfig(name=name)
    assert len(caught.value.message) < 150


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is empty"),
        ("/tmp/" + "x" * 103, "108 bytes long"),
        ("a\0b", "NUL"),
        (5, "must be a path, not int"),
    ],
)
def test_socket_paths_that_no_socket_can_have_are_refused(path: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SandboxBuilder("box").balloon(control_socket=path).build()


def test_a_socket_path_of_107_bytes_is_accepted() -> None:
    path = "/tmp/" + "x" * 102
    assert SandboxBuilder("box").balloon(control_socket=path).build().balloon_control_socket == Path(path)


def test_builder_sets_only_the_parts_given() -> None:
    config = SandboxBuilder("box").memory("1G").balloon(min=256).build()
    assert config.balloon_initial_mib is None
    assert config.balloon_min_mib == 256
    assert config.balloon_control_socket is None


def test_builder_reads_sizes_as_numbers_of_mib_and_as_text() -> None:
    built = (
        SandboxBuilder("box")
        .cpus(2)
        .memory(1024)
        .balloon("0.5G", 256, "/run/x.sock")
        .machine("q35")
        .accel("tcg")
        .deflate_on_oom(False)
        .free_page_reporting(False)
        .build()
    )
    assert built == SandboxConfig(
        name="box",
        cpus=2,
        memory_mib=1024,
        balloon_initial_mib=512,
        balloon_min_mib=256,
        balloon_control_socket=Path("/run/x.sock"),
        machine=Machine.Q35,
        accel=Accel.TCG,
        deflate_on_oom=False,
        free_page_reporting=False,
    )


def test_builder_reads_volumes_tmpfs_and_ports_as_docker_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = (
        SandboxBuilder("box")
        .volume("/src:/src:ro", "./data:/data", "cache:/cache:rw")
        .tmpfs("/scratch", "/small:size=64m")
        .publish("8080:80", "0.0.0.0:53:53/udp", "0:22")
        .disk("2G")
        .build()
    )
    assert config.volumes == (
        Volume(Path("/src"), "/src", read_only=True),
        Volume(tmp_path / "data", "/data"),
        Volume(tmp_path / "ballonet/volumes/cache", "/cache"),
    )
    assert config.tmpfs == (Tmpfs("/scratch"), Tmpfs("/small", 64))
    assert config.ports == (Port(8080, 80), Port(53, 53, "0.0.0.0", "udp"), Port(0, 22))
    assert (config.net, config.disk_mib) == ("user", 2048)


@pytest.mark.parametrize(
    "method, text",
    [
        *(("volume", text) for text in ("/a", ":/a", "/a:", "/a:/b:", "/a:/b:rx", "a/../:/b:ro:x", "-x:/b")),
        *(("tmpfs", text) for text in ("/a:", "/a:x", "/a:1.5", "/a:64:64")),
        *(
            ("publish", text)
            for text in ("80", "a:80", "70000:80", "80:0", "1.2.3:80:80", "80:80/sctp", "-1:80")
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_text(method: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(SandboxBuilder("box"), method)(text).build()
    assert text.split(":")[0] in caught.value.message


def test_a_network_that_was_chosen_stays_when_ports_are_published() -> None:
    assert SandboxBuilder("box").net("isolated").publish("80:80").build().net == "isolated"
