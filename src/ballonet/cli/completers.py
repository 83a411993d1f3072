"""Shell completion: what the shell offers at each Tab, through argcomplete.

argcomplete takes commands, options and choices from the parsers. This module adds the rest: names of sandboxes, images,
volumes, snapshots and policies, and the arguments that are files. Nothing here starts, changes or prints anything.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator

import argcomplete
import argcomplete.shell_integration
from argcomplete.completers import DirectoriesCompleter, FilesCompleter, SuppressCompleter
from argcomplete.lexers import split_line

#: Called by argcomplete with ``prefix``, ``parsed_args`` and others; returns the candidates.
Completer = Callable[..., Iterable[str]]


def complete() -> None:
    """Print the candidates for the shell's command line, then exit."""
    from ballonet.cli.commands import build_parser

    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "0")
    typed = split_line(line, int(point))[3][1:]
    wanted = next((word for word in typed if not word.startswith("-")), None)
    parser = build_parser(wanted, others=True)
    _attach(parser, [])
    # Options are offered only after a dash, and nothing for values that cannot be listed, such as sizes.
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())


def shell_code(shell: str) -> str:
    """The script that makes ``shell`` call :func:`complete` at each Tab."""
    # Without the shell's defaults, which would offer file names in place of sandboxes.
    return str(argcomplete.shell_integration.shellcode(["ballonet"], use_defaults=False, shell=shell))


def _attach(parser: argparse.ArgumentParser, path: list[str]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                _attach(sub, [*path, name])
        elif action.choices is None and action.nargs != 0:
            completer = _completer_for(" ".join(path), action)
            if completer is not None:
                action.completer = completer  # type: ignore[attr-defined]


def _completer_for(command: str, action: argparse.Action) -> Completer | None:
    for key in (f"{command} {action.dest}", action.option_strings[-1] if action.option_strings else None):
        if key is not None and key in _COMPLETERS:
            return _COMPLETERS[key]
    return None


#: The states of sandboxes that have processes, on the host or saved.
_ALIVE = ("starting", "running", "paused")


def _sandboxes(*states: str) -> Completer:
    """Completes names of sandboxes, except those already on the command line.

    :param states: offer only sandboxes in these states; none: all.
    """

    def names(parsed_args: argparse.Namespace, **known: object) -> list[str]:
        from ballonet.lifecycle import sandboxes as lifecycle
        from ballonet.lifecycle.registry import Registry

        given = getattr(parsed_args, "names", None) or ()
        with Registry.open() as registry:
            records = lifecycle.list_sandboxes(registry)
        return [
            record.name
            for record in records
            if record.name not in given and (not states or record.state in states)
        ]

    return names


def _images(**known: object) -> list[str]:
    from ballonet.images.reference import familiar
    from ballonet.images.store import ImageStore

    return [familiar(name) for image in ImageStore.open().list() for name in image.names]


def _image_or_archive(prefix: str, **known: object) -> Iterator[str]:
    yield from _images()
    if ":" in prefix:  # TRANSPORT:PATH
        transport, _, path = prefix.partition(":")
        yield from (f"{transport}:{found}" for found in FilesCompleter()(path))


def _volumes(**known: object) -> list[str]:
    from ballonet.lifecycle.registry import Registry
    from ballonet.lifecycle.volumes import list_volumes

    with Registry.open() as registry:
        return [volume.name for volume in list_volumes(registry)]


def _snapshots(**known: object) -> list[str]:
    from ballonet.lifecycle.snapshots import Snapshots

    return Snapshots.open().names()


def _volume_or_directory(prefix: str, **known: object) -> Iterator[str]:
    """A volume's name with a colon, or a directory of the host; after the guest path, the access mode."""
    if ":" in prefix:
        source, _, target = prefix.partition(":")
        if ":" in target:
            yield from (f"{source}:{target.partition(':')[0]}:{mode}" for mode in ("ro", "rw"))
        return
    if "/" not in prefix and not prefix.startswith("."):
        yield from (f"{name}:" for name in _volumes())
    yield from DirectoriesCompleter()(prefix)


def _copied(prefix: str, parsed_args: argparse.Namespace, **known: object) -> Iterator[str]:
    """A running sandbox's name with a colon, or a local file."""
    if ":" in prefix:
        return
    if "/" not in prefix:
        yield from (f"{name}:" for name in _sandboxes(*_ALIVE)(parsed_args=parsed_args))
    yield from FilesCompleter()(prefix)


def _policies(**known: object) -> list[str]:
    from ballonet.pilot.policies.catalog import POLICIES

    return [*POLICIES, "list"]


def _policies_to_compare(**known: object) -> list[str]:
    from ballonet.pilot.policies.catalog import POLICIES

    return [*POLICIES, "oracle", "all"]


def _scenarios(**known: object) -> list[str]:
    from ballonet.pilot.simulator.scenarios import SCENARIOS

    return list(SCENARIOS)


def _variables(**known: object) -> list[str]:
    return [f"{name}=" for name in os.environ]


def _commands(parsed_args: argparse.Namespace, **known: object) -> list[str]:
    from ballonet.cli.commands import COMMANDS, build_parser

    words = getattr(parsed_args, "words", None) or []
    if not words:
        return list(COMMANDS)
    found = build_parser(words[0]).find(words)
    return [
        name
        for action in found._actions
        if isinstance(action, argparse._SubParsersAction)
        for name in action.choices
    ]


_ALL, _RUNNING = _sandboxes(), _sandboxes("starting", "running")
_NOT_ENDED, _NOT_RUNNING = _sandboxes(*_ALIVE), _sandboxes("created", "paused", "stopped", "failed")
#: Keys: the command and the argument's ``dest``, or an option.
_COMPLETERS: dict[str, Completer] = {
    "start names": _NOT_RUNNING,
    "stop names": _NOT_ENDED,
    "kill names": _RUNNING,
    "stats names": _RUNNING,
    "pause names": _RUNNING,
    "touch names": _RUNNING,
    "resume names": _sandboxes("paused"),
    "wait names": _NOT_ENDED,
    "restart names": _ALL,
    "rm names": _ALL,
    "inspect names": _ALL,
    "plot names": _ALL,
    "exec name": _NOT_ENDED,
    "code name": _NOT_ENDED,
    "code file": FilesCompleter(),
    "logs name": _ALL,
    "attach name": _NOT_ENDED,
    "modify name": _ALL,
    "rename name": _NOT_RUNNING,
    "history name": _ALL,
    "net log name": _ALL,
    "net stats name": _RUNNING,
    "pilot explain name": _ALL,
    **{f"balloon {action} sandbox": _RUNNING for action in ("get", "set", "watch", "stats", "limit", "trim")},
    "cp source": _copied,
    "cp target": _copied,
    "help words": _commands,
    "image rm references": _images,
    "image inspect references": _images,
    "image tag reference": _images,
    "image pull references": _images,
    "image load source": FilesCompleter(),
    "volume rm names": _volumes,
    "snapshot create sandbox": _RUNNING,
    "snapshot rm names": _snapshots,
    "snapshot inspect names": _snapshots,
    "snapshot export name": _snapshots,
    "snapshot export file": FilesCompleter(),
    "snapshot import file": FilesCompleter(),
    "fork sandbox": _RUNNING,
    "--from": _snapshots,
    "pilot policy": _policies,
    "pilot unit policy": _policies,
    "simulate policy": _policies_to_compare,
    "simulate scenario": _scenarios,
    "simulate history": _ALL,
    "simulate trace": FilesCompleter(allowednames=(".csv",)),
    "--image": _image_or_archive,
    "--mcp-image": _image_or_archive,
    "--use": _NOT_ENDED,
    "--mcp-use": _NOT_ENDED,
    "--rootfs": DirectoriesCompleter(),
    "--volume": _volume_or_directory,
    "--env": _variables,
    "--env-file": FilesCompleter(),
    "--plot": FilesCompleter(),
    "--output": FilesCompleter(),
    "--pictures": DirectoriesCompleter(),
    "--textfile": FilesCompleter(),
    "--balloon-control-socket": FilesCompleter(),
}

__all__ = ["complete", "shell_code"]
