"""``ballonet create``: register a sandbox without starting it."""

from __future__ import annotations

import argparse

from ballonet.cli.command_options import (
    add_command_options,
    defaults_from,
)
from ballonet.cli.sandbox_options import add_sandbox_options, command_from, policy_from, prepared_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sandbox_options(parser)
    add_command_options(parser)


def run(options: argparse.Namespace) -> int:
    from ballonet.lifecycle import sandboxes as lifecycle
    from ballonet.lifecycle.registry import Registry
    from ballonet.sdk.random_name import random_name

    policy = policy_from(options)
    prepared = prepared_from(options, default_name=random_name())
    command = command_from(options, prepared, detached=True)
    with Registry.open() as registry:
        lifecycle.create(
            registry,
            prepared.config,
            image=prepared.image,
            command=command,
            defaults=defaults_from(options),
            **policy,
        )
    print(prepared.config.name)
    return 0
