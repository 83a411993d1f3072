"""``ballonet run``: a sandbox for one command, or with ``-d`` in the background."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir_of
from ballonet.cli.attach import joined_from
from ballonet.cli.boot_notice import notice_if_slow
from ballonet.cli.command_options import (
    EXIT_STATUSES,
    add_admission_option,
    add_cold_option,
    add_command_options,
    add_from_option,
    add_stream_options,
    add_timeout_option,
    argv_from,
    defaults_from,
    timeout_from,
)
from ballonet.cli.local_terminal import check_streams
from ballonet.cli.progress import report_progress
from ballonet.cli.run_attached import run_attached
from ballonet.cli.sandbox_options import add_sandbox_options, command_from, policy_from, prepared_from
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import Settings
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import start_sandbox
from ballonet.lifecycle.stop import discard_sandbox
from ballonet.machine.guest_files import guest_for
from ballonet.settings.config import SandboxConfig

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess

#: What ``run -it`` runs if neither the command line nor the image has a command.
_SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash; fi; exec sh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sandbox_options(parser)
    add_stream_options(parser)
    add_timeout_option(parser)
    parser.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="run in the background: return when the sandbox is up; it stays until its command ends or it is stopped",
    )
    parser.add_argument("--rm", action="store_true", help="with -d: remove the sandbox when it ends")
    add_admission_option(parser)
    add_cold_option(parser)
    add_from_option(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the command line of the engine, and start nothing"
    )
    add_command_options(parser)
    parser.epilog = EXIT_STATUSES


def run(options: argparse.Namespace) -> int:
    from ballonet.sdk.random_name import random_name

    if options.detach and (options.tty or options.interactive):
        raise ConfigError("-d cannot be combined with -i or -t", hint="use 'ballonet exec -it' afterwards")
    shell = options.tty and options.interactive and options.entrypoint is None and not argv_from(options)
    if shell and not options.image:
        options.argv = list(_SHELL)
    if not (
        options.detach
        or options.from_snapshot
        or options.image
        or options.rootfs
        or options.dry_run
        or argv_from(options)
    ):
        raise ConfigError(
            "no command was given",
            hint="for example: ballonet run -- uname -a, or ballonet run -it for a shell",
        )
    if options.idle and not options.detach:
        raise ConfigError("--idle needs -d: without it, 'run' ends with its command")
    timeout = timeout_from(options)
    if timeout is not None and options.detach:
        raise ConfigError(
            "--timeout cannot be combined with -d: 'run' does not wait for the command",
            hint="use 'ballonet stop', or 'timeout' in the guest",
        )
    check_streams(options)
    if options.from_snapshot is not None:
        from ballonet.cli.run_restored import run_restored

        return run_restored(options)
    policy = policy_from(options)
    defaults = defaults_from(options)
    prepared = prepared_from(options, default_name=random_name("run"))
    command = command_from(options, prepared, detached=options.detach)
    if command is None and shell:  # the image has none
        options.argv = list(_SHELL)
        command = command_from(options, prepared, detached=False)
    config = prepared.config
    if options.dry_run:
        return _print_engine_command(config)
    if command is None and not options.detach:
        why = "has none" if options.entrypoint is None else "must not use its own because of --entrypoint ''"
        raise ConfigError(
            f"no command was given, and {config.image or options.rootfs} {why}",
            hint="for example: ballonet run … -- /bin/sh, or ballonet run -it … for a shell",
        )
    # Prepare the guest here, where progress can be shown; the sandbox's process then finds it ready.
    guest_for(config, report=report_progress)
    with Registry.open() as registry:
        stays = options.detach and not options.rm
        lifecycle.create(
            registry,
            config,
            image=prepared.image,
            command=command if options.detach else None,
            defaults=defaults,
            auto_remove=not stays,
            **policy,
        )
        if options.detach:
            return asyncio.run(_start_detached(registry, config.name, options))
        assert command is not None
        settings = Settings(command.env, command.cwd, command.user, make_cwd=True)
        joined = replace(joined_from(options, settings), timeout=timeout)

        async def start() -> OwnedProcess:
            try:
                return await _start(registry, config.name, options, detached=False)
            except BaseException:
                await discard_sandbox(registry, config.name)
                raise

        return run_attached(registry, config.name, command.argv, joined, start)


async def _start(
    registry: Registry, name: str, options: argparse.Namespace, *, detached: bool
) -> OwnedProcess:
    from ballonet.pilot.admission_control import admission_control

    return await start_sandbox(
        registry,
        name,
        detached=detached,
        gate=admission_control(options.admission),
        cold=options.cold,
    )


async def _start_detached(registry: Registry, name: str, options: argparse.Namespace) -> int:
    try:
        async with notice_if_slow(name):
            process = await _start(registry, name, options, detached=True)
    except BaseException:
        await discard_sandbox(registry, name)
        raise
    process.let_go()
    if options.wait_port is not None:
        from ballonet.lifecycle.health import wait_for_port

        await wait_for_port(registry, name)
    print(name)
    return 0


def _print_engine_command(config: SandboxConfig) -> int:
    from ballonet.base.process import show_command
    from ballonet.machine.build import build_vm
    from ballonet.machine.disk import DISK_FILE

    disk = None if config.disk_mib is None else state_dir_of(config.name) / DISK_FILE
    vm = build_vm(config, guest=guest_for(config, report=report_progress), disk=disk)
    print(show_command(vm.engine.show_command(vm.spec)))
    return 0
