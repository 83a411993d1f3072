"""The command line, without a VM: bad input gets one clear line and status 2 before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command line, which must refuse with status 2; what it said on standard error."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ballonet: error: ")
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--memory", "512", "--balloon-initial", "600"],
            "--balloon-initial 600 MiB must not exceed --memory 512 MiB",
        ),
        (
            ["--balloon-initial", "256", "--balloon-min", "300M"],
            "--balloon-min 300 MiB must not exceed --balloon-initial 256 MiB",
        ),
        (["--memory", "0"], "--memory 0 MiB is outside"),
        (["--memory=-1"], "--memory '-1' is not a size"),
        (["--memory", "lots"], "'lots' is not a size"),
        (["--memory", "99999999999G"], "exceeds the largest supported size"),
        (["--memory", "1.0001G"], "not a whole number of MiB"),
        (["--balloon-initial", "0"], "--balloon-initial 0 MiB is outside"),
        (["--balloon-min=-5"], "is not a size"),
        (["--balloon-min", "1T"], "--balloon-min 1048576 MiB must not exceed --memory 512 MiB"),
        (["--cpus", "0"], "--cpus 0 is outside"),
        (["--name", "../x"], "is not valid"),
        (["--name", "a" * 300], "is not valid"),
        (["--balloon-control-socket", ""], "--balloon-control-socket is empty"),
        (["--balloon-control-socket", "/tmp/" + "x" * 103], "108 bytes long"),
        (["--balloon-control-socket", "/nonexistent/x.sock"], "the directory /nonexistent does not exist"),
        (["--workdir", "rel"], "working directory 'rel' is not an absolute path"),
        (["--env", "X"], "--env 'X': the variable is not set in this environment"),
        ([], "no command was given"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    command = [] if not options else ["--", "true"]
    assert message in refused(capsys, "run", *options, *command)


def test_a_regular_file_is_never_deleted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    assert "not a socket" in refused(capsys, "run", "--balloon-control-socket", str(precious), "--", "true")
    assert precious.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_writable_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    message = refused(capsys, "run", "--balloon-control-socket", str(tmp_path / "x.sock"), "--", "true")
    assert "is not writable" in message


def test_unknown_words_are_refused_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["nope"], ["run", "--nope"], ["image", "nope"], ["ls", "nope"], ["image"], ["exec"]):
        assert "hint: " in refused(capsys, *words)


def test_help_names_every_command_and_loads_no_engine(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from ballonet.cli.main import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    for command in ("run", "demo"):
        assert command in done.stdout
    assert "asyncio" not in done.stdout.split()
    assert "\n    sandbox " not in done.stdout, "the hidden command is not shown"


def test_a_plot_that_cannot_be_drawn_is_refused_before_booting(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "the suffix must be one of" in refused(capsys, "demo", "--plot", "x.doc")
    assert "does not exist" in refused(capsys, "demo", "--plot", str(tmp_path / "no" / "x.png"))


def test_the_hidden_command_refuses_bad_flags_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "--name", "x", "--nope", "1"]) == 2
    assert "unknown flag" in capsys.readouterr().err


def test_a_defect_of_ours_is_one_line_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("ballonet.cli.sandbox_options.build_config", broken)
    assert main(["run", "--", "true"]) == 125
    assert capsys.readouterr().err.startswith(
        "ballonet: internal error: ZeroDivisionError: a defect\n  hint: "
    )
