"""``docs/tested.md`` says what ran: its tables are those of ``docs/tested.json``, and name tests that exist."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tests.machines import results
from tests.machines.catalogue import INSIDE, KVM, MACHINES, ROOT
from tests.machines.results import Run, load, merge, render, save, with_tables


def test_the_page_has_the_tables_of_what_ran() -> None:
    page = results.PAGE.read_text()
    assert page.count(results.BEGIN) == page.count(results.END) == 1
    assert with_tables(page, render(load(results.KEPT))) == page, "run python -m tests.machines.results"


def test_what_ran_are_tests_that_exist_with_dates_and_versions() -> None:
    runs = load(results.KEPT)
    assert set(runs) <= set(MACHINES)
    for name, run in runs.items():
        assert set(run.outcomes) <= set(MACHINES[name].tests())
        assert set(run.outcomes.values()) <= {"passed", "failed", "skipped"}
        assert set(run.versions) == {"system", "kernel", "python", "qemu"}
        assert date.fromisoformat(run.date) <= date.today()


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_each_machine_has_tests_that_exist(name: str) -> None:
    tests = MACHINES[name].tests()
    assert tests
    assert len(set(tests)) == len(tests)
    for test in tests:
        place, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / place).read_text(), test


def test_each_test_inside_runs_on_a_machine() -> None:
    written = {str(path.relative_to(ROOT)) for path in (ROOT / INSIDE).glob("*/test_*.py")}
    assert written == {
        test.partition("::")[0]
        for machine in MACHINES.values()
        for test in machine.tests()
        if test.startswith(INSIDE)
    }


def test_a_newer_run_keeps_what_it_did_not_run(tmp_path: Path) -> None:
    first, second = KVM.tests()[:2]
    older = {"kvm": Run("2026-01-01", {"qemu": "7.2"}, {first: "passed", second: "passed"})}
    newer = {"kvm": Run("2026-02-01", {"qemu": "10.0"}, {second: "failed"})}
    merged = merge(older, newer)
    assert merged == {"kvm": Run("2026-02-01", {"qemu": "10.0"}, {first: "passed", second: "failed"})}
    save(tmp_path / "runs.json", merged)
    assert load(tmp_path / "runs.json") == merged
    assert load(tmp_path / "none") == {}


def test_tables_name_what_ran_and_what_did_not() -> None:
    first = KVM.tests()[0]
    text = render({"kvm": Run("2026-02-01", {"system": "Debian 12"}, {first: "passed"})}, [KVM])
    what = first.partition("::")[2].removeprefix("test_").replace("_", " ")
    assert f"| {what} | `kvm` | passed |" in text
    assert "| `kvm` | Debian 12 |  |  |  | 2026-02-01 |" in text
    assert text.count("**not run**") == len(KVM.tests()) - 1
