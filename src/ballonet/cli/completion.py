"""``ballonet completion``: prints the completion script for a shell."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that loads the script")
    parser.epilog = (
        'bash: add eval "$(ballonet completion bash)" to ~/.bashrc. '
        'zsh: add eval "$(ballonet completion zsh)" to ~/.zshrc, after compinit. '
        "fish: run ballonet completion fish > ~/.config/fish/completions/ballonet.fish. "
        "Names of sandboxes, images and volumes are completed, too."
    )


def run(options: argparse.Namespace) -> int:
    from ballonet.cli.completers import shell_code

    print(shell_code(options.shell), end="")
    return 0
