"""The metrics of what sandboxes have on disk, and of how they were started."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.samples import collect
from ballonet.machine.paused_file import PAUSED_FILE
from ballonet.metrics.exposition import Exporter
from ballonet.sdk.sandbox import Sandbox


@pytest.fixture(autouse=True)
def directories(
    guest: object, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    for name in ("DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    yield


def exported() -> dict[str, float]:
    """The samples of the metrics without a sandbox, by name and the label ``how``."""
    text = Exporter().render(functools.partial(collect, stored=True)).decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "sandbox" not in sample.labels
    }


async def test_starts_pauses_snapshots_and_templates_are_counted() -> None:
    async with await Sandbox.create("cold", memory="256M", cold=True):
        assert exported()["ballonet_starts_total cold"] == 1
    async with await Sandbox.create("one", memory="256M"):
        pass
    async with await Sandbox.create("box", memory="256M") as box:
        told = exported()
        assert told["ballonet_starts_total template"] >= 1, "the one before has made it"
        assert told["ballonet_starts_total template"] + told["ballonet_starts_total boot"] == 2
        assert told["ballonet_starts_seconds_total template"] > 0
        assert told["ballonet_templates"] >= 1
        assert told["ballonet_templates_bytes"] > 1 << 20
        assert (told["ballonet_paused_sandboxes"], told["ballonet_snapshots"]) == (0, 0)
        snapshot = await box.snapshot("kept")
        await box.pause()
        told = exported()
        assert told["ballonet_paused_sandboxes"] == 1
        saved = state_dir_of("box") / PAUSED_FILE
        assert told["ballonet_paused_sandboxes_bytes"] == saved.stat().st_size
        assert told["ballonet_snapshots"] == 1
        assert told["ballonet_snapshots_bytes"] == snapshot.held_bytes
        assert told["ballonet_starts_total saved"] == 0
        await box.resume()
        told = exported()
        assert told["ballonet_starts_total saved"] == 1
        assert told["ballonet_paused_sandboxes"] == 0
        async with await Sandbox.restore("kept", "copy"):
            assert exported()["ballonet_starts_total saved"] == 2
