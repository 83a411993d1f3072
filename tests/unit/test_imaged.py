"""What commands get from an image. Images that are fetched and made: test_image_store; real guests: tests/vm."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.config import SandboxConfig
from ballonet.errors import ConfigError
from ballonet.imaged import Prepared, prepare
from ballonet.images.image import Image, ImageConfig

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
