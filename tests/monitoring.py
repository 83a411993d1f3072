"""Debian's Prometheus, fetched and unpacked into the cache, never installed (its package starts a server)."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from ballonet.base.debian import fetch_package
from ballonet.base.paths import cache_dir

CONTRIB = Path(__file__).parents[1] / "contrib"
RULES = CONTRIB / "prometheus/ballonet.rules.yml"
PAGE = CONTRIB.with_name("docs") / "metrics.md"
DASHBOARD = CONTRIB / "grafana/ballonet.json"


@functools.cache
def prometheus_program(name: str) -> Path:
    """The path of ``prometheus`` or ``promtool``."""
    return fetch_package("prometheus", cache_dir(), print) / "usr/bin" / name


def promtool(*words: str | Path, stdin: bytes = b"") -> str:
    """Run promtool; what it said. It must be content."""
    done = subprocess.run(
        [prometheus_program("promtool"), *words], input=stdin, capture_output=True, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def dashboard_queries() -> list[str]:
    """Every PromQL query of the dashboard, with its variables filled in."""
    document = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "1m").replace("$sandbox", ".*") for query in queries]


def documented_queries() -> list[str]:
    """The queries that docs/metrics.md gives as examples."""
    (block,) = re.findall(r"^```promql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def ask(base: str, path: str, **parameters: str) -> Any:
    """A question to a Prometheus server's HTTP API; the answer's data."""
    url = f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        document = json.load(answer)
    assert document["status"] == "success", document
    return document["data"]
