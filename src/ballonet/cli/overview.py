"""All commands on one page, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping

#: Which commands belong together, in the order in which people meet them. Each command is in one of them.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start here", ("run", "doctor", "demo", "help")),
    ("Sandboxes", ("create", "start", "stop", "restart", "rm", "modify", "wait", "prune")),
    ("Use a sandbox", ("exec", "cp", "logs")),
    ("See what is there", ("ls", "ps", "inspect", "top", "history", "plot", "metrics")),
    ("Move memory", ("balloon", "pilot", "simulate")),
    ("Images and volumes", ("image", "volume")),
    ("Other", ("completion", "version")),
)


def overview(commands: Mapping[str, str]) -> str:
    """All of ``commands`` with what they do, a line each."""
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
        "  --debug     log what is done, each program started included",
        "",
        "'ballonet help COMMAND' shows a command's options.",
    ]
    return "\n".join(lines) + "\n"
