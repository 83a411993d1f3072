"""``ballonet config``: shows the defaults of sandboxes, and which of them the configuration file sets."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet.base.paths import config_file
from ballonet.cli.config_file import KNOWN, TABLE, read_config
from ballonet.cli.output import print_json, print_table
from ballonet.settings.definitions import SETTINGS

_EPILOG = f"""\
The file is TOML, for example:

  [{TABLE}]
  memory = "1G"
  net = "user"
  labels = {{owner = "me"}}

It applies to 'run' and 'create'. An option on the command line takes
precedence; options that can be repeated are added to those of the file. The
variable BALLONET_CONFIG names another file; if it is empty, none is used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    path = config_file()
    exists = path is not None and path.exists()
    chosen = read_config(path) if path is not None and exists else {}
    if options.json:
        settings: dict[str, Any] = {
            name: {"value": chosen.get(name, SETTINGS[name].default), "from": _source(name, chosen)}
            for name in KNOWN
        }
        return print_json(
            {"file": None if path is None else str(path), "exists": exists, "settings": settings}
        )
    print("file: none" if path is None else f"file: {path}{'' if exists else ' (does not exist)'}")
    rows = [(name, _shown(name, chosen), _source(name, chosen)) for name in KNOWN]
    print_table(("SETTING", "VALUE", "FROM"), rows)
    return 0


def _source(name: str, chosen: dict[str, Any]) -> str:
    return "file" if name in chosen else "default"


def _shown(name: str, chosen: dict[str, Any]) -> str | None:
    setting = SETTINGS[name]
    value = chosen.get(name, setting.default)
    if name not in chosen and setting.kind not in ("switch", "list", "map"):
        return setting.shown_default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        value = [f"{key}={of}" for key, of in value.items()]
    return (", ".join(value) or None) if isinstance(value, list | tuple) else str(value)
