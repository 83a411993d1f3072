"""What the README's first two commands do on a Debian 12 that has only python3, make, apt and git."""

from __future__ import annotations

import subprocess

import pytest

from tests.machines.inside.users import login

CLONE = "git clone -q /ballonet.bundle ballonet"
_SETUP_S = 2300


@pytest.fixture(scope="module", autouse=True)
def reachable() -> None:
    done = subprocess.run(
        ["apt-get", "update", "-q"], capture_output=True, text=True, timeout=_SETUP_S, check=False
    )
    if done.returncode != 0:
        pytest.skip(
            f"the package sources cannot be reached from a guest: {done.stderr.strip().splitlines()[-1]}"
        )


def test_a_plain_user_with_sudo_sets_up_and_sees_the_demo() -> None:
    said = login("alice", f"{CLONE} && cd ballonet && make demo", timeout_s=_SETUP_S)
    assert "host got back" in said


def test_the_unit_tests_pass_as_the_plain_user() -> None:
    said = login("alice", "cd ballonet && make unit", timeout_s=_SETUP_S)
    assert " passed" in said


def test_root_sets_up_and_sees_the_demo() -> None:
    said = login("root", f"{CLONE} && cd ballonet && make demo", timeout_s=_SETUP_S)
    assert "host got back" in said
