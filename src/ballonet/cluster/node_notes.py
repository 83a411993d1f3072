"""What a host remembers of the cluster that it has joined: two files in its state directory."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import NamedTuple

from ballonet.base.paths import private_dir, replace_file, state_dir
from ballonet.host.identity import ProcessId


class Node(NamedTuple):
    """This host's part in a cluster."""

    #: The process of ``cluster up`` or ``cluster join``.
    process: ProcessId
    address: str
    host: str
    #: The file with the cluster's token.
    token: Path


def cluster_dir() -> Path:
    """The directory of these files; created on demand."""
    return private_dir(state_dir() / "cluster")


def token_path() -> Path:
    """The file with the cluster's token."""
    return state_dir() / "cluster" / "token"


def make_token() -> Path:
    """The token; a new one if there is none."""
    path = cluster_dir() / "token"
    if not path.exists():
        replace_file(path, secrets.token_hex(32).encode())
    return path


def write_node(node: Node) -> None:
    document = {
        "process": node.process.to_json(),
        "address": node.address,
        "host": node.host,
        "token": str(node.token),
    }
    replace_file(cluster_dir() / "node.json", json.dumps(document).encode())


def forget_node() -> None:
    (cluster_dir() / "node.json").unlink(missing_ok=True)


def read_node() -> Node | None:
    """What :func:`write_node` wrote; ``None`` if there is nothing."""
    try:
        document = json.loads((state_dir() / "cluster" / "node.json").read_bytes())
        process = ProcessId.from_json(document["process"])
        if process is None:
            return None
        return Node(process, document["address"], document["host"], Path(document["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
