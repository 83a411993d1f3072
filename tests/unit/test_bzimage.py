from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import HostError
from ballonet.guest import bzimage
from tests.unit import images


@pytest.fixture(scope="module")
def kernel() -> bytes:
    return images.vmlinux()


@pytest.mark.parametrize("compression", images.COMPRESSIONS)
def test_kernel_comes_out_as_it_went_in(compression: str, kernel: bytes) -> None:
    image = images.bzimage(images.COMPRESSIONS[compression](kernel))
    assert bzimage.unpacked_size(image, "vmlinuz") == len(kernel)
    assert bzimage.unpack(image, "vmlinuz") == kernel


def test_lz4_frames_one_after_the_other_are_one_kernel(kernel: bytes) -> None:
    payload = (
        images.lz4_legacy(kernel[:100]) + images.lz4_legacy(kernel[100:]) + struct.pack("<I", len(kernel))
    )
    assert bzimage.unpack(images.bzimage(payload), "vmlinuz") == kernel


def test_setup_says_release_and_payload() -> None:
    image = images.bzimage(b"0123456789", "6.12.9-cloud-amd64")
    setup = bzimage.read_setup(image[: bzimage.SETUP_BYTES], "vmlinuz")
    assert setup.release == "6.12.9-cloud-amd64"
    assert image[setup.payload_offset :][: setup.payload_length] == b"0123456789"


def test_no_setup_sectors_stand_for_four() -> None:
    assert (
        bzimage.read_setup(images.bzimage(b"0123456789", setup_sects=0), "vmlinuz").payload_offset
        == 5 * 512 + 64
    )


@pytest.mark.parametrize("compression", images.COMPRESSIONS)
def test_truncated_image_is_refused_with_its_name(compression: str) -> None:
    image = images.bzimage(images.COMPRESSIONS[compression](images.vmlinux(padding=100_000)))
    with pytest.raises(HostError, match=r"vmlinuz-x is truncated"):
        bzimage.unpack(image[: len(image) - 600], "vmlinuz-x")


@pytest.mark.parametrize("compression", images.COMPRESSIONS)
def test_damaged_payload_is_refused(compression: str) -> None:
    image = bytearray(images.bzimage(images.COMPRESSIONS[compression](images.vmlinux(padding=100_000))))
    setup = bzimage.read_setup(bytes(image), "vmlinuz")
    middle = setup.payload_offset + 8
    image[middle : middle + 40] = b"\xff" * 40
    with pytest.raises(HostError, match="damaged"):
        bzimage.unpack(bytes(image), "vmlinuz")


def test_kernel_of_another_size_than_said_is_refused() -> None:
    kernel = images.vmlinux(padding=1000)
    payload = images.lz4_legacy(kernel) + struct.pack("<I", len(kernel) + 1)
    with pytest.raises(
        HostError, match=f"is damaged: it unpacks to {len(kernel)} bytes instead of {len(kernel) + 1}"
    ):
        bzimage.unpack(images.bzimage(payload), "vmlinuz")


def test_kernel_without_pvh_entry_is_refused() -> None:
    payload = images.COMPRESSIONS["gzip"](images.vmlinux(pvh=False, padding=1000))
    with pytest.raises(HostError, match="no PVH entry") as caught:
        bzimage.unpack(images.bzimage(payload), "vmlinuz")
    assert "CONFIG_PVH" in str(caught.value.hint)


def test_unknown_compression_is_named() -> None:
    with pytest.raises(HostError, match="begins with 425a6839"):
        bzimage.unpack(images.bzimage(b"BZh9" + bytes(20) + struct.pack("<I", 1000)), "vmlinuz")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a Linux kernel image"),
        (b"MZ" + bytes(2000), "not a Linux kernel image"),
        (images.vmlinux(padding=1000), "uncompressed kernel"),
        (images.bzimage(b"0123456789", protocol=0x0207), "boot protocol 2.07"),
        (images.bzimage(b"0123456789", release="\0"), "does not contain its kernel release"),
    ],
)
def test_files_that_are_no_kernel_image_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(HostError, match=says):
        bzimage.read_setup(content, "file")


@given(st.lists(st.tuples(st.integers(0x1F1, 0x260), st.integers(0, 255)), max_size=6), st.integers(0, 8000))
def test_scribbled_header_never_fails_in_another_way(changes: list[tuple[int, int]], cut: int) -> None:
    image = bytearray(images.bzimage(images.COMPRESSIONS["gzip"](images.vmlinux(padding=1000))))
    for at, value in changes:
        image[at] = value
    with contextlib.suppress(HostError):
        bzimage.unpack(bytes(image[: max(0, len(image) - cut)]), "vmlinuz")
