"""Image references, manifests and configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError, ImageError
from ballonet.images.image import ImageConfig
from ballonet.images.manifest import parse_configuration, parse_index, parse_manifest
from ballonet.images.reference import is_loopback, parse_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar", "source"),
    [
        (
            "debian",
            "docker.io/library/debian:latest",
            "debian:latest",
            "docker://docker.io/library/debian:latest",
        ),
        ("debian:12", "docker.io/library/debian:12", "debian:12", "docker://docker.io/library/debian:12"),
        ("docker://me/app:1", "docker.io/me/app:1", "me/app:1", "docker://docker.io/me/app:1"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest", "docker://localhost/app:latest"),
        (
            "127.0.0.1:5000/a/b:x",
            "127.0.0.1:5000/a/b:x",
            "127.0.0.1:5000/a/b:x",
            "docker://127.0.0.1:5000/a/b:x",
        ),
        (
            f"r.example.org/a@sha256:{HEX}",
            f"r.example.org/a@sha256:{HEX}",
            f"r.example.org/a@sha256:{HEX}",
            f"docker://r.example.org/a@sha256:{HEX}",
        ),
        (
            f"a:tag@sha256:{HEX}",
            f"docker.io/library/a@sha256:{HEX}",
            f"a@sha256:{HEX}",
            f"docker://docker.io/library/a@sha256:{HEX}",
        ),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest", "docker://docker.io/a/b:latest"),
        ("oci:/x/y:tag", "oci:/x/y:tag", "oci:/x/y:tag", "oci:/x/y:tag"),
        ("oci-archive:/x.tar", "oci-archive:/x.tar", "oci-archive:/x.tar", "oci-archive:/x.tar"),
        (
            "docker-archive:/x.tar:a/b:1",
            "docker-archive:/x.tar:a/b:1",
            "docker-archive:/x.tar:a/b:1",
            "docker-archive:/x.tar:a/b:1",
        ),
    ],
)
def test_references_are_read(text: str, full: str, familiar: str, source: str) -> None:
    found = parse_reference(text)
    assert (str(found), found.familiar(), found.source()) == (full, familiar, source)
    assert str(parse_reference(full)) == full
    assert str(parse_reference(familiar)) == full


def test_a_tag_can_be_pinned_to_what_it_means_now() -> None:
    assert (
        parse_reference("debian:12").source(f"sha256:{HEX}")
        == f"docker://docker.io/library/debian@sha256:{HEX}"
    )
    assert parse_reference("oci:/x:y").source(f"sha256:{HEX}") == "oci:/x:y"


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(parse_reference("oci:layout:tag")) == f"oci:{tmp_path}/layout:tag"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "UPPER",
        "a b",
        "a:",
        "a:t t",
        "a@sha256:12",
        "a@md5:1",
        "-a",
        "a//b",
        "a/",
        "/etc/x.tar",
        "./x",
        "oci:",
        "a:" + "t" * 129,
        "n" * 300,
        "a\0b",
        "host:99999999/a",
        "--help",
        "a;b",
        "$(a)",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference(text)
    assert caught.value.hint


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80")))
    assert not any(
        map(is_loopback, ("localhost.example.org", "127.0.0.1.example.org:80", "docker.io", "10.0.0.1"))
    )


def test_the_configuration_is_kept_and_comes_back() -> None:
    said = {
        "Entrypoint": ["/run", "--x"],
        "Cmd": ["a"],
        "Env": ["A=1", "GONE=1", "B=x=y", "EMPTY=", "NONE", "GONE", "=x"],
        "WorkingDir": "/srv",
        "User": "web:video",
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
        "Volumes": {"/data": {}},
        "Labels": {"org.example.a": "b"},
        "Healthcheck": {"Test": ["NONE"]},
    }
    config = ImageConfig.from_json(said)
    assert config.env == {"A": "1", "B": "x=y", "EMPTY": ""}, "a name without a value is none, as in Docker"
    assert (config.workdir, config.user, config.exposed_ports) == ("/srv", "web:video", ("80/tcp",))
    assert (config.volumes, config.labels) == (("/data",), {"org.example.a": "b"})
    assert ImageConfig.from_json(config.to_json()) == config
    assert ImageConfig.from_json(None) == ImageConfig.from_json({"Cmd": None}) == ImageConfig()


def test_what_is_run_is_docker_s_rule() -> None:
    config = ImageConfig(entrypoint=("e",), cmd=("c",))
    assert config.command() == ("e", "c")
    assert config.command(("x",)) == ("e", "x")
    assert config.command(("x",), entrypoint=("n",)) == ("n", "x")
    assert config.command(entrypoint=()) == ()
    assert ImageConfig.from_json({"Entrypoint": [""], "Cmd": ["c"]}).command() == ("c",)


@pytest.mark.parametrize(
    "said",
    [
        {"Cmd": "text"},
        {"Env": [1]},
        {"User": 5},
        {"ExposedPorts": ["80"]},
        {"Volumes": "/a"},
        {"Labels": ["a"]},
        {"Cmd": ["a\0"]},
        [],
    ],
)
def test_a_configuration_of_another_shape_is_refused(said: Any) -> None:
    with pytest.raises(ImageError):
        ImageConfig.from_json(said)


BLOB = {"digest": f"sha256:{HEX}", "size": 5}


@pytest.mark.parametrize(
    "document",
    [
        b"no json",
        b"[" * 100_000,
        b"[]",
        {},
        {"config": BLOB},
        {"config": BLOB, "layers": {}},
        {"config": {}, "layers": []},
        {"config": BLOB, "layers": [{"digest": "sha256:../../../etc/passwd", "size": 1}]},
        {"config": BLOB, "layers": [{"digest": f"sha256:{HEX}", "size": -1}]},
        {"config": BLOB, "layers": [{"digest": f"sha256:{HEX}", "size": True}]},
        {"config": BLOB, "layers": ["text"]},
    ],
)
def test_what_is_no_manifest_is_refused(document: Any) -> None:
    with pytest.raises(ImageError):
        parse_manifest(document if isinstance(document, bytes) else json.dumps(document).encode(), "x")


@pytest.mark.parametrize(
    "document", [{}, {"rootfs": {}}, {"rootfs": {"diff_ids": ["x"]}}, {"rootfs": {"diff_ids": [1]}}]
)
def test_what_is_no_configuration_is_refused(document: Any) -> None:
    with pytest.raises(ImageError, match="lists no layers; it may not be a container image"):
        parse_configuration(json.dumps(document).encode(), "x")


def test_a_root_of_an_unknown_kind_is_refused_as_the_specification_asks() -> None:
    with pytest.raises(ImageError, match=r"rootfs\.type of x is 'snapshots'"):
        parse_configuration(json.dumps({"rootfs": {"type": "snapshots", "diff_ids": []}}).encode(), "x")


def test_another_architecture_is_told_with_both() -> None:
    entries = [{**BLOB, "platform": {"os": "linux", "architecture": name}} for name in ("arm64", "s390x")]
    document = json.dumps({"manifests": [*entries, "text", {"platform": 1}]}).encode()
    with pytest.raises(ImageError, match="linux/arm64, linux/s390x; sandboxes are linux/amd64"):
        parse_index(document, "amd64", "linux", "x")
    found = parse_index(document, "s390x", "linux", "x")
    assert found is not None
    assert found.hex == HEX
    assert parse_index(json.dumps({"layers": []}).encode(), "amd64", "linux", "x") is None


def test_the_old_schema_is_told() -> None:
    with pytest.raises(ImageError, match="Docker's schema version 1, which is not supported"):
        parse_index(b'{"schemaVersion": 1}', "amd64", "linux", "x")
