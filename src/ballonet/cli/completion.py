"""``ballonet completion``: what a shell needs to complete our command lines, made from the parsers themselves."""

from __future__ import annotations

import argparse
import importlib

_BASH = """# Use with: eval "$(ballonet completion bash)"
_ballonet() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}"
  if [ "$COMP_CWORD" = 1 ]; then COMPREPLY=($(compgen -W "{commands}" -- "$word")); return; fi
  local options=""
  case "$command" in
{cases}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$(ballonet ls -q 2>/dev/null) $options" -- "$word")) ;;
  esac
}}
complete -o default -F _ballonet ballonet
"""
_ZSH = """# Use with: eval "$(ballonet completion zsh)"
autoload -U +X bashcompinit && bashcompinit
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> int:
    words = {name: _options_of(name) for name in _commands()}
    if options.shell == "fish":
        print("complete -c ballonet -f")
        print(f"complete -c ballonet -n __fish_use_subcommand -a '{' '.join(words)}'")
        print("complete -c ballonet -n 'not __fish_use_subcommand' -a '(ballonet ls -q 2>/dev/null)'")
        for name, flags in words.items():
            for flag in flags:
                kind = "-l" if flag.startswith("--") else "-s"
                print(
                    f"complete -c ballonet -n '__fish_seen_subcommand_from {name}' {kind} {flag.lstrip('-')}"
                )
        return 0
    cases = "\n".join(f'    {name}) options="{" ".join(flags)}" ;;' for name, flags in words.items())
    script = _BASH.format(commands=" ".join(words), cases=cases)
    print((_ZSH if options.shell == "zsh" else "") + script, end="")
    return 0


def _commands() -> list[str]:
    from ballonet.cli.main import COMMANDS

    return list(COMMANDS)


def _options_of(name: str) -> list[str]:
    from ballonet.cli.main import COMMANDS

    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            found += list(action.choices)
    return found
