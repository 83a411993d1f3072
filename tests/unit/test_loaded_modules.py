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


#: Modules that load much: ``inspect`` loads ``ast``, and ``hashlib`` loads ``_hashlib``, which loads OpenSSL.
HEAVY_FOR_A_START = {"ssl", "ast", "_hashlib", "dataclasses"}
_LEAN = "import sys; from ballonet.base.lean_asyncio import load_asyncio; load_asyncio()\n"


@pytest.mark.parametrize(
    "imports",
    [
        "ballonet.machine.main, ballonet.machine.services, ballonet.machine.requests, ballonet.vmm.qemu.vm",
        "ballonet.machine.launch, ballonet.cli.run, ballonet.cli.run_attached, ballonet.pilot.admission_control",
    ],
    ids=["the sandbox's process", "the command line"],
)
def test_a_start_loads_neither_openssl_nor_inspect(imports: str) -> None:
    code = f"{_LEAN}import {imports}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "asyncio" in out.split()
    assert not set(out.split()) & HEAVY_FOR_A_START


def test_a_deferred_module_is_loaded_when_it_is_used() -> None:
    code = (
        f"{_LEAN}import asyncio, inspect, signal, tokenize\n"
        "async def work():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    loop.add_signal_handler(signal.SIGUSR1, print)\n"
        "    try: loop.add_signal_handler(signal.SIGUSR2, work)\n"
        "    except TypeError as error: print(error)\n"
        "asyncio.run(work())\n"
        "print('ast' in sys.modules)\n"
        "print(inspect.signature(lambda a, b: 0), inspect.iscoroutinefunction(work), tokenize.NAME)\n"
        "print('ast' in sys.modules, sys.modules['inspect'].signature is inspect.signature)\n"
        "from inspect import Parameter; print(Parameter.__name__, hasattr(inspect, 'nonsense'))\n"
        "import logging\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.exception('shown')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "coroutines cannot be used with add_signal_handler()",
        "False",
        "(a, b) True 1",
        "True True",
        "Parameter False",
    ]
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_a_digest_is_that_of_hashlib() -> None:
    import hashlib

    from ballonet.base.digest import sha256_hex

    for data in (b"", b"a", bytes(range(256)) * 99):
        assert sha256_hex(data) == hashlib.sha256(data).hexdigest()


def test_a_command_collects_garbage_seldom_only_until_it_begins() -> None:
    program = """
import argparse, gc, sys
usual = gc.get_threshold()
from ballonet.cli import commands, program
build = commands.build_parser
def built(name):
    seldom = gc.get_threshold()
    parser = build(name)
    def run(options):
        print(seldom[0] > 10 * usual[0], gc.get_threshold() == usual, gc.get_freeze_count() > 0)
        return 0
    parser.find(["version"]).set_defaults(run=run)
    return parser
commands.build_parser = built
sys.argv = ["ballonet", "version"]
program.program()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True True True\n"
