"""What commands get from an image. Images that are fetched and made: test_image_store; real guests: tests/vm."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.config import SandboxConfig
from ballonet.errors import ConfigError
from ballonet.imaged import Prepared, inherited_settings, prepare, shown_settings
from ballonet.images.image import Image, ImageConfig
from ballonet.registry.record import Command, Defaults, Record

CONFIG = SandboxConfig(name="box")


def prepared(tmp_path: Path, **settings: object) -> Prepared:
    """An image whose root is not looked at; who its users are is."""
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\n")
    (tmp_path / "group").write_text("extra:x:9:app\n")
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
    assert own.env == {"HOME": "/home/app", "A": "1", "B": "3"}
    assert (own.cwd, own.user) == ("/srv", "7:8,9")
    said = found.settings({"HOME": "/x"}, "/y", "root")
    assert (said.env["HOME"], said.cwd, said.user) == ("/x", "/y", "0:0")
    with pytest.raises(ConfigError, match="no user 'nobody'"):
        found.settings({}, None, "nobody")


def test_names_of_users_need_an_image() -> None:
    with pytest.raises(ConfigError, match="'app' is not UID or UID:GID"):
        prepare(CONFIG).settings({}, None, "app")


def row(**more: object) -> Record:
    return Record(name="box", created_at=1.0, flags=(), **more)  # type: ignore[arg-type]


def test_a_command_inherits_what_its_sandbox_was_told_and_may_say_otherwise(tmp_path: Path) -> None:
    image = prepared(tmp_path, env={"A": "1", "B": "2"}, workdir="/srv", user="app").image
    told = row(defaults=Defaults({"B": "3", "C": "4"}, "/tmp", "0"))
    found = inherited_settings(told, image)
    assert (found.env, found.cwd) == ({"HOME": "/root", "A": "1", "B": "3", "C": "4"}, "/tmp")
    assert str(found.user).startswith("0:0")
    said = inherited_settings(told, image, {"C": "5"}, "/y", "app")
    assert (said.env["B"], said.env["C"], said.cwd) == ("3", "5", "/y")
    assert said.user == "7:8,9"
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
