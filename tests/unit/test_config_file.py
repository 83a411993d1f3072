"""The user's configuration file: what it sets, what it must not have, and who reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.base.paths import config_file
from ballonet.cli.config_file import KNOWN, read_config
from ballonet.settings.definitions import SETTINGS

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BALLONET_CONFIG", raising=False)
    (tmp_path / "ballonet").mkdir()
    return tmp_path / "ballonet" / "config.toml"


def ballonet(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BALLONET, *words], capture_output=True, text=True, check=False)


def desired(name: str) -> dict[str, object]:
    (row,) = json.loads(ballonet("inspect", name).stdout)
    found: dict[str, object] = row["desired"]
    return found | {key: row[key] for key in ("labels", "weight")}


def test_where_the_file_is() -> None:
    assert config_file({"HOME": "/h"}) == Path("/h/.config/ballonet/config.toml")
    assert config_file({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == Path("/c/ballonet/config.toml")
    assert config_file({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}) == Path(
        "/h/.config/ballonet/config.toml"
    )
    assert config_file({"HOME": "/h", "BALLONET_CONFIG": "/x.toml"}) == Path("/x.toml")
    assert config_file({"HOME": "/h", "BALLONET_CONFIG": ""}) is None


def test_defaults_are_those_of_the_file_unless_an_option_is_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(
        """
        [sandbox]
        memory = "1G"
        cpus = 2
        weight = 7
        pressure_relief = false
        net = "user"
        ttl = "1h"
        labels = {owner = "me", team = "web"}
        tmpfs = ["/a"]
        """
    )
    assert ballonet("create", "--name", "one").returncode == 0
    one = desired("one")
    assert (one["memory_mib"], one["balloon_initial_mib"], one["cpus"]) == (1024, 1024, 2)
    assert (one["pressure_relief"], one["net"], one["ttl_s"], one["weight"]) == (False, "user", 3600, 7)
    assert one["labels"] == {"owner": "me", "team": "web"}
    words = [
        "-m",
        "256M",
        "--cpus",
        "1",
        "--balloon-min",
        "128M",
        "-l",
        "team=api",
        "--tmpfs",
        "/b",
        "--net",
        "none",
    ]
    assert ballonet("create", "--name", "two", *words).returncode == 0
    two = desired("two")
    assert (two["memory_mib"], two["cpus"], two["net"]) == (256, 1, "none")
    assert two["labels"] == {"owner": "me", "team": "api"}
    assert [each["target"] for each in two["tmpfs"]] == ["/a", "/b"]  # type: ignore[attr-defined]
    monkeypatch.setenv("BALLONET_CONFIG", "")
    assert ballonet("create", "--name", "three").returncode == 0
    assert desired("three")["memory_mib"] == 512
    assert "-m 256" in " ".join(ballonet("run", "--dry-run", "-m", "256M", "--", "true").stdout.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sandbox]\nmemory = ]", "line 2"),
        ("[sandbox]\nmemory = ", "not valid TOML"),
        ("[sandbox]\nballoon_min = '1X'", "line 2: balloon_min '1X'"),
        ("[sandbox]\nmemroy = 1", "line 2: 'memroy': there is no such setting"),
        ("memory = 1", "line 1: there is no table or key 'memory'"),
        ("[other]", "line 1: there is no table or key 'other'"),
        ("sandbox = 3", "line 1: 'sandbox' must be a table"),
        ("[sandbox]\n\nname = 'x'", "line 3: 'name': cannot have a default"),
        ("[sandbox]\ncpus = 'two'", "line 2: 'cpus' must be a whole number"),
        ("[sandbox]\ncpus = 0", "line 2: cpus 0"),
        ("[sandbox]\nmemory = '1X'", "line 2: memory '1X'"),
        ("[sandbox]\nmemory = true", "line 2: 'memory' must be"),
        ("[sandbox]\nnet = 'usr'", "line 2: 'net' must be one of"),
        ("[sandbox]\nvolumes = 'a:/b'", "line 2: 'volumes' must be a list"),
        ("[sandbox]\nvolumes = ['x']", "line 2: volume"),
        ("[sandbox]\nhard_cap = 1", "line 2: 'hard_cap' must be true or false"),
        ("[sandbox]\nlabels = {'=' = 'x'}", "line 2: label"),
        ("[sandbox.labels]\na = 1", "'labels' must be a table of text"),
        ("[sandbox]\nweight = 0", "line 2: weight 0"),
        ("[sandbox]\nttl = 'soon'", "line 2: ttl 'soon'"),
        ("\0", "not valid TOML"),
    ],
)
def test_an_error_has_the_file_and_the_line(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert said in raised.value.message
    assert raised.value.message.startswith(str(path))


def test_a_wrong_file_stops_what_uses_it_and_nothing_else(path: Path) -> None:
    path.write_text("[sandbox]\nmemory = '1X'")
    for words in (["create"], ["run", "--", "true"], ["config"]):
        done = ballonet(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert f"{path}, line 2" in done.stderr
    for words in (["ls"], ["create", "--help"], ["run", "--help"], ["rm", "--all"]):
        assert ballonet(*words).returncode == 0, words
    path.write_bytes(b"\xff")
    assert "cannot be read" in ballonet("create").stderr
    path.unlink()
    path.mkdir()
    assert "cannot be read" in ballonet("create").stderr


def test_the_file_is_shown(path: Path) -> None:
    shown = ballonet("config").stdout
    assert f"file: {path} (does not exist)" in shown
    path.write_text('[sandbox]\nmemory = "1G"\nlabels = {a = "b"}')
    lines = [line.split() for line in ballonet("config").stdout.splitlines()]
    assert ["memory", "1G", "file"] in lines
    assert ["labels", "a=b", "file"] in lines
    assert ["cpus", "1", "default"] in lines
    document = json.loads(ballonet("config", "--json").stdout)
    assert document["file"] == str(path)
    assert document["settings"]["memory"] == {"value": "1G", "from": "file"}
    assert set(document["settings"]) == set(KNOWN) < set(SETTINGS)


@pytest.mark.parametrize("words", [["ls"], ["create", "--name", "x"]])
def test_a_command_without_a_file_does_not_load_its_reader(path: Path, words: list[str]) -> None:
    code = f"import sys; from ballonet.cli.main import main; main({words!r}); print('tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
