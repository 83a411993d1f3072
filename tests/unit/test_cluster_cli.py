"""``ballonet cluster``: what a person may get wrong, before anything is started."""

from __future__ import annotations

import argparse
import socket
import threading
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.cli import on_cluster
from ballonet.cli.main import EXIT_USAGE, main
from ballonet.cluster import addresses
from ballonet.cluster.directory import Directory
from ballonet.cluster.host_labels import own_labels
from ballonet.cluster.node_notes import Node, forget_node, make_token, read_node, token_path, write_node
from ballonet.cluster.request_of import request_of
from ballonet.host.identity import ProcessId
from tests.unit.cluster_inputs import offer, request


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["up", "--port", "0"], "--port 0 must be from 1 to 65535"),
        (["up", "--listen", "0.0.0.0"], "--listen 0.0.0.0 would listen on every network"),
        (["up", "--listen", "head"], "--listen 'head' is not an IPv4 address"),
        (["up", "--port", "PORT", "--name", "a b"], "--name 'a b' is not a name of a host"),
        (["up", "--port", "PORT", "--label", "kvm"], "--label 'kvm' is not KEY=VALUE"),
        (["up", "--port", "PORT", "--label", "kvm=yes"], "every host has the label kvm already"),
        (
            ["up", "--port", "PORT", "--budget", "1G", "--reserve", "2G"],
            "--reserve 2048 MiB must be less than",
        ),
        (["join", "head"], "'head' is not an address"),
        (["join", "127.0.0.1:99999"], "'127.0.0.1:99999' is not an address"),
        (["leave"], "this host is not part of a cluster"),
    ],
)
def test_wrong_input_starts_nothing(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [str(port) if word == "PORT" else word for word in words]
    assert main(["cluster", *given]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert read_node() is None


@pytest.mark.parametrize("action", [["status"], ["drain", "a"]])
def test_a_host_without_a_cluster_says_so(action: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", *action]) != 0
    assert "this host is not part of a cluster" in capsys.readouterr().err


def test_a_dead_head_is_reported_with_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert main(["cluster", "join", address]) != 0
    assert f"no cluster answers at {address}: Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "accepts connections, but has not answered within 0.2 s"),
        (b"", "is not the head of a cluster"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not the head of a cluster"),
    ],
)
def test_an_address_where_something_else_listens_is_reported_soon(
    answer: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(addresses, "ANSWER_S", 0.2)
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            connection, _ = server.accept()
            accepted.append(connection)
            if answer is not None:
                connection.recv(1000)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["--cluster", address, "ls"]) != 0
        thread.join()
    for connection in accepted:
        connection.close()
    said = capsys.readouterr().err
    assert address in said
    assert message in said


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        assert main(["cluster", "up", "--port", str(port)]) != 0
    assert f"port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err


def test_the_token_is_private_and_stays_the_same() -> None:
    path = make_token()
    assert path == token_path()
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert make_token().read_text() == token


def test_what_a_host_has_joined_is_remembered() -> None:
    node = Node(ProcessId.current(), "127.0.0.1:6379", "a", token_path())
    write_node(node)
    assert read_node() == node
    forget_node()
    forget_node()
    assert read_node() is None


def test_a_request_is_what_the_settings_mean_on_a_host() -> None:
    request = request_of("box", {"memory": "1G", "reserve": "300M", "image": "debian:12"}, expected="200M")
    assert (request.ceiling_mib, request.least_mib, request.initial_mib) == (1024, 300, 1024)
    assert request.expected_mib == 200
    assert request.image == "docker.io/library/debian:12"
    assert request_of("box", {"memory": "1G"}).least_mib == 256
    assert request_of("box", {"memory": "1G", "balloon": False}).least_mib == 1024


def test_a_host_says_whether_it_has_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALLONET_ACCEL", "tcg")
    assert own_labels() == {"kvm": "no"}
    monkeypatch.setenv("BALLONET_ACCEL", "kvm")
    assert own_labels() == {"kvm": "yes"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memroy": "1G"}, "unknown setting 'memroy'"),
        ({"rootfs": "/srv"}, "rootfs names a directory of this host"),
        ({"memory": "1G", "detached": True}, "unknown setting 'detached'"),
    ],
)
def test_settings_that_make_no_sense_on_a_cluster_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        request_of("box", settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cluster", "auto", "ls"], "this host is not part of a cluster"),
        (["--cluster=head", "ls"], "'head' is not an address"),
        (["--cluster", "127.0.0.1:1", "exec", "box", "true"], "no cluster answers at 127.0.0.1:1"),
        (["--cluster", "auto"], "requires a sub-command"),
        (["--cluster", "auto", "foo"], "unknown command"),
        (["--cluster", "auto", "run", "--restart", "always"], "--restart 'always' is not valid"),
        (["--cluster", "auto", "logs"], "NAME"),
        (["--cluster", "auto", "snapshot"], "requires a sub-command"),
        (["--cluster", "auto", "fork", "box"], "COPY"),
        (["cluster", "drain", "a", "--move", "--undo"], "--move cannot be combined with --undo"),
        (["cluster", "forget", "a"], "this host is not part of a cluster"),
    ],
)
def test_commands_for_a_cluster_say_what_is_wrong(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) != 0
    said = capsys.readouterr().err
    assert message in said
    assert "internal error" not in said


def test_require_is_the_label_with_yes() -> None:
    options = argparse.Namespace(host_label=["disk=ssd"], require=["kvm"])
    assert on_cluster._labels(options) == {"disk": "ssd", "kvm": "yes"}
    with pytest.raises(ConfigError, match="--require kvm contradicts --host-label kvm=no"):
        on_cluster._labels(argparse.Namespace(host_label=["kvm=no"], require=["kvm"]))
    with pytest.raises(ConfigError, match="--require 'kvm=yes' is not a label"):
        on_cluster._labels(argparse.Namespace(host_label=[], require=["kvm=yes"]))


def test_a_host_without_kvm_is_refused_with_the_labels() -> None:
    offers = [offer("a", labels={"kvm": "no"}), offer("b")]
    directory = Directory()
    for one in offers:
        directory.update(one)
    wanted = request(labels={"kvm": "yes"})
    assert directory.choose(wanted, 0.0).fits == []
    error = directory.explain(wanted, 0.0, {})
    assert "a: kvm=yes is required, and it has kvm=no" in error.message
    assert "b: kvm=yes is required, and it does not have that label" in error.message
    assert "shows the labels of all hosts" in (error.hint or "")
    directory.update(offer("c", labels={"kvm": "yes"}))
    assert [fit.host for fit in directory.choose(wanted, 0.0).fits] == ["c"]
