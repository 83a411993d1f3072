"""The systemd user unit that runs the autopilot (systemd.service(5)). Pure."""

from __future__ import annotations

from collections.abc import Sequence

UNIT_NAME = "ballonet-pilot.service"


def render_unit(command: Sequence[str], environment: Sequence[tuple[str, str]] = ()) -> str:
    """The unit's text.

    :param command: the command that runs the autopilot, starting with an absolute path.
    :param environment: variables that determine where its sandboxes are.
    """
    lines = [
        "[Unit]",
        "Description=ballonet autopilot: shares this host's memory among sandboxes",
        "Documentation=man:systemd.service(5)",
        "",
        "[Service]",
        *(f"Environment={_quote(f'{name}={value}')}" for name, value in environment),
        f"ExecStart={' '.join(_quote(word) for word in command)}",
        # Not urgent: without the autopilot nothing shrinks, and pressure relief still works.
        "Restart=on-failure",
        "RestartSec=2",
        # Status 2 is bad usage: starting again would not help.
        "RestartPreventExitStatus=2",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    return "\n".join(lines)


def _quote(word: str) -> str:
    """Quote one word for a unit file, with specifiers and variables taken literally (systemd.syntax(7))."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not any(character in word for character in " \t\n\"'\\;"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
