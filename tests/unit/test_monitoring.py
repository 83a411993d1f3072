"""Checks the files for Prometheus and Grafana with their own tools."""

from __future__ import annotations

import json
import re
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ballonet.metrics.exposition import Exporter
from ballonet.metrics.model import Snapshot
from tests.monitoring import CONTRIB, DASHBOARD, RULES, dashboard_queries, promtool
from tests.unit.test_metrics import HOST, SAMPLE

_NAME = re.compile(r"\bballonet_[a-z0-9_]+")


def told() -> bytes:
    return generate_latest(Exporter().registry(lambda: Snapshot(HOST, [SAMPLE])))


def metric_names() -> set[str]:
    """As queries write them: counters with their ending."""
    families = text_string_to_metric_families(told().decode())
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def test_promtool_finds_no_fault_with_what_is_exported() -> None:
    assert promtool("check", "metrics", stdin=told()) == ""


def test_alert_rules_are_sound_and_fire_when_they_should() -> None:
    assert "3 rules found" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("test", "rules", RULES.with_name("ballonet.rules.test.yml"))
    assert "valid prometheus config" in promtool("check", "config", RULES.with_name("prometheus.yml"))


def test_a_wrong_rule_would_be_found(tmp_path: Any) -> None:
    """The rules' tests are effective: they fail with another threshold."""
    for name in ("ballonet.rules.yml", "ballonet.rules.test.yml"):
        text = (CONTRIB / "prometheus" / name).read_text()
        (tmp_path / name).write_text(text.replace("[2m]) > 0.1", "[2m]) > 0.01"))
    try:
        promtool("test", "rules", tmp_path / "ballonet.rules.test.yml")
    except AssertionError as error:
        assert "BallonetGuestPressure" in str(error)
    else:
        raise AssertionError("a threshold of a tenth of the right one was not noticed")


def test_the_dashboard_has_only_what_grafana_knows() -> None:
    """Read and written by Grafana's own SDK, nothing of it is lost or changed."""
    document = json.loads(DASHBOARD.read_text())
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
    assert list(lost(document, written)) == []
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels lie over each other"
    assert max(x for x, _ in cells) == 23


def lost(ours: Any, theirs: Any, path: str = "") -> Any:
    """What of ``ours`` is not in ``theirs``."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            if not isinstance(theirs, dict) or name not in theirs:
                yield f"{path}/{name}"
            else:
                yield from lost(value, theirs[name], f"{path}/{name}")
    elif isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            yield path
        else:
            for at, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                yield from lost(one, other, f"{path}[{at}]")
    elif ours != theirs:
        yield path


def test_every_query_names_a_metric_that_exists() -> None:
    known = metric_names()
    queries = dashboard_queries()
    assert len(queries) > 20
    for text in [*queries, RULES.read_text()]:
        names = set(_NAME.findall(text))
        assert names <= known, names - known
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        assert panel["targets"]
        assert all(_NAME.search(target["expr"]) for target in panel["targets"])
