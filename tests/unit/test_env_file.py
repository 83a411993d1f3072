"""``--env-file`` and ``--hostname``: what is read, and what is refused before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.cli.env_file import read_env_file
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import parse_config, render_flags

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


def test_lines_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "from here")
    path = tmp_path / "env"
    path.write_bytes(
        '\ufeff# comment\n\n  A=1\r\nB="quoted" # not a comment\nC=\nD=a=b\nHERE\nA=2\nÜ=ü'.encode()
    )
    assert read_env_file(str(path)) == {
        "A": "2",
        "B": '"quoted" # not a comment',
        "C": "",
        "D": "a=b",
        "HERE": "from here",
        "Ü": "ü",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\n=2", "line 2: ''"),
        (b"A B=1", "line 1"),
        (b"export A=1", "line 1"),
        (b"A =1", "line 1"),
        (b"\n\nNOT_SET_HERE", "line 3: the variable 'NOT_SET_HERE' is not set"),
        (b"A=\0", "line 1"),
        (b"\xff=1", "not UTF-8"),
        (b"A=" + b"x" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_a_line_that_is_not_valid_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "env"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_env_file(str(path))
    assert said in raised.value.message
    assert str(path) in raised.value.message


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none"), "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_env_file(path)


def test_variables_of_files_and_options_and_the_host_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name, text in (("one", "A=1\nB=1\nC=1"), ("two", "B=2\nC=2")):
        (tmp_path / name).write_text(text)

    def ballonet(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*BALLONET, *words], capture_output=True, text=True, check=False, cwd=tmp_path)

    files = ["--env-file", "one", "--env-file", "two"]
    assert (
        ballonet("create", "--name", "box", *files, "-e", "C=3", "--hostname", "web.example").returncode == 0
    )
    (seen,) = json.loads(ballonet("inspect", "box").stdout)
    assert {name: seen["env"][name] for name in "ABC"} == {"A": "1", "B": "2", "C": "3"}
    assert seen["desired"]["hostname"] == "web.example"
    assert ballonet("modify", "box", "--hostname", "").returncode == 0
    assert json.loads(ballonet("inspect", "box").stdout)[0]["desired"]["hostname"] is None
    for words in (["--env-file", "none"], ["--hostname", "a_b"]):
        done = ballonet("run", *words, "--", "true")
        assert (done.returncode, done.stdout) == (2, "")
        assert words[0] in done.stderr
        assert words[1] in done.stderr
    assert ballonet("exec", "--env-file", "none", "box", "true").returncode == 2


@pytest.mark.parametrize(
    "name", ["-a", "a-", "a..b", ".a", "a.", "a b", "a_b", "ü", "a" * 64 + "." + "b", "x" * 64, 5]
)
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="hostname"):
        SandboxConfig(name="box", hostname=name)


def test_a_host_name_is_a_flag_of_the_process() -> None:
    config = SandboxConfig(name="box", hostname="a-1.Example")
    assert parse_config(render_flags(config)).guest_name == "a-1.Example"
    assert SandboxConfig(name="box", hostname="").guest_name == "box"
    assert "--hostname" not in render_flags(SandboxConfig(name="box"))
