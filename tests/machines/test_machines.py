"""Each test that runs inside an outer machine, as a test here."""

from __future__ import annotations

import pytest

from tests.machines.catalogue import MACHINES
from tests.machines.conftest import Machines

pytestmark = [pytest.mark.machines, pytest.mark.timeout(4000)]

#: Above what a test may take inside: whoever waits for the first waits for pytest's start, too (seconds).
_MORE_S = 200


def _cases() -> list[object]:
    return [
        pytest.param(
            name,
            test,
            id=f"{name}-{test.rpartition('/')[2]}",
            marks=pytest.mark.xdist_group(f"machine-{name}"),
        )
        for name, machine in MACHINES.items()
        for test in machine.tests()
    ]


@pytest.mark.parametrize(("name", "inner"), _cases())
def test_inside(machines: Machines, name: str, inner: str, request: pytest.FixtureRequest) -> None:
    machine = machines.get(name)
    result = machine.result(inner, MACHINES[name].test_s + _MORE_S)
    machines.record(name, inner, result.outcome)
    request.node.user_properties.append(("seconds inside", round(result.seconds, 1)))
    if result.outcome == "skipped":
        pytest.skip(result.text)
    if result.outcome == "failed":
        request.node.add_report_section("call", f"log of machine {name}", machine.log())
        pytest.fail(result.text, pytrace=False)
