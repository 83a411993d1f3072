"""The text of ``ballonet --help``: all commands, grouped by purpose."""

from __future__ import annotations

from collections.abc import Mapping

#: The groups in the order in which a new user needs them. Each command is in exactly one group.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Getting started", ("run", "doctor", "demo", "help")),
    (
        "Manage sandboxes",
        (
            "create",
            "start",
            "stop",
            "kill",
            "restart",
            "pause",
            "resume",
            "touch",
            "rm",
            "rename",
            "modify",
            "wait",
            "prune",
        ),
    ),
    ("Work in a sandbox", ("exec", "attach", "code", "cp", "logs")),
    ("Monitor", ("ls", "ps", "inspect", "events", "stats", "top", "history", "plot", "metrics", "net")),
    ("Control memory", ("balloon", "pilot", "simulate", "cluster")),
    ("Images and volumes", ("image", "volume")),
    ("Saved states", ("snapshot", "fork")),
    ("Serve", ("serve", "mcp", "token")),
    ("Other", ("config", "completion", "version")),
)


def overview(commands: Mapping[str, str]) -> str:
    """The help text.

    :param commands: each command's one-line description, by name.
    """
    width = max(map(len, commands))
    lines = [
        "usage: ballonet [--debug] COMMAND …",
        "",
        "MicroVM sandboxes for Linux whose memory shrinks and grows while they run.",
    ]
    for title, names in GROUPS:
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {commands[name]}" for name in names)]
    lines += [
        "",
        "Options:",
        "  -h, --help  show this help",
        "  --version   show the version",
        "  --debug     log each step, including the programs that are started",
        "",
        "Run 'ballonet COMMAND --help' for more information about a command.",
    ]
    return "\n".join(lines) + "\n"
