"""The model and its Prometheus text, from samples made by hand. Real sandboxes: tests/vm/test_metrics.py."""

from __future__ import annotations

import io
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ballonet.base.errors import ConfigError, HostError
from ballonet.base.paths import private_dir, state_dir_of
from ballonet.cli.metrics import parse_address
from ballonet.cli.plot import in_force
from ballonet.control.backend import EarlierTotals, GuestMemory, GuestPressure, HostMemory, Stats
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.network import network_sample
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.samples import collect, history_path, read_samples
from ballonet.machine.notes import MachineNote
from ballonet.metrics.columns import COLUMNS, host_row, row, write_csv
from ballonet.metrics.exposition import Counters, Exporter
from ballonet.metrics.history import HistoryWriter
from ballonet.metrics.model import STALE_S, STATES, HostSample, SandboxSample, Snapshot, sample_of
from ballonet.metrics.plotting import draw
from ballonet.metrics.stored import StoredSample
from ballonet.settings.config import SandboxConfig
from tests.unit.own_host import own_directories

pytestmark = pytest.mark.long

HOST = HostSample(at=1, total=1000, available=500, committed=1500, promised=800, held=300)
SAMPLE = SandboxSample(
    name="box", state="running", run_id="a", at=10, guest_at=9.5, ceiling=1024, actual=512, resident=400,
    guest_ram=300, oom_kills=2,
)  # fmt: skip


def values(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_known_is_told_and_what_is_unknown_is_not_there() -> None:
    told = values(Exporter().render(lambda: Snapshot(HOST, [SAMPLE])))
    box = (("sandbox", "box"),)
    assert told["ballonet_sandbox_memory_ceiling_bytes", box] == 1024
    assert told["ballonet_sandbox_memory_overhead_bytes", box] == 100
    assert told["ballonet_sandbox_memory_unheld_bytes", box] == 724
    assert told["ballonet_sandbox_memory_guest_oom_kills_total", box] == 2
    assert told["ballonet_sandbox_guest_report_age_seconds", box] == 0.5
    assert told["ballonet_host_memory_overcommit_ratio", ()] == 1.5
    assert ("ballonet_sandbox_memory_target_bytes", box) not in told
    assert ("ballonet_sandbox_memory_guest_major_faults_total", box) not in told


def test_networks_are_told_by_rule() -> None:
    counters = {
        "allowed": 7,
        "rules": [
            {"action": "allow", "rule": "a.test:443", "connections": 4},
            {"action": "deny", "rule": "9.9.9.9", "connections": 2},
        ],
        "reasons": {"host": 1, "denied": 2, "other": 0},
        "sent_bytes": 900,
        "received_bytes": 1000,
        "names_asked": 5,
        "names_refused": 3,
    }
    text = Exporter().render(lambda: Snapshot(HOST, [SAMPLE], networks=[network_sample("box", counters)]))
    told = {
        (name.removeprefix("ballonet_sandbox_network_"), dict(labels).get("rule")): value
        for (name, labels), value in values(text).items()
        if "_network_" in name
    }
    assert told == {
        ("sent_bytes_total", None): 900,
        ("received_bytes_total", None): 1000,
        ("names_asked_total", None): 5,
        ("names_refused_total", None): 3,
        ("connections_allowed_total", "a.test:443"): 4,
        ("connections_allowed_total", ""): 3,
        ("connections_refused_total", "9.9.9.9"): 2,
        ("connections_refused_total", "host"): 1,
        ("connections_refused_total", "other"): 0,
    }


def test_counters_never_go_backwards_and_are_anothers_after_a_new_creation() -> None:
    counters = Counters()
    told = [
        counters.value(sample, "oom_kills", sample.oom_kills)
        for sample in (
            SAMPLE,
            replace(SAMPLE, oom_kills=None),  # a guest that does not answer
            replace(SAMPLE, run_id="b", oom_kills=1),  # a killed run had not written its last one down
            replace(SAMPLE, run_id="b", oom_kills=5),
            replace(SAMPLE, created_at=11, oom_kills=0),
            replace(SAMPLE, created_at=11, oom_kills=None),
        )
    ]
    assert told == [2, 2, 2, 5, 0, 0]
    assert counters.value(replace(SAMPLE, name="other"), "oom_kills", None) is None


def test_a_failed_look_is_told_and_the_next_one_may_do() -> None:
    exporter = Exporter()

    def fails() -> Snapshot:
        raise HostError("the registry cannot be read")

    served = generate_latest(exporter.registry(fails))
    assert values(served) == {("ballonet_collect_success", ()): 0}
    served = generate_latest(exporter.registry(lambda: Snapshot(HOST, [SAMPLE])))
    assert values(served)["ballonet_collect_success", ()] == 1
    with pytest.raises(HostError, match="cannot be read"):
        exporter.render(fails)


def test_counters_of_removed_sandboxes_are_forgotten() -> None:
    exporter = Exporter()
    exporter.render(lambda: Snapshot(HOST, [SAMPLE]))
    exporter.render(lambda: Snapshot(HOST, []))
    told = values(exporter.render(lambda: Snapshot(HOST, [replace(SAMPLE, oom_kills=None)])))
    assert ("ballonet_sandbox_memory_guest_oom_kills_total", (("sandbox", "box"),)) not in told


def test_labels_are_escaped_and_help_is_there() -> None:
    unknown = {"guest": 'a "quoted"\nreason'}
    text = Exporter().render(lambda: Snapshot(HOST, [replace(SAMPLE, unknown=unknown)]))
    told = values(text)
    labels = (("figures", "guest"), ("reason", 'a "quoted"\nreason'), ("sandbox", "box"))
    assert told["ballonet_sandbox_unknown_info", labels] == 1
    assert told["ballonet_sandbox_known", (("figures", "guest"), ("sandbox", "box"))] == 0
    assert told["ballonet_sandbox_known", (("figures", "host"), ("sandbox", "box"))] == 1
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation.endswith(".")
        assert family.name.startswith("ballonet_")


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The path of a socket that is bound and where nobody answers; the registry is the test's own."""
    own_directories(tmp_path, monkeypatch)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "silent"))
        bound.listen(256)
        yield str(tmp_path / "silent")


def register(
    registry: Registry, name: str, control_socket: str | None = None, *, running: bool = True
) -> None:
    """A sandbox; for one that runs this process stands, and for its engine."""
    lifecycle.create(registry, SandboxConfig(name=name, balloon_min_mib=128))
    if not running:
        return
    registry.begin_run(name, "run1", ProcessId.current())
    registry.update(name, state=State.RUNNING, started_at=1.0)
    MachineNote(
        run_id="run1",
        process=ProcessId.current(),
        ready=True,
        flags=registry.get(name).flags,
        control_socket=control_socket,
        started_at=1.0,
        engine=ProcessId.current(),
    ).write(private_dir(state_dir_of(name)))


def test_a_sandbox_that_is_stuck_or_does_not_run_is_told_as_that(silent: str) -> None:
    """The scrape ends at the deadline and has the other sandboxes."""
    with Registry.open() as registry:
        register(registry, "idle", running=False)
        register(registry, "stuck", silent)
        idle, stuck = collect(deadline_s=0.2).sandboxes
    assert (idle.state, idle.unknown["balloon"], idle.resident) == ("created", "it is created", None)
    assert (stuck.state, stuck.unknown["balloon"]) == ("running", "no answer within 0.2 s")
    assert stuck.resident is not None
    assert stuck.target is None


def test_many_stuck_sandboxes_do_not_make_a_scrape_endless(silent: str) -> None:
    """Each may take a minute, all together half a second: the sandboxes that were not queried are reported as such."""
    with Registry.open() as registry:
        for n in range(70):
            register(registry, f"stuck-{n}", silent)
        samples = collect(deadline_s=60, overall_s=0.5).sandboxes
    reasons = [sample.unknown["guest"].split(":")[0].split(" within")[0] for sample in samples]
    assert reasons.count("no answer") == 64
    assert reasons.count("it was not asked") == 6


def test_a_guest_that_has_stopped_reporting_is_unknown_and_what_it_counted_stays() -> None:
    stats = Stats(
        guest=GuestMemory(age_s=STALE_S + 1, available_mib=100, major_faults=7),
        pressure=GuestPressure(some_avg10=50, some_total_us=9),
        oom_kills=2,
        host=HostMemory(resident_mib=5, pss_mib=4),
        earlier=EarlierTotals(major_faults=10, oom_kills=1),
    )
    told = sample_of(name="a", run_id="r", at=1000, balloon=None, stats=stats, ceiling_mib=64)
    assert told.unknown == {"balloon": "it has no balloon", "guest": "the guest has stopped reporting"}
    assert (told.guest_available, told.pressure_some_avg10) == (None, None)
    assert (told.major_faults, told.oom_kills, told.pressure_some_us) == (17, 3, 9)
    assert told.guest_age_s == STALE_S + 1


def test_a_process_that_ends_after_the_look_at_the_registry_is_told(silent: str) -> None:
    left = subprocess.Popen(["true"])
    process = ProcessId.of(left.pid)
    left.wait()
    gone = Record(
        name="gone", created_at=1, flags=("--memory=64",), state=State.RUNNING, run_id="run1", process=process
    )
    (told,) = read_samples([gone])
    assert told.unknown == dict.fromkeys(("balloon", "host", "pss", "guest"), "its process has just ended")


def test_a_sandbox_without_a_balloon_has_what_its_history_says(silent: str) -> None:
    """It has no control socket; the host's values of its engine are current."""
    with Registry.open() as registry:
        register(registry, "bare")
        (told,) = collect().sandboxes
        assert told.unknown == dict.fromkeys(("balloon", "pss", "guest"), "it has no balloon")
        writer = HistoryWriter(history_path("bare"))
        writer.write(replace(SAMPLE, run_id="run1", guest_available=77, pss=5, pss_age_s=1.0, resident=1))
        writer.close()
        (told,) = collect().sandboxes
    assert told.unknown == {"balloon": "it has no balloon"}
    assert (told.name, told.guest_available, told.guest_at, told.pss) == ("bare", 77, SAMPLE.guest_at, 5)
    assert told.resident is not None
    assert told.resident > 1
    assert told.pss_age_s is not None
    assert told.pss_age_s > 1000


def test_rows_have_the_same_names_in_every_form() -> None:
    told = io.StringIO()
    write_csv([SAMPLE], told)
    header, line = told.getvalue().splitlines()
    assert header.split(",") == list(COLUMNS)
    assert set(row(SAMPLE)) == {*COLUMNS, "unknown"}
    assert dict(zip(COLUMNS, line.split(","), strict=True))["overhead"] == "100"
    assert "overcommit" in host_row(HOST)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_histories_are_drawn_whatever_is_unknown_in_them(tmp_path: Path, suffix: str) -> None:
    moving = [
        replace(SAMPLE, at=100.0 + n, guest_at=100.0 + n, actual=1024 - n, guest_available=10, limit=1000,
                pressure_some_us=n * 100_000, run_id="a" if n < 5 else "b")
        for n in range(10)
    ]  # fmt: skip
    bare = [SandboxSample(name="bare", state="running", at=101.0, ceiling=16 << 30)]
    for from_start in (False, True):
        draw([moving, bare], tmp_path / f"x.{suffix}", from_start=from_start)
    assert (tmp_path / f"x.{suffix}").stat().st_size > 1000
    with pytest.raises(HostError, match="cannot be written"):
        draw([moving], tmp_path / "no" / f"x.{suffix}")


@pytest.mark.parametrize("until", [None, 99.0, 500.0])
def test_the_last_value_is_carried_forward_where_it_still_holds_and_the_legend_says_so(
    tmp_path: Path, until: float | None
) -> None:
    samples = [replace(SAMPLE, at=float(at), guest_at=None) for at in (90, 100)]
    draw([samples, samples], tmp_path / "x.svg", until=[until, None])
    # Text is drawn as paths, each with its words in a comment.
    drawn = (tmp_path / "x.svg").read_text()
    assert ("<!-- carried forward from the last sample -->" in drawn) == (until == 500.0)
    assert drawn.count("<!-- guest RAM on the host -->") == 1


@pytest.mark.parametrize(
    ("since", "living", "ats"),
    [
        (None, "b", [10, 20, 200, 230]),
        (205, "b", [205, 230]),
        (205, None, [205, 230]),
        (300, "b", [300]),
        (300, None, []),
        (300, "c", []),
        (100, "b", [200, 230]),
        (5, "b", [10, 20, 200, 230]),
        (600, "b", []),
    ],
)  # fmt: skip
def test_since_begins_with_the_sample_that_held_then(
    since: float | None, living: str | None, ats: list[float]
) -> None:
    samples = [replace(SAMPLE, at=float(at), run_id="a" if at < 100 else "b") for at in (10, 20, 200, 230)]
    assert [one.at for one in in_force(samples, since, 500.0, living)] == ats


def test_addresses() -> None:
    assert parse_address("127.0.0.1:9400") == ("127.0.0.1", 9400)
    assert parse_address("[::1]:1") == ("::1", 1)
    for wrong in ("", "9400", ":9400", "a:b", "a:99999"):
        with pytest.raises(ConfigError, match="not ADDRESS:PORT"):
            parse_address(wrong)


def test_metrics_know_every_state_of_a_sandbox() -> None:
    assert list(STATES) == [state.value for state in State]


def test_what_is_stored_and_how_sandboxes_were_started_is_exported() -> None:
    stored = StoredSample(paused=2, paused_bytes=99, snapshots=0, starts={"template": (3, 0.75)})
    told = values(Exporter().render(lambda: Snapshot(HOST, [], stored)))
    assert told["ballonet_paused_sandboxes", ()] == 2
    assert told["ballonet_paused_sandboxes_bytes", ()] == 99
    assert told["ballonet_snapshots", ()] == 0
    assert ("ballonet_snapshots_bytes", ()) not in told, "it is unknown"
    assert told["ballonet_starts_total", (("how", "template"),)] == 3
    assert told["ballonet_starts_seconds_total", (("how", "template"),)] == 0.75
