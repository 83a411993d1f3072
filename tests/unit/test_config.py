"""What a sandbox configuration accepts, and how it says no."""

from pathlib import Path
from typing import Any

import pytest

from ballonet.builder import SandboxBuilder
from ballonet.config import SandboxConfig
from ballonet.errors import ConfigError
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
        ({"image": "alpine"}, "only the built-in root"),
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
    with pytest.raises(ConfigError, match="confidential does not go together with a balloon"):
        SandboxConfig(name="box", confidential=True, **field)


@pytest.mark.parametrize(
    "name", ["", "a" * 64, "a" * 300, "../up", "a/b", "-x", ".hidden", "a b", "ü", "a\0b", None, 7]
)
def test_odd_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="is not usable") as caught:
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
