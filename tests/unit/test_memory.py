"""Sizes as people write them, and the conversions between units."""

import pytest

from ballonet.base.errors import ConfigError
from ballonet.base.memory import MAX_MIB, bytes_to_mib, mib_to_bytes, mib_to_pages, parse_size


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("512", 512),
        ("512M", 512),
        ("512m", 512),
        ("512MB", 512),
        ("512MiB", 512),
        (" 512 M ", 512),
        ("1G", 1024),
        ("1.5G", 1536),
        ("0.25g", 256),
        ("2T", 2 * 1024 * 1024),
        ("0", 0),
    ],
)
def test_sizes_are_read_as_whole_mib(text: str, mib: int) -> None:
    assert parse_size(text) == mib


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "-512M",
        "abc",
        "12X",
        "1.2.3",
        "1e3",
        "0x10",
        "٥١٢",
        "5 1 2",
        "M",
        "nan",
        "9" * 100,
        "512M\0",
    ],
)
def test_what_is_not_a_size_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size") as caught:
        parse_size(text, "--memory")
    assert caught.value.message.startswith("--memory")
    assert len(caught.value.message) < 120


def test_a_size_that_is_not_whole_mib_is_refused_with_its_value() -> None:
    with pytest.raises(ConfigError, match=r"is 1\.50* MiB, not a whole number"):
        parse_size("1.5M")


def test_a_huge_size_is_refused_naming_the_limit() -> None:
    assert parse_size("16T") == MAX_MIB
    with pytest.raises(ConfigError, match="exceeds the largest supported size"):
        parse_size("17T")


def test_conversions_never_say_more_than_there_is() -> None:
    assert bytes_to_mib(mib_to_bytes(3) - 1) == 2
    assert mib_to_pages(1) == 256
