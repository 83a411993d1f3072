"""Pulling from a real registry, and from servers that stall, drop and lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ballonet.base.errors import ImageError, ImageFetchError, UnknownImageError
from ballonet.images.skopeo import Skopeo
from ballonet.images.store import ImageStore
from tests.registry.server import Registry, bad_registry, deaf_server
from tests.unit.erofs_reader import Reader
from tests.unit.oci import Layout, entry, layer

BASE = layer(entry("etc/hostname", b"base"), entry("bin/tool", os.urandom(200_000), mode=0o755))
#: A server that is silent for so long is given up in these tests (seconds).
_STALL_S = 2.0


def impatient(store: ImageStore) -> ImageStore:
    return ImageStore(store.directory, skopeo=Skopeo(stall_s=_STALL_S))


def nothing_is_left(store: ImageStore) -> bool:
    return store.list() == [] and not list((store.directory / "work").glob("*"))


def test_pull_and_pull_again_fetches_no_layer_twice(
    store: ImageStore, layout: Layout, registry: Registry
) -> None:
    layout.add(BASE, config={"Cmd": ["tool"]}, name="app")
    reference = registry.push(layout, "app")
    before = registry.fetched()
    image = store.resolve(reference)
    assert registry.fetched() - before == 2  # the configuration and the layer
    assert Reader(image.root).files()["/etc/hostname"].content == b"base"
    assert (image.config.cmd, image.names) == (("tool",), (f"{reference}:latest",))
    asked = registry.fetched("manifests")
    assert store.resolve(reference) == image
    assert registry.fetched("manifests") == asked, "what is here is not asked for"
    assert store.resolve(reference, pull="always") == image
    assert registry.fetched("manifests") > asked
    assert registry.fetched() - before == 2


def test_a_layer_that_another_image_has_is_not_fetched(
    store: ImageStore, layout: Layout, registry: Registry
) -> None:
    layout.add(BASE, name="one")
    layout.add(BASE, layer(entry("two", b"2")), name="two")
    one, two = (registry.push(layout, name) for name in ("one", "two"))
    store.resolve(one)
    before = registry.fetched()
    store.resolve(two)
    assert registry.fetched() - before == 2  # its configuration and its own layer


def test_a_moved_tag_is_seen_when_asked_for(store: ImageStore, layout: Layout, registry: Registry) -> None:
    layout.add(BASE, name="one")
    layout.add(layer(entry("new", b"")), name="two")
    reference = registry.push(layout, "one", into="app:1")
    old = store.resolve(reference)
    registry.push(layout, "two", into="app:1")
    assert store.resolve(reference).id == old.id
    new = store.resolve(reference, pull="always")
    assert "/new" in Reader(new.root).files()
    assert store.find(old.id).names == ()


def test_programs_that_pull_at_once_fetch_once(store: ImageStore, layout: Layout, registry: Registry) -> None:
    layout.add(BASE, name="app")
    reference = registry.push(layout, "app")
    before = registry.fetched()
    program = (
        "import sys; from pathlib import Path; from ballonet.images.store import ImageStore\n"
        "print(ImageStore(Path(sys.argv[1])).resolve(sys.argv[2]).id)"
    )
    argv = [sys.executable, "-c", program, str(store.directory), reference]
    programs = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ids = {program.communicate()[0] for program in programs}
    assert [program.returncode for program in programs] == [0] * 4
    assert len(ids) == 1
    assert registry.fetched() - before == 2


def test_a_digest_pins_an_image(store: ImageStore, layout: Layout, registry: Registry) -> None:
    descriptor = layout.add(BASE, name="one")
    layout.add(layer(entry("new", b"")), name="two")
    registry.push(layout, "one", into="app:1")
    registry.push(layout, "two", into="app:1")
    pinned = f"{registry.address}/app:1@{descriptor['digest']}"
    image = store.resolve(pinned)
    assert "/etc/hostname" in Reader(image.root).files()
    assert store.resolve(pinned, pull="never") == image
    with pytest.raises(UnknownImageError):
        store.resolve(f"{registry.address}/app@sha256:{'0' * 64}")


def test_the_right_one_of_several_architectures_is_taken(
    store: ImageStore, layout: Layout, registry: Registry
) -> None:
    other = layout.add(layer(entry("arm", b"")), name="a", architecture="arm64")
    ours = layout.add(BASE, name="b")
    layout.add_index({"arm64": other, "amd64": ours}, name="both")
    layout.add_index({"arm64": other}, name="foreign")
    image = store.resolve(registry.push(layout, "both", everything=True))
    assert "/etc/hostname" in Reader(image.root).files()
    assert store.resolve(registry.push(layout, "b")).id == image.id
    for name in ("foreign", "a"):
        with pytest.raises(ImageError, match="is for linux/arm64; sandboxes are linux/amd64"):
            store.resolve(registry.push(layout, name, everything=True))
    assert store.list() == [store.find(image.id)]


def test_an_absent_image_is_told(store: ImageStore, layout: Layout, registry: Registry) -> None:
    layout.add(BASE, name="app")
    registry.push(layout, "app")
    for name in ("none", "app:none"):
        with pytest.raises(UnknownImageError, match="cannot be fetched") as caught:
            store.resolve(f"{registry.address}/{name}")
        assert "check the name" in str(caught.value.hint)
    assert nothing_is_left(store)


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_blob_in_the_registry_is_refused(
    store: ImageStore, layout: Layout, registry: Registry, damage: str
) -> None:
    descriptor = layout.add(BASE, name="app")
    reference = registry.push(layout, "app")
    blob = registry.blob(layout.layers_of(descriptor)[0].name)
    content = blob.read_bytes()
    blob.write_bytes(content[:-500] if damage == "truncated" else content[:-500] + bytes(500))
    with pytest.raises(ImageFetchError, match="app:latest cannot be fetched"):
        store.resolve(reference)
    assert nothing_is_left(store)
    blob.write_bytes(content)
    assert store.resolve(reference)


def test_a_damaged_manifest_in_the_registry_is_refused(
    store: ImageStore, layout: Layout, registry: Registry
) -> None:
    descriptor = layout.add(BASE, name="app")
    reference = registry.push(layout, "app")
    blob = registry.blob(descriptor["digest"].removeprefix("sha256:"))
    blob.write_bytes(blob.read_bytes()[:-20])
    with pytest.raises(ImageError):
        store.resolve(reference)
    assert nothing_is_left(store)


def test_a_registry_that_is_not_there_is_told(store: ImageStore, registry: Registry) -> None:
    registry.stop()
    with pytest.raises(ImageFetchError, match="connection refused") as caught:
        store.resolve(f"{registry.address}/app")
    assert "check that the registry is running" in str(caught.value.hint)


def test_plain_http_is_for_this_machine_or_where_it_is_allowed(
    store: ImageStore, layout: Layout, registry: Registry
) -> None:
    layout.add(BASE, name="app")
    reference = registry.push(layout, "app")
    with pytest.raises(ImageFetchError, match="HTTPS client") as caught:
        ImageStore(store.directory, skopeo=Skopeo(tls_verify=True)).resolve(reference)
    assert "--tls-verify=false" in str(caught.value.hint)
    assert ImageStore(store.directory, skopeo=Skopeo(tls_verify=False)).resolve(reference)


def test_a_registry_that_never_answers_is_given_up(store: ImageStore) -> None:
    with (
        deaf_server() as address,
        pytest.raises(
            ImageFetchError, match=rf"{address} has sent no data for .*app:latest for 2 s"
        ) as caught,
    ):
        impatient(store).resolve(f"{address}/app")
    assert "--stall-timeout" in str(caught.value.hint)


def test_a_registry_that_stalls_within_a_layer_is_given_up(store: ImageStore, layout: Layout) -> None:
    layout.add(layer(entry("big", os.urandom(3 << 20))), name="app")
    over = threading.Event()

    def stall(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content if len(content) < 10_000 else content[: len(content) // 2])
        handler.wfile.flush()
        if len(content) >= 10_000:
            over.wait()

    with bad_registry(layout, stall) as address:
        try:
            with pytest.raises(ImageFetchError, match="has sent no data for"):
                impatient(store).resolve(f"{address}/app")
        finally:
            over.set()
    assert nothing_is_left(store)


def test_a_registry_that_drops_the_connection_is_told(store: ImageStore, layout: Layout) -> None:
    layout.add(layer(entry("big", os.urandom(3 << 20))), name="app")

    def drop(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content if len(content) < 10_000 else content[: len(content) // 2])
        handler.close_connection = True

    with bad_registry(layout, drop) as address, pytest.raises(ImageFetchError, match=r"EOF|reset") as caught:
        store.resolve(f"{address}/app")
    assert caught.value.hint
    assert nothing_is_left(store)


def test_a_registry_that_sends_something_else_is_told(store: ImageStore, layout: Layout) -> None:
    layout.add(layer(entry("file", os.urandom(50_000))), name="app")

    def lie(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content if len(content) < 10_000 else bytes(len(content)))

    with bad_registry(layout, lie) as address, pytest.raises(ImageFetchError, match="cannot be fetched"):
        store.resolve(f"{address}/app")
    assert nothing_is_left(store)


def test_the_command_pulls_lists_and_removes(tmp_path: Path, layout: Layout, registry: Registry) -> None:
    layout.add(BASE, name="app")
    reference = registry.push(layout, "app")
    env = {
        **os.environ,
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "BALLONET_RUN_DIR": str(tmp_path / "run"),
    }

    def image(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "ballonet", "image", *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    pulled = image("pull", reference)
    assert (pulled.returncode, pulled.stderr) == (0, f"ballonet: fetching {reference}:latest\n")
    assert image("tag", reference, "app").returncode == 0
    (row,) = json.loads(image("ls", "--json").stdout)
    assert row["id"] == pulled.stdout.strip()
    assert row["names"] == [f"{reference}:latest", "docker.io/library/app:latest"]
    missing = image("pull", f"{reference}:none")
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
    assert image("rm", "app", reference).returncode == 0
    assert json.loads(image("ls", "--json").stdout) == []
