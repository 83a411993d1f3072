"""Who mistypes a name is told what may have been meant; and help that finds every command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.suggest import close_to, did_you_mean
from ballonet.cli.commands import COMMANDS, build_parser
from ballonet.cli.main import main
from ballonet.cli.overview import GROUPS
from ballonet.images.store import ImageStore
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.volumes import create as create_volume
from ballonet.settings.config import SandboxConfig
from tests.unit.oci import Layout, entry, layer
from tests.unit.own_host import own_directories


@pytest.fixture(autouse=True)
def on_an_empty_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_directories(tmp_path, monkeypatch)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ballonet: error: ")
    return captured.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["strat", "x"], "'start'"),
        (["ruun"], "'run'"),
        (["LS"], "'ls'"),
        (["im"], "'image'"),
        (["images"], "'ballonet image ls'"),
        (["list"], "'ballonet ls'"),
        (["image", "pul", "x"], "'pull'"),
        (["balloon", "sett", "x"], "'set'"),
        (["pilot", "paus"], "'pause'"),
        (["help", "image", "lst"], "'ls'"),
        (["run", "--memroy", "1G"], "'--memory'"),
        (["run", "--baloon-min=1G"], "'--balloon-min'"),
        (["image", "pull", "--tls-verfy", "x"], "'--tls-verify'"),
        (["--debgu", "ls"], "'--debug'"),
        (["run", "--net", "usr", "--", "true"], "'user'"),
        (["completion", "bsh"], "'bash'"),
        (["pilot", "--policy", "squezed"], "'squeezed'"),
        (["simulate", "--policy", "proxmx"], "'proxmox'"),
        (["simulate", "--scenario", "biulds"], "'builds'"),
    ],
)
def test_a_mistyped_word_is_helped(capsys: pytest.CaptureFixture[str], words: list[str], meant: str) -> None:
    assert f"did you mean {meant}" in refused(capsys, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["start", "wbe"],
        ["stop", "wbe"],
        ["rm", "wbe"],
        ["inspect", "wbe"],
        ["wait", "wbe"],
        ["logs", "wbe"],
        ["exec", "wbe", "true"],
        ["cp", "wbe:/etc/passwd", "."],
        ["modify", "wbe", "--cpus", "2"],
        ["history", "wbe"],
        ["plot", "wbe", "-o", "x.png"],
        ["balloon", "get", "wbe"],
        ["balloon", "set", "wbe", "300M"],
        ["pilot", "explain", "wbe"],
    ],
)
def test_a_mistyped_sandbox_is_helped(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with Registry.open() as registry:
        lifecycle.create(registry, SandboxConfig(name="web"))
    assert "did you mean 'web'?" in refused(capsys, *words)


def test_a_mistyped_volume_is_helped(capsys: pytest.CaptureFixture[str]) -> None:
    create_volume("cache")
    assert "did you mean 'cache'?" in refused(capsys, "volume", "rm", "cahce")


def test_a_mistyped_image_is_helped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(layer(entry("etc/hostname", b"x")))
    store = ImageStore.open()
    image = store.resolve(f"oci:{layout.directory}")
    store.tag(image.id, "python:3")
    assert "did you mean 'python:3'?" in refused(capsys, "image", "rm", "pyton:3")
    assert "did you mean 'python:3'?" in refused(
        capsys, "run", "--image", "pyhton:3", "--pull", "never", "--", "true"
    )


@given(st.text(max_size=300), st.lists(st.text(max_size=30), max_size=20))
def test_suggestions_are_of_what_is_known_and_never_too_many(word: str, known: list[str]) -> None:
    found = close_to(word, known)
    assert len(found) <= 3
    assert set(found) <= set(known)
    assert (did_you_mean(word, known) is None) == (not found)


def test_nothing_is_suggested_for_what_is_like_nothing() -> None:
    assert did_you_mean("xyzzy", COMMANDS) is None


def test_help_has_every_command_once_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = [name for _, names in GROUPS for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    for words in ([], ["help"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        for name, command in COMMANDS.items():
            assert (
                sum(line.startswith(f"  {name} ") and command.help in line for line in shown.splitlines())
                == 1
            )
        assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_fits_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parsers = [build_parser(command).find([command])]
    while parsers:
        parser = parsers.pop()
        assert max(map(len, parser.format_help().splitlines())) <= 80, parser.prog
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()


def test_help_of_commands_and_their_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "image", "pull"]) == 0
    assert "usage: ballonet image pull" in capsys.readouterr().out
    assert main(["help", "run"]) == 0
    assert "--balloon-min" in capsys.readouterr().out
    assert "has no sub-command 'x'" in refused(capsys, "help", "ls", "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--cpus", "two", "--", "true"], "--cpus 'two' is not a whole number"),
        (["stop", "box", "--timeout", "soon"], "--timeout 'soon' is not a number"),
        (["stop", "box", "--timeout", "nan"], "--timeout 'nan' is not a number"),
        (["run", "--memory"], "--memory requires a value"),
        (["balloon", "set"], "NAME|SOCKET and SIZE are required"),
        (["image"], "'ballonet image' requires a sub-command"),
        (["ls", "box"], "unexpected argument 'box'"),
    ],
)
def test_an_error_of_usage_names_what_was_typed(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(capsys, *words)


def test_policies_are_listed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    from ballonet.pilot.policies.catalog import ABOUT, POLICIES

    assert list(ABOUT) == list(POLICIES)
    assert main(["pilot", "--policy", "list"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "POLICY"
    assert [line.split()[0] for line in lines] == list(POLICIES)
    for line, (rule, good_for) in zip(lines, ABOUT.values(), strict=True):
        assert rule.endswith(".") and rule in line and good_for in line
    assert not any("(" in line and "=" in line for line in lines)  # no signatures
    assert main(["simulate", "--list"]) == 0
    assert all(about.rule in capsys.readouterr().out for about in list(ABOUT.values())[:1])


def test_inspect_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    with Registry.open() as registry:
        lifecycle.create(registry, SandboxConfig(name="web"))
    assert main(["inspect", "web"]) == 0
    shown = capsys.readouterr().out
    assert '\n    "name": "web",\n' in shown
    (document,) = json.loads(shown)
    assert {"resident_mib", "guest_ram_mib", "engine_mib"} <= set(document)
