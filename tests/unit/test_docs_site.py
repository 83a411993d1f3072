"""The documentation site builds without a warning, has all pages, and loads nothing from other servers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scripts.build_docs import ROOT, run_mkdocs, stage

from ballonet.cli.commands import COMMANDS

pytestmark = pytest.mark.long


def configure(directory: Path, more: str = "") -> Path:
    """The project's configuration, with pages and site in ``directory``."""
    config = directory / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: pages\nsite_dir: site\n{more}")
    return config


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("docs")
    stage(directory / "pages")
    assert run_mkdocs("build", configure(directory)).returncode == 0, "MkDocs found broken links or anchors"
    return directory / "site"


def test_every_page_is_on_the_site_and_can_be_searched(site: Path) -> None:
    found = json.loads((site / "search/search_index.json").read_text())["docs"]
    locations = {entry["location"] for entry in found}
    for page in (ROOT / "docs").glob("*.md"):
        assert f"{page.stem}.html" in locations
    assert "index.html#first-sandbox" in locations
    assert {f"commands.html#{name}" for name in COMMANDS} <= locations


def test_the_page_of_commands_has_their_options_and_subcommands(site: Path) -> None:
    text = (site / "commands.html").read_text()
    for shown in ("--balloon-min", "usage: ballonet image pull", "usage: ballonet balloon set"):
        assert shown in text


def test_nothing_is_loaded_from_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page.name}: {tag}"


def test_a_broken_link_and_a_broken_anchor_are_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.md").write_text("# Start\n\n[page](missing.md), [anchor](#missing)\n")
    assert run_mkdocs("build", configure(tmp_path, "nav: [index.md]\n")).returncode != 0
    errors = capfd.readouterr().err
    assert "'missing.md'" in errors
    assert "'#missing'" in errors


def test_the_page_on_architecture_is_short_and_names_files_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert len(page.splitlines()) <= 140
    paths = [path.as_posix() for path in ROOT.glob("src/**/*")] + [path.name for path in ROOT.iterdir()]
    for name in re.findall(r"`([\w/]+\.(?:py|c|h|toml|yml))`", page):
        assert any(path == name or path.endswith(f"/{name}") for path in paths) or (ROOT / name).exists(), (
            name
        )
