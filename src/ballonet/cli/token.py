"""``ballonet token``: creates, lists and removes the tokens of the HTTP API."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from ballonet.base.duration import parse_duration
from ballonet.base.errors import ConfigError
from ballonet.base.timestamps import iso_time
from ballonet.cli.output import print_json, print_table, show_age

if TYPE_CHECKING:
    from ballonet.serve.tokens import Token

_SCOPES = ("read", "use", "admin")
_EPILOG = """\
scopes:
  read   see sandboxes, their memory, images, volumes and events, but nothing
         inside a guest
  use    also create, use and remove sandboxes and snapshots
  admin  also give sandboxes files, ports and private networks of the host, and
         manage images and volumes

The token is printed once, and is not stored: only a hash of it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    create = action("create", "create a token, and print it")
    create.add_argument("--scope", choices=_SCOPES, default="use", help="what it permits (default: use)")
    create.add_argument(
        "--expires",
        metavar="DURATION",
        default="30d",
        help="how long it is valid, such as 12h or 30d; 'never': until it is removed (default: 30d)",
    )
    create.add_argument("--note", metavar="TEXT", default="", help="a note that 'token ls' shows")
    create.add_argument("--json", action="store_true", help="print JSON, with the token and its ID")
    create.formatter_class = argparse.RawDescriptionHelpFormatter
    create.epilog = _EPILOG
    listing = action("ls", "list tokens")
    listing.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    remove = action("rm", "remove tokens: a running server refuses them at once")
    remove.add_argument("ids", metavar="ID", nargs="+", help="ID of a token, as 'token ls' shows it")


def run(options: argparse.Namespace) -> int:
    from ballonet.serve.tokens import Scope, TokenFile

    file = TokenFile.open()
    match options.action:
        case "create":
            token, text = file.create(
                Scope(options.scope), expires_s=_seconds(options.expires), note=options.note
            )
            if options.json:
                return print_json(_describe(token) | {"token": text})
            print(text)
        case "ls":
            tokens = file.list()
            if options.json:
                return print_json([_describe(token) for token in tokens])
            now = time.time()
            rows = [
                (
                    token.id,
                    token.scope,
                    show_age(token.created_at),
                    "expired" if not token.valid_at(now) else iso_time(token.expires_at) or "never",
                    token.note or None,
                )
                for token in tokens
            ]
            print_table(("ID", "SCOPE", "AGE", "EXPIRES", "NOTE"), rows)
        case _:
            for id in options.ids:
                file.remove(id)
                print(id)
    return 0


def _seconds(text: str) -> int | None:
    if text == "never":
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--expires {text[:40]!r} {error}", hint="for example 12h, 30d or never") from None
    if seconds == 0:
        raise ConfigError("--expires 0: the token would never be valid", hint="for example 12h, 30d or never")
    return seconds


def _describe(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "scope": token.scope,
        "created_at": iso_time(token.created_at),
        "expires_at": iso_time(token.expires_at),
        "note": token.note,
    }
