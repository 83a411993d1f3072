"""The command line parser: argparse, with error messages that quote what was typed and suggest a correction.

Every error is a :class:`~ballonet.errors.ConfigError`, so that all usage errors look alike and exit with status 2.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ballonet.base.errors import ConfigError
from ballonet.base.suggest import did_you_mean, hint_for

#: Command names of other programs, and the command that does the same here.
_ELSEWHERE = {
    "build": "image build-debian",
    "delete": "rm",
    "images": "image ls",
    "info": "doctor",
    "list": "ls",
    "load": "image load",
    "pull": "image pull",
    "remove": "rm",
    "rmi": "image rm",
    "shell": "exec -it",
    "tag": "image tag",
    "update": "modify",
    "volumes": "volume ls",
}
#: The help of ``--filter``, for the commands that take it.
FILTER_HELP = (
    "only sandboxes to which this applies: name=PATTERN, state=STATE, label=KEY, label=KEY=VALUE or image=PATTERN "
    "(can be repeated)"
)
_KINDS = {"int": "a whole number", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """The parser of one command. The parsers of its sub-commands are of this class, too."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse unknown arguments here, not in the root parser: only a sub-command's parser knows its options."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return parsed, unknown

    def _get_formatter(self) -> argparse.HelpFormatter:
        # argparse makes one for each argument, and would load shutil for the width.
        make: Any = self.formatter_class  # declared without its width
        formatter: argparse.HelpFormatter = make(prog=self.prog, width=_terminal_columns() - 2)
        return formatter

    def error(self, message: str) -> NoReturn:
        """:raises ConfigError: always, with argparse's message reworded."""
        action = _subcommands(self)
        if action is not None and message.endswith(f": {action.metavar}") and action.choices:
            names = ", ".join(map(str, action.choices))
            raise ConfigError(f"'{self.prog}' requires a sub-command", hint=f"choose one of {names}")
        raise ConfigError(self._reworded(message), hint=self._see_help())

    def find(self, words: Sequence[str]) -> argparse.ArgumentParser:
        """The parser of the sub-command named by ``words``.

        :raises ConfigError: there is no such sub-command.
        """
        found: argparse.ArgumentParser = self
        for word in words:
            action = _subcommands(found)
            if action is None:
                raise ConfigError(
                    f"'{found.prog}' has no sub-command {word!r}",
                    hint=f"see '{found.prog} --help'",
                )
            if isinstance(found, Parser):
                found._check_value(action, word)
            assert isinstance(action.choices, dict)
            found = action.choices[word]
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is None or value in choices:
            return
        known = [str(choice) for choice in choices]
        if not isinstance(action, argparse._SubParsersAction):
            raise ConfigError(
                f"{_name_of(action)} {value!r} is not valid",
                hint=hint_for(str(value), known, f"choose one of {', '.join(known)}"),
            )
        words = self.prog.split()[1:]
        see = f"see '{self.prog} --help'"
        hint = hint_for(str(value), known, see)
        if not words and value in _ELSEWHERE:
            hint = f"did you mean 'ballonet {_ELSEWHERE[value]}'? See 'ballonet --help'"
        raise ConfigError(f"unknown command {' '.join([*words, str(value)])[:80]!r}", hint=hint)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        # Python reads 'nan' and 'inf' as numbers; no option can use them.
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{_name_of(action)} {arg_string!r} is not a number")
        return value

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-") or word == "-":
            raise ConfigError(f"unexpected argument {word[:80]!r}", hint=self._see_help())
        option = word.partition("=")[0]
        known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        meant = did_you_mean(option, known) if option.startswith("--") else None
        see = self._see_help()
        raise ConfigError(
            f"unknown option {option[:80]!r}",
            hint=see if meant is None else f"{meant} {see[0].upper()}{see[1:]}",
        )

    def _see_help(self) -> str:
        return f"see '{self.prog} --help'"

    def _reworded(self, message: str) -> str:
        if message.startswith("unrecognized arguments: "):
            self._refuse(message.removeprefix("unrecognized arguments: ").split()[0])
        if message.startswith("the following arguments are required: "):
            missing = message.removeprefix("the following arguments are required: ").split(", ")
            return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} required"
        if (match := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.*)", message)) is not None:
            return f"{match[1].split('/')[-1]} {match[3]} is not {_KINDS[match[2]]}"
        if (
            match := re.fullmatch(r"argument (\S+): expected (one|at least one) argument", message)
        ) is not None:
            return f"{match[1].split('/')[-1]} requires a value"
        return message.removeprefix("argument ")


def all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of a parser and of its sub-commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in dict.fromkeys(action.choices.values()):
                yield from all_actions(sub)


def _subcommands(parser: argparse.ArgumentParser) -> argparse.Action | None:
    return next((act for act in parser._actions if isinstance(act, argparse._SubParsersAction)), None)


def _terminal_columns() -> int:
    """As :func:`shutil.get_terminal_size` finds out."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 0
    return columns if columns > 0 else 80


def _name_of(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
