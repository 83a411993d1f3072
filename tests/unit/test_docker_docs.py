"""The pages that compare ballonet with Docker and OCI are complete: every option and every field is in them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from ballonet.cli.commands import build_parser

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = ("run", "exec", "cp", "logs", "stop", "wait")

#: OCI image specification 1.1, config.md: the document's own properties, those of ``config``, ``rootfs``, ``history``.
OCI_FIELDS = {
    "created author architecture variant os os.version os.features config rootfs history",
    "User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal ArgsEscaped Memory MemorySwap CpuShares "
    "Healthcheck",
    "rootfs.type rootfs.diff_ids",
    "history.created history.created_by history.author history.comment history.empty_layer",
    # What Docker adds.
    "OnBuild Shell",
}


def options_of(command: str) -> list[str]:
    subparsers = next(
        action for action in build_parser(command)._actions if isinstance(action, argparse._SubParsersAction)
    )
    parser = subparsers.choices[command]
    return sorted(
        {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_pages(command: str) -> None:
    text = "\n".join(page.read_text() for page in DOCS.glob("*.md"))
    missing = [name for name in options_of(command) if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)]
    assert missing == [], f"no page documents these options of 'ballonet {command}'"


def test_every_field_of_an_images_configuration_is_said_to_be_used_or_not() -> None:
    _, _, section = (DOCS / "images.md").read_text().partition("## Image configuration\n")
    section = section.partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    named = set(re.findall(r"`([^`]+)`", " ".join(first)))
    expected = {name for names in OCI_FIELDS for name in names.split()}
    assert expected - named == set()
    assert named - expected == set(), "these are not in the specification"


@pytest.mark.parametrize("command", COMMANDS)
def test_differences_from_docker_are_told_for_each_command(command: str) -> None:
    page = (DOCS / "docker.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert any(f"`{command}`" in heading for heading in headings)
