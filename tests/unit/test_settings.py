"""Each setting has one name where people give it, and errors use that one."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ballonet.base.errors import ConfigError, SettingError
from ballonet.base.memory import parse_size
from ballonet.cli.commands import build_parser
from ballonet.cli.parser import all_actions
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings.config import SandboxConfig
from ballonet.settings.names import OPTIONS, PARAMETERS


def test_every_field_has_its_names_and_every_option_exists() -> None:
    assert {field.name for field in fields(SandboxConfig)} - set(PARAMETERS) == {"confidential"}
    known = {
        flag
        for command in ("run", "modify")
        for action in all_actions(build_parser(command))
        for flag in action.option_strings
    }
    assert {option for option in OPTIONS.values() if option.startswith("-")} <= known


def test_a_program_is_told_its_own_words() -> None:
    with pytest.raises(ConfigError, match=r"^memory '-5' is not a size$"):
        SandboxBuilder("box").memory("-5")
    with pytest.raises(ConfigError, match=r"^balloon_min 600 MiB must not exceed memory 512 MiB$"):
        SandboxBuilder("box").memory(512).balloon(min=600).build()
    with pytest.raises(ConfigError, match=r"^memory_mib 5 MiB is outside"):
        SandboxConfig(name="box", memory_mib=5)


def test_values_may_have_braces() -> None:
    for text in ("{}", "{0}", "{", "}}"):
        with pytest.raises(SettingError) as caught:
            parse_size(text, "memory_mib")
        assert caught.value.named(OPTIONS).message == f"--memory {text!r} is not a size"


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("524288K", 512),
        ("524288k", 512),
        ("524288KB", 512),
        ("524288KiB", 512),
        ("536870912B", 512),
        ("536870912b", 512),
        ("512", 512),
        ("0.5g", 512),
        ("1TiB", 1 << 20),
    ],
)
def test_all_of_dockers_units_are_read(text: str, mib: int) -> None:
    assert parse_size(text) == mib


@pytest.mark.parametrize("text", ["524289K", "1B", "1KiB"])
def test_what_is_no_whole_mib_names_the_nearest(text: str) -> None:
    with pytest.raises(ConfigError, match="not a whole number of MiB") as caught:
        parse_size(text)
    assert "the nearest sizes are" in str(caught.value.hint)


def test_the_forms_of_a_size_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size("1Q")
    for form in ("512M", "1.5G", "524288K", "KiB"):
        assert form in str(caught.value.hint)
