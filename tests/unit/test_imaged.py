"""What commands get from an image. Images that are fetched and made: test_image_store; real guests: tests/vm."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.images.image import Image, ImageConfig, signal_number
from ballonet.lifecycle.image_settings import Prepared, inherited_settings, prepare, shown_settings
from ballonet.lifecycle.record import Command, Defaults, Record
from ballonet.settings.config import SandboxConfig

CONFIG = SandboxConfig(name="box")


def prepared(tmp_path: Path, **settings: object) -> Prepared:
    """An image whose root is not looked at."""
    config = ImageConfig(**settings)  # type: ignore[arg-type]
    image = Image("sha256:0", tmp_path / "root.erofs", config, (), 0, 0.0)
    return Prepared(CONFIG, image)


def words(found: Prepared, *argv: str, entrypoint: str | None = None, detached: bool = False) -> object:
    command = found.command(argv, env={}, cwd=None, user=None, entrypoint=entrypoint, detached=detached)
    return None if command is None else command.argv


def test_words_replace_the_command_and_an_entrypoint_both(tmp_path: Path) -> None:
    found = prepared(tmp_path, entrypoint=("run",), cmd=("it",))
    assert words(found) == ("run", "it")
    assert words(found, "that") == ("run", "that")
    assert words(found, "that", entrypoint="other") == ("other", "that")
    assert words(found, entrypoint="other") == ("other",)
    assert words(found, "that", entrypoint="") == ("that",)
    assert words(found, entrypoint="") is None


def test_without_an_image_only_what_is_said_is_run() -> None:
    found = prepare(CONFIG)
    assert found == Prepared(CONFIG)
    assert words(found) is None
    assert words(found, "a", "b") == ("a", "b")
    assert words(found, "a", entrypoint="sh") == ("sh", "a")


def test_a_bare_shell_is_no_command_where_nobody_types(tmp_path: Path) -> None:
    found = prepared(tmp_path, cmd=("/bin/bash",))
    assert words(found) == ("/bin/bash",)
    assert words(found, detached=True) is None
    assert words(found, "bash", detached=True) == ("bash",), "it was said"
    assert words(prepared(tmp_path, cmd=("bash", "serve.sh")), detached=True) == ("bash", "serve.sh")


def test_settings_are_the_images_unless_they_are_said(tmp_path: Path) -> None:
    found = prepared(tmp_path, env={"A": "1", "B": "2"}, workdir="/srv", user="app")
    own = found.settings({"B": "3"}, None, None)
    assert own.env == {"A": "1", "B": "3"}
    assert (own.cwd, own.user, own.make_cwd) == ("/srv", "app", True)
    said = found.settings({"HOME": "/x"}, "/y", "root")
    assert (said.env["HOME"], said.cwd, said.user, said.make_cwd) == ("/x", "/y", "root", False)


@pytest.mark.parametrize("with_image", [True, False])
def test_users_of_the_wrong_form_are_refused_before_anything_starts(tmp_path: Path, with_image: bool) -> None:
    found = prepared(tmp_path) if with_image else prepare(CONFIG)
    with pytest.raises(ConfigError, match="'a:b:c' is not USER"):
        found.settings({}, None, "a:b:c")


def test_an_images_own_wrong_user_is_told_as_the_images_and_can_be_overridden(tmp_path: Path) -> None:
    found = prepared(tmp_path, user="a:b:c")
    with pytest.raises(ConfigError, match="image's own user 'a:b:c'"):
        found.settings({}, None, None)
    assert found.settings({}, None, "app").user == "app"


def test_the_images_stop_signal_goes_with_its_command(tmp_path: Path) -> None:
    def stop_signal(text: str | None) -> int | None:
        command = prepared(tmp_path, cmd=("serve",), stop_signal=text).command(
            [], env={}, cwd=None, user=None
        )
        assert command is not None
        return command.stop_signal

    assert stop_signal(None) is None
    assert stop_signal("SIGQUIT") == 3
    with pytest.raises(ConfigError, match="the image's StopSignal cannot be used: unknown signal 'SIGNOPE'"):
        stop_signal("SIGNOPE")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("sigInt", 2),
        ("9", 9),
        (" 15 ", 15),
        ("SIGRTMIN+3", 37),
        ("RTMIN", 34),
        ("SIGRTMAX-1", 63),
        ("RTMAX", 64),
        ("64", 64),
        ("SIGWINCH", 28),
        ("SIGIOT", 6),
    ],
)
def test_signals_are_known_by_name_and_by_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "65",
        "-9",
        "SIG",
        "SIGNOPE",
        "RTMIN+31",
        "RTMIN-1",
        "RTMAX+1",
        "RTMIN+x",
        "SIG_DFL",
        "٣",
        "9" * 50,
    ],
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="unknown signal"):
        signal_number(text)


def row(**more: object) -> Record:
    return Record(name="box", created_at=1.0, flags=(), **more)  # type: ignore[arg-type]


def test_a_command_inherits_what_its_sandbox_was_told_and_may_say_otherwise(tmp_path: Path) -> None:
    image = prepared(tmp_path, env={"A": "1", "B": "2"}, workdir="/srv", user="app").image
    told = row(defaults=Defaults({"B": "3", "C": "4"}, "/tmp", "0"))
    found = inherited_settings(told, image)
    assert (found.env, found.cwd) == ({"A": "1", "B": "3", "C": "4"}, "/tmp")
    assert (found.user, found.make_cwd) == ("0", True)
    said = inherited_settings(told, image, {"C": "5"}, "/y", "app")
    assert (said.env["B"], said.env["C"], said.cwd) == ("3", "5", "/y")
    assert (said.user, said.make_cwd) == ("app", False)
    shown = shown_settings(told, image)
    assert (shown.env, shown.cwd, shown.user) == ({"A": "1", "B": "3", "C": "4"}, "/tmp", "0")


def test_without_an_image_what_the_sandbox_was_told_is_inherited() -> None:
    told = row(defaults=Defaults({"A": "1"}, "/tmp", "1000"))
    found = inherited_settings(told, None, {"B": "2"})
    assert (found.env, found.cwd, found.user) == ({"A": "1", "B": "2"}, "/tmp", "1000")


def test_commands_in_a_sandbox_of_an_older_version_run_as_its_own_does(tmp_path: Path) -> None:
    """Nobody is root there by accident, and supplementary groups stay."""
    image = prepared(tmp_path, user="root").image
    old = row(command=Command(("sleep", "9"), {"A": "1", "HOME": "/home/app"}, "/tmp", "7:8,9"))
    found = inherited_settings(old, image)
    assert (found.env, found.cwd, found.user) == ({"A": "1", "HOME": "/home/app"}, "/tmp", "7:8,9")
