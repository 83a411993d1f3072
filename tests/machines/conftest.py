"""Outer machines for the tests, one at a time in each process: hosts that run as ballonet's own guests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ballonet.base.errors import GuestError
from tests.machines import results
from tests.machines.catalogue import MACHINES
from tests.machines.host import HostMachine
from tests.machines.image import data_home
from tests.machines.inner import NotHereError
from tests.machines.limited import LimitedMachine
from tests.machines.outer import OuterMachine
from tests.machines.root import RootMachine

# Those tests run inside a machine, where this variable is set.
if "BALLONET_MACHINE" not in os.environ:
    collect_ignore = ["inside"]


AnyMachine = OuterMachine | HostMachine
KINDS: dict[str, type[AnyMachine]] = {
    "guest": OuterMachine,
    "engine": HostMachine,
    "limited": LimitedMachine,
    "root": RootMachine,
}
_ATTEMPTS = 3


@pytest.fixture(scope="session")
def machine_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A registry and sockets of the tests' own; images are kept between runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALLONET_RUN_DIR", str(tmp_path_factory.mktemp("run")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_DATA_HOME", str(data_home()))
        yield


@pytest.fixture(scope="session")
def machines(request: pytest.FixtureRequest, machine_directories: None) -> Iterator[Machines]:
    """The outer machines, by name."""
    running = Machines(request.session)
    yield running
    running.close()


class Machines:
    """The outer machines of a session: one runs at a time."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._running: AnyMachine | None = None
        self._not_here: dict[str, str] = {}
        self._broken: dict[str, str] = {}
        self._runs: results.Runs = {}

    def get(self, name: str) -> AnyMachine:
        """The machine of that name, booted, with its selected tests running inside; skips where it cannot be had."""
        if self._running is None or self._running.machine.name != name:
            self.close()
            if name not in self._not_here and name not in self._broken:
                self._start(name)
            if name in self._not_here:
                pytest.skip(f"machine {name}: {self._not_here[name]}")
            if name in self._broken:
                pytest.fail(f"machine {name} did not start: {self._broken[name]}", pytrace=False)
        assert self._running is not None
        return self._running

    def record(self, name: str, test: str, outcome: str) -> None:
        """Note how a test ended, for ``docs/tested.md``."""
        self._runs[name].outcomes[test] = outcome

    def close(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None
        results.add(results.last_results(), self._runs)

    def _start(self, name: str) -> None:
        try:
            outer = self._running = self._booted(name)
            self._runs[name] = results.Run(datetime.now(UTC).date().isoformat(), dict(outer.facts()))
            outer.begin(self._selected(name))
        except NotHereError as error:
            self._not_here[name] = str(error)
        except BaseException as error:
            self._broken[name] = str(error)
            raise

    def _booted(self, name: str) -> AnyMachine:
        """Booted again where its guest ended: an emulated kernel panics now and then on a busy host."""
        for attempt in range(1, _ATTEMPTS + 1):
            machine = MACHINES[name]
            outer = KINDS[machine.kind](machine)
            try:
                outer.start()
            except BaseException as error:
                outer.close()
                if not isinstance(error, GuestError) or attempt == _ATTEMPTS:
                    raise
            else:
                return outer
        raise AssertionError("unreachable")

    def _selected(self, name: str) -> list[str]:
        """The inner tests of the items that this session runs on that machine."""
        here = Path(__file__).parent
        items = [
            item for item in self._session.items if here in item.path.parents and hasattr(item, "callspec")
        ]
        parameters = [item.callspec.params for item in items]
        return [known["inner"] for known in parameters if known.get("name") == name]
