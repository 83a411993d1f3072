"""What a command must not load: each of these modules takes a noticeable part of its processor time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"asyncio", "dataclasses", "inspect", "ssl", "subprocess", "ballonet.settings.definitions"}
#: Prints the modules that are loaded when a command has ended.
PROGRAM = """
import sys
from ballonet.cli.main import main
main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
"""


def loaded(home: Path, *words: str) -> set[str]:
    environment = {"XDG_STATE_HOME": f"{home}/state", "XDG_RUNTIME_DIR": str(home), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["inspect", "box"],
        ["balloon", "get", "box"],
        ["exec", "box", "true"],
        ["stop", "box"],
        ["rm", "box"],
    ],
    ids=" ".join,
)
def test_a_command_does_not_load_what_it_does_not_need(tmp_path: Path, words: list[str]) -> None:
    modules = loaded(tmp_path, *words)
    assert "sqlite3" in modules, "the command was carried out"
    assert not modules & HEAVY


def test_only_the_wanted_command_is_loaded(tmp_path: Path) -> None:
    modules = loaded(tmp_path, "ls")
    commands = {name for name in modules if name.startswith("ballonet.cli.")}
    assert commands <= {f"ballonet.cli.{name}" for name in ("main", "commands", "parser", "output", "ls")}


def test_a_command_in_a_guest_needs_no_event_loop() -> None:
    code = "import sys, ballonet.cli.attach, ballonet.guest.polled_process; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(out.split()) & HEAVY


def test_asyncio_is_loaded_without_tls_and_tls_can_be_loaded_later() -> None:
    code = (
        "import sys; from ballonet.base.lean_asyncio import load_asyncio; load_asyncio(); import asyncio\n"
        "async def work(): await asyncio.sleep(0); return 'ssl' in sys.modules\n"
        "print(asyncio.run(work())); import ssl; print(ssl.OPENSSL_VERSION)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "False"
    assert "SSL" in out.splitlines()[1]
