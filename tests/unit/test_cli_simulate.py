"""``ballonet simulate`` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ballonet.cli.main import EXIT_USAGE, main

pytestmark = pytest.mark.long

TRACE = "time,sandbox,working_set_mib,ceiling_mib\n0,web,200,1024\n20,web,700,\n40,web,200,\n0,db,400,1024\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_scenarios_and_policies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    listed = capsys.readouterr().out
    for name in ("clang", "squeezed-h", "hypeman", "adversarial"):
        assert name in listed


def test_a_table_compares_policies_with_static_and_the_oracle(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--trace", str(trace), "--policy", "ballonet", "--policy", "vm0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 sandboxes, 2048 MiB of ceilings" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["static", "ballonet", "vm0", "oracle"]


def test_json_has_every_figure_and_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "simulate",
        "--scenario",
        "squeezed-a",
        "--policy",
        "ballonet",
        "--hosts",
        "2",
        "--seed",
        "4",
        "--json",
    ]
    assert main(words) == 0
    hosts = json.loads(capsys.readouterr().out)
    assert [one["seed"] for one in hosts] == [4, 5]
    arm = hosts[0]["arms"][1]
    assert arm["policy"] == "ballonet"
    assert arm["rules_broken"] == {}
    assert arm["footprint_gib_min"] > 0
    # Without working time there is no slowdown to speak of.
    assert arm["slowdown"] == 0


def test_a_budget_replaces_the_host(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--trace", str(trace), "--policy", "static", "--budget", "1500M"]) == 0
    assert "on 1500 MiB" in capsys.readouterr().out


def test_a_run_can_be_drawn(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "run.png"
    assert main(["simulate", "--trace", str(trace), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scenario", "nothing"], "unknown scenario 'nothing'"),
        (["--policy", "nobody"], "unknown policy 'nobody'"),
        (["--trace", "/nonexistent.csv"], "--trace /nonexistent.csv: No such file or directory"),
        (["--hosts", "0"], "--hosts 0 is outside 1 to 1000"),
        (["--budget", "10"], "--budget 10 MiB is below 64 MiB"),
        (["--plot", "picture.gif"], "suffix must be one of"),
    ],
)
def test_bad_usage_is_refused_before_anything_runs(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *words]) == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_a_trace_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"time,sandbox,working_set_mib\n\xff\xfe\n")
    assert main(["simulate", "--trace", str(path)]) == EXIT_USAGE
    assert "not UTF-8" in capsys.readouterr().err
