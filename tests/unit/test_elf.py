from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import HostError
from ballonet.guest.elf import PT_INTERP, PT_NOTE, Elf
from tests.unit import images


def test_segments_are_found_by_type_with_their_content() -> None:
    parsed = Elf(images.elf([(1, b"code"), (PT_INTERP, b"/lib/ld.so\0"), (1, b"more")]), "x")
    assert list(parsed.segments(PT_INTERP)) == [b"/lib/ld.so\0"]
    assert list(parsed.segments(1)) == [b"code", b"more"]
    assert list(parsed.segments(7)) == []


def test_notes_are_read_whatever_the_padding_between_them() -> None:
    content = images.note(b"GNU", 3, b"12345") + images.note(b"Xen", 18, b"12345678")
    found = [
        (note.owner, note.kind, note.content) for note in Elf(images.elf([(PT_NOTE, content)]), "x").notes()
    ]
    assert found == [(b"GNU", 3, b"12345"), (b"Xen", 18, b"12345678")]


def test_section_is_found_by_its_whole_name() -> None:
    parsed = Elf(images.elf([], {".modinfo": b"one", ".mod": b"two"}), "x")
    assert parsed.section(".mod") == b"two"
    assert parsed.section(".modinfo") == b"one"
    assert parsed.section(".modinf") is None


def test_other_files_are_refused_by_name() -> None:
    with pytest.raises(HostError, match=r"thing.*is not an ELF file"):
        Elf(b"#!/bin/sh\n", "thing")
    with pytest.raises(HostError, match=r"another machine \(183\)"):
        Elf(images.elf([], machine=183), "thing")


@given(st.integers(min_value=4), st.data())
def test_a_truncated_or_scribbled_file_never_fails_in_another_way(cut: int, data: st.DataObject) -> None:
    whole = bytearray(images.elf([(PT_NOTE, images.note(b"Xen", 18, b"1234"))], {".modinfo": b"depends="}))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = Elf(bytes(whole[: cut % (len(whole) + 1)]), "x")
        list(parsed.notes())
        parsed.section(".modinfo")
    except HostError:
        pass
