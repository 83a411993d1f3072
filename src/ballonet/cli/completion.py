"""``ballonet completion``: what a shell needs to complete our command lines."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = (
        'In ~/.bashrc: eval "$(ballonet completion bash)". In ~/.zshrc, after compinit: eval "$(ballonet completion '
        'zsh)". For fish: ballonet completion fish > ~/.config/fish/completions/ballonet.fish. The names of sandboxes, '
        "images and volumes are looked up at each Tab."
    )


def run(options: argparse.Namespace) -> int:
    from ballonet.cli.complete import shell_code

    print(shell_code(options.shell), end="")
    return 0
