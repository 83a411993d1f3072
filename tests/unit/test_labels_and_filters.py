"""Labels of sandboxes, the filters and formats of ``ls``, and the same in the SDK; without a virtual machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError, NotRunningError
from ballonet.cli import ls
from ballonet.cli.row_format import row_format
from ballonet.lifecycle import descriptions
from ballonet.lifecycle.filters import parse_filters
from ballonet.lifecycle.modify import plan_changes
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.row_codec import from_json, to_json
from ballonet.metrics.model import SandboxSample
from ballonet.sdk import sync
from ballonet.sdk.pool import Pool
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.labels import check_labels, parse_labels

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


def record(name: str, **more: object) -> Record:
    flags = ("--name", name, "--cpus", "1", "--memory-mib", "256")
    return Record(name=name, created_at=1.5, flags=flags, **more)  # type: ignore[arg-type]


def ballonet(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BALLONET, *words], capture_output=True, text=True, check=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("XDG_STATE_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    return tmp_path


def test_labels_are_parsed_and_checked() -> None:
    assert parse_labels(["team=web", "url=a=b", "empty=", "bare", "team=api"]) == {
        "team": "api",
        "url": "a=b",
        "empty": "",
        "bare": "",
    }
    for word in ("=x", "a b=1", "-a=1", "a{=1", "k" * 129, "a=\x1b[2J", "a=1\n2", "a=" + "x" * 1025):
        with pytest.raises(ConfigError, match="label"):
            parse_labels([word])
    for value in ("a=1", ["a=1"], {"a": 1}, {1: "a"}, None, {f"k{number}": "" for number in range(65)}):
        with pytest.raises(ConfigError, match="label"):
            check_labels(value)


def test_labels_are_in_the_row_and_in_its_copy(tmp_path: Path) -> None:
    written = record("box", labels={"team": "wéb"})
    with Registry.open(tmp_path) as registry:
        registry.add(written)
        registry.add(record("bare"))
        assert [found.labels for found in registry.list()] == [{}, {"team": "wéb"}]
    assert from_json(to_json(written)) == written
    older = json.loads(to_json(written))
    del older["labels"]
    assert from_json(json.dumps(older).encode()).labels == {}


def test_damaged_labels_do_not_hide_a_sandbox(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        registry.add(record("box"))
        registry._connection.execute("UPDATE sandboxes SET labels = '[1]'")
        (found,) = registry.list()
        assert (found.name, found.labels) == ("box", {})
        assert "labels" in str(found.unreadable)


def test_a_change_of_labels_replaces_them_all_at_once() -> None:
    old = record("box", labels={"a": "1", "b": "2"})
    plan = plan_changes(old, None, {"labels": {"c": "3"}})
    assert plan.row == {"labels": {"c": "3"}}
    (change,) = plan.changes
    assert (change.old, change.new, change.when) == ("a=1, b=2", "c=3", "live")
    with pytest.raises(ConfigError):
        plan_changes(old, None, {"labels": {"": "3"}})


def test_filters_select_one_of_the_same_key_and_all_labels() -> None:
    web = record("web-1", labels={"team": "web", "tier": "1"}, image="debian:12", state=State.RUNNING)
    api = record("api-1", labels={"team": "api"}, state=State.STOPPED)

    def selected(*words: str) -> list[str]:
        filters = parse_filters(words)
        return [each.name for each in (web, api) if filters.match(each)]

    assert selected() == ["web-1", "api-1"]
    assert selected("name=web-*") == ["web-1"]
    assert selected("name=web-1", "name=api-1") == ["web-1", "api-1"]
    assert selected("name=web") == []
    assert selected("state=stopped") == ["api-1"]
    assert selected("label=team") == ["web-1", "api-1"]
    assert selected("label=team=web", "label=tier") == ["web-1"]
    assert selected("label=team=web", "label=team=api") == []
    assert selected("image=debian:*", "state=running") == ["web-1"]
    assert selected("image=*") == ["web-1"]
    assert not parse_filters([])
    for word in ("nam=x", "state=dead", "label==x", "name=", "name", ""):
        with pytest.raises(ConfigError, match=r"filter|label"):
            parse_filters([word])


def test_a_format_has_known_fields_only() -> None:
    known = ("name", "labels", "command", "pid")
    row = {"name": "box", "labels": {"a": "1", "b": ""}, "command": ["sh", "-c"], "pid": None}
    assert row_format("{name:<5}|{pid}|{{x}}\\t{labels}", known)(row) == "box  |-|{x}\ta=1,b="
    assert row_format("{labels.a} {labels.none} {command}", known)(row) == "1 - sh -c"
    for text in (
        *("{nam}", "{", "{}", "{0}", "{name.__class__}", "{name[0]}", "{name!r}", "{name:q}", "{name:9999}"),
        *("{name:{pid}}", "{name:\n}"),
    ):
        with pytest.raises(ConfigError, match="format"):
            row_format(text, known)


def test_the_documented_fields_are_those_of_a_row() -> None:
    sample = SandboxSample(name="box", state="created", run_id=None, created_at=1.5, at=2.0, unknown={})
    assert tuple(descriptions._row(record("box"), sample)) == ls.FIELDS


def test_labels_on_the_command_line(home: Path) -> None:
    assert ballonet("create", "--name", "web", "-l", "team=web", "--label", "tier=1").returncode == 0
    assert ballonet("create", "--name", "api", "-l", "team=api").returncode == 0
    assert ballonet("ls", "-q", "--filter", "label=tier").stdout == "web\n"
    assert ballonet("ls", "-f", "name=a*", "--format", "{name} {labels.team}").stdout == "api api\n"
    assert ballonet("ls", "-f", "name=none", "--format", "{name}").stdout == ""
    assert ballonet("ps", "-f", "name=web", "-q").stdout == ""
    (row,) = json.loads(ballonet("inspect", "web").stdout)
    assert row["labels"] == {"team": "web", "tier": "1"}
    assert ballonet("modify", "web", "-l", "team=ops").returncode == 0
    assert json.loads(ballonet("ls", "--json", "-f", "name=web").stdout)[0]["labels"] == {"team": "ops"}
    assert ballonet("modify", "web", "--label", "").returncode == 0
    assert json.loads(ballonet("ls", "--json", "-f", "name=web").stdout)[0]["labels"] == {}
    for words in (["--format", "{x}"], ["--filter", "x=1"], ["--format", "{name}", "--json"]):
        done = ballonet("ls", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "hint:" in done.stderr
    assert ballonet("create", "--name", "new", "-l", "=x").returncode == 2
    assert ballonet("ls", "-q", "-f", "name=new").stdout == ""


def test_groups_of_sandboxes_are_removed_or_refused(home: Path) -> None:
    with Registry.open() as registry:
        for name in ("a1", "a2", "b1"):
            registry.add(record(name, labels={"group": name[0]}))
    for words in (
        ["rm"],
        ["rm", "--all", "a1"],
        ["stop", "--filter", "x=1"],
        ["rm", "--filter", "name=a*", "b1"],
    ):
        done = ballonet(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
    assert ballonet("stop", "--all").stdout == ballonet("kill", "--all").stdout == "", "none is running"
    assert ballonet("stop", "--filter", "state=created").stdout == "a1\na2\nb1\n"
    assert ballonet("rm", "--filter", "label=group=a").stdout == "a1\na2\n"
    assert ballonet("ls", "-q").stdout == "b1\n"
    done = ballonet("rm", "nobody", "b1", "none")
    assert (done.returncode, done.stdout, done.stderr.count("error:")) == (2, "b1\n", 2)
    assert ballonet("rm", "-a").returncode == 0


def test_signals_need_a_running_sandbox_and_a_name_that_exists(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("box"))
    for words in (
        ["kill", "box"],
        ["kill", "-s", "HUP", "box"],
        ["kill", "-s", "SIGNOPE", "box"],
        ["kill", "-s", "99", "box"],
    ):
        done = ballonet(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert "hint:" in done.stderr
    box = sync.Sandbox.get("box")
    for signal in ("NOPE", 0, 99, 1.5, True, None):
        with pytest.raises(ConfigError, match="signal"):
            box.send_signal(signal)  # type: ignore[arg-type]
    with pytest.raises(NotRunningError):
        box.send_signal("HUP")


def test_lists_of_the_sdk_are_filtered(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("web", labels={"team": "web"}, image="debian:12"))
        registry.add(record("api", labels={"team": "api"}))
    assert [each.name for each in asyncio.run(Sandbox.list(labels={"team": None}))] == ["api", "web"]
    assert [each.name for each in asyncio.run(Sandbox.list(labels={"team": "web"}))] == ["web"]
    assert [each.name for each in sync.Sandbox.list(name="a*", state="created")] == ["api"]
    assert [each.name for each in sync.Sandbox.list(image="debian:*")] == ["web"]
    with pytest.raises(ConfigError, match="state=dead"):
        sync.Sandbox.list(state="dead")
    changed = sync.Sandbox.get("web").modify(labels={"team": "ops"})
    assert [(change.setting, change.state) for change in changed] == [("labels", "done")]
    assert sync.Sandbox.get("web").record().labels == {"team": "ops"}


def test_labels_that_are_not_valid_are_refused_before_anything_is_made(home: Path) -> None:
    with pytest.raises(ConfigError, match="label"):
        sync.Sandbox.create("box", labels={"": "x"})
    with pytest.raises(ConfigError, match="label"):
        Pool(size=1, labels={"": "x"})
    assert not os.path.exists(home / "xdg_state_home" / "ballonet" / "registry.db")  # noqa: PTH110
