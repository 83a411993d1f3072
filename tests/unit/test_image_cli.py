"""What ``ballonet image`` prints and refuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ballonet.images.debian_root import _sources
from ballonet.lifecycle.registry import Registry
from tests.unit.oci import Layout, entry, layer
from tests.unit.terminal import screen_after

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "BALLONET_RUN_DIR": str(tmp_path / "run"),
    }


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "layout")
    made.add(layer(entry("etc/hostname", b"x"), entry("big", os.urandom(1 << 20))), config={"Cmd": ["sh"]})
    return made


def image(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BALLONET, "image", *words], env=env, capture_output=True, text=True, check=False)


def listed(env: dict[str, str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(image(env, "ls", "--json").stdout)
    return found


def test_load_name_list_inspect_and_remove(env: dict[str, str], layout: Layout) -> None:
    loaded = image(env, "load", str(layout.directory), "--tag", "app:1")
    assert loaded.returncode == 0, loaded.stderr
    id = loaded.stdout.strip()
    assert image(env, "tag", id[7:19], "other").returncode == 0
    (row,) = listed(env)
    assert (row["id"], row["names"]) == (id, ["docker.io/library/app:1", "docker.io/library/other:latest"])
    table = image(env, "ls").stdout.splitlines()
    assert table[0].split() == ["NAME", "ID", "SIZE", "AGE", "USED", "BY"]
    assert [line.split()[:3] for line in table[1:]] == [
        [name, id[7:19], "1M"] for name in ("app:1", "other:latest")
    ]
    assert image(env, "ls", "-q").stdout == f"{id}\n"
    (seen,) = json.loads(image(env, "inspect", "app:1").stdout)
    assert (seen["config"]["Cmd"], seen["used_by"]) == (["sh"], [])
    assert image(env, "rm", "app:1").stdout == "removed name app:1\n"
    assert image(env, "rm", "other").stdout == f"removed name other:latest\nremoved image {id}\n"
    assert listed(env) == []
    assert image(env, "prune").stdout == "nothing to remove\n"


def test_an_image_in_use_is_not_removed(env: dict[str, str], layout: Layout) -> None:
    id = image(env, "load", str(layout.directory), "--tag", "app").stdout.strip()
    subprocess.run([*BALLONET, "create", "--name", "box"], env=env, check=True, capture_output=True)
    with Registry.open(Path(env["XDG_STATE_HOME"]) / "ballonet") as registry:
        registry.update("box", image_id=id)
    refused = image(env, "rm", "app")
    assert refused.returncode == 2
    assert "image app is used by box" in refused.stderr
    assert listed(env)[0]["used_by"] == ["box"]
    assert image(env, "prune", "--all").stdout == "nothing to remove\n"
    subprocess.run([*BALLONET, "rm", "box"], env=env, check=True, capture_output=True)
    assert id in image(env, "rm", "app").stdout


def test_bars_are_for_terminals(env: dict[str, str], layout: Layout) -> None:
    pytest.importorskip("tqdm")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    argv = [*BALLONET, "image", "load", str(layout.directory)]
    with subprocess.Popen(
        argv, env={**env, "TERM": "xterm"}, stderr=theirs, stdout=subprocess.PIPE
    ) as program:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert program.returncode == 0
    assert b"writing the root: 100%" in shown
    image(env, "prune")
    assert image(env, "load", str(layout.directory)).stderr == f"ballonet: fetching oci:{layout.directory}\n"


def test_the_last_bar_is_gone_before_the_id_is_printed(env: dict[str, str], layout: Layout) -> None:
    pytest.importorskip("tqdm")
    reference = f"oci:{layout.directory}"
    shown = screen_after([*BALLONET, "image", "pull", reference], env, columns=100)
    (row,) = listed(env)
    assert shown[-1] == row["id"]
    assert not any("%" in line for line in shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pull", "Not A Name"], "not a valid reference"),
        (["pull", "/some/path"], "is a path"),
        (["pull", "--max-layers", "0", "x"], "layers is 0"),
        (["pull", "--max-unpacked", "lots", "x"], "'lots'"),
        (["pull", "--stall-timeout", "0", "x"], "0 s"),
        (["pull", "oci:/nowhere"], "/nowhere"),
        (["load", "/nowhere"], "/nowhere"),
        (["load", "/nowhere", "--tag", "BAD"], "BAD"),
        (["rm", "nothing"], "nothing:latest"),
        (["inspect", "nothing"], "nothing:latest"),
        (["tag", "nothing", "name"], "nothing:latest"),
        (["build-debian", "--tag", "BAD"], "BAD"),
        (["build-debian", "--tag", "x", "--suite", "../x"], "invalid Debian suite '../x'"),
        (["build-debian", "--tag", "x", "--variant", "huge"], "unknown variant 'huge'"),
        (["build-debian", "--tag", "x", "--include", "a b"], "invalid package name 'a b'"),
        (["build-debian", "--tag", "x", "--with", "coed"], "unknown feature 'coed'"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_made(
    env: dict[str, str], tmp_path: Path, words: list[str], said: str
) -> None:
    done = image(env, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("data/ballonet/images/roots/*"))


def test_a_debian_root_comes_from_the_hosts_own_sources(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("# deb http://x bookworm main\ndeb http://x trixie main\n")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/a.sources").write_text(
        "Types: deb\nURIs: http://x\nSuites: bookworm bookworm-updates\n"
    )
    (tmp_path / "sources.list.d/b.sources.disabled").write_text("Suites: bookworm\n")
    assert _sources("bookworm", tmp_path) == [str(tmp_path / "sources.list.d/a.sources")]
    assert _sources("trixie", tmp_path) == [str(tmp_path / "sources.list")]
    assert _sources("sid", tmp_path) == []
