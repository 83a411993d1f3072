"""The flags between a sandbox and its process: rendered and parsed in one place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import parse_config, parse_flags, render_flags
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume
from ballonet.vmm.config import Accel, Machine, VmConfig


def test_without_balloon_nothing_of_it_is_rendered() -> None:
    assert render_flags(SandboxConfig(name="box")) == ["--name", "box", "--cpus", "1", "--memory-mib", "512"]


def test_only_the_balloon_fields_present_are_rendered() -> None:
    flags = render_flags(SandboxConfig(name="box", balloon_min_mib=0))
    assert flags[6:] == ["--balloon-min-mib", "0"]


def test_all_balloon_fields_are_rendered() -> None:
    config = SandboxConfig(
        name="box",
        memory_mib=1024,
        balloon_initial_mib=512,
        balloon_min_mib=256,
        balloon_control_socket=Path("/run/box.sock"),
    )
    assert render_flags(config)[6:] == [
        *("--balloon-initial-mib", "512", "--balloon-min-mib", "256"),
        *("--balloon-control-socket", "/run/box.sock"),
    ]


def test_the_repr_of_what_is_parsed_shows_every_field() -> None:
    parsed = parse_flags(["--name", "box", "--balloon-min-mib=128"])
    for field in (
        "name='box'",
        "memory_mib=512",
        "balloon_initial_mib=None",
        "balloon_min_mib=128",
        "cpus=1",
    ):
        assert field in repr(parsed)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope", "1"], "unknown flag '--nope'"),
        (["--name"], "--name needs a value"),
        (["--cpus", "many", "--name", "x"], "--cpus 'many'"),
        (["--deflate-on-oom", "maybe", "--name", "x"], "must be on or off"),
        ([], "--name is missing"),
        (
            ["--name", "x", "--memory-mib", "512", "--balloon-initial-mib", "600"],
            "must not exceed memory_mib",
        ),
    ],
)
def test_bad_flags_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_flags(argv)


_MIB = st.integers(128, 4096)


@given(
    ceiling=_MIB,
    initial=st.none() | _MIB,
    floor=st.none() | st.integers(0, 4096),
    machine=st.sampled_from(Machine),
    accel=st.sampled_from(Accel),
    deflate=st.booleans(),
    reporting=st.booleans(),
)
def test_what_is_rendered_is_parsed_back_the_same(
    ceiling: int,
    initial: int | None,
    floor: int | None,
    machine: Machine,
    accel: Accel,
    deflate: bool,
    reporting: bool,
) -> None:
    try:
        config = SandboxConfig(
            name="box",
            memory_mib=ceiling,
            balloon_initial_mib=initial,
            balloon_min_mib=floor,
            machine=machine,
            accel=accel,
            deflate_on_oom=deflate,
            free_page_reporting=reporting,
        )
    except ConfigError:
        return  # not a configuration, so nothing to carry
    parsed = parse_flags(render_flags(config))
    assert type(parsed) is VmConfig
    assert all(getattr(parsed, field) == getattr(config, field) for field in VmConfig.__dataclass_fields__)


def test_root_volumes_and_network_are_rendered_only_when_set_and_read_back_the_same() -> None:
    config = SandboxConfig(
        name="box",
        root=Path("/images/a,b.erofs"),
        disk_mib=8192,
        volumes=(Volume(Path("/a,b c"), "/data"), Volume(Path("/c"), "/c", read_only=True)),
        tmpfs=(Tmpfs("/t"), Tmpfs("/u", 5)),
        net=Net.ISOLATED,
        ports=(Port(0, 80), Port(53, 53, "0.0.0.0", "udp")),
    )
    flags = render_flags(config)
    assert flags[6:] == [
        *("--root", "/images/a,b.erofs", "--disk-mib", "8192"),
        *("--volume", "/a,b c:/data", "--volume", "/c:/c:ro", "--tmpfs", "/t", "--tmpfs", "/u:5"),
        *("--net", "isolated", "--publish", "127.0.0.1:0:80/tcp", "--publish", "0.0.0.0:53:53/udp"),
    ]
    assert parse_config(flags) == config
