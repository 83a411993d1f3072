"""``ballonet completion``: prints the completion script for a shell."""

from __future__ import annotations

import argparse

_EPILOG = """\
To enable completion:
  bash  add to ~/.bashrc:                  eval "$(ballonet completion bash)"
  zsh   add to ~/.zshrc, after compinit:   eval "$(ballonet completion zsh)"
  fish  ballonet completion fish > ~/.config/fish/completions/ballonet.fish

Names of sandboxes, images and volumes are completed, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that loads the script")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    from ballonet.cli.completers import shell_code

    print(shell_code(options.shell), end="")
    return 0
