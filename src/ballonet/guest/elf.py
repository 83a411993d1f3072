"""Reading ELF files: the parts that kernels, modules and programs for the guest need, without I/O.

Only the form of x86-64 Linux is supported: 64-bit, little-endian (System V ABI, "Object Files" and "Program Loading").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError

MAGIC = b"\x7fELF"

#: Program header types (System V ABI, "Program Header").
PT_INTERP = 3
PT_NOTE = 4

_CLASS_64, _LITTLE_ENDIAN, _MACHINE_X86_64 = 2, 1, 62
_SHT_NOBITS = 8

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")


@dataclass(frozen=True)
class Note:
    """One entry of a note segment: the owner that defined it, its type, and its content."""

    owner: bytes
    kind: int
    content: bytes


class Elf:
    """An ELF file held in memory.

    :param what: the file's name, for messages.
    :raises HostError: it is not a 64-bit little-endian x86-64 ELF file. Methods raise it if the file is truncated.
    """

    def __init__(self, content: bytes, what: str) -> None:
        self._content = content
        self._what = what
        if not content.startswith(MAGIC):
            raise HostError(f"{what} is not an ELF file")
        if len(content) < _HEADER.size:
            raise self._truncated()
        fields = _HEADER.unpack_from(content)
        identity, machine = fields[0], fields[2]
        if (identity[4], identity[5], machine) != (_CLASS_64, _LITTLE_ENDIAN, _MACHINE_X86_64):
            raise HostError(f"{what} is an ELF file for another machine ({machine}), not for x86-64")
        self._program_headers = (fields[5], fields[9], fields[10])
        self._section_headers = (fields[6], fields[11], fields[12])
        self._section_names = fields[13]

    def segments(self, kind: int) -> Iterator[bytes]:
        """The contents of the program segments of type ``kind`` (``PT_*``)."""
        offset, entry_size, count = self._program_headers
        for index in range(count):
            header = self._unpack(_PROGRAM_HEADER, offset + index * entry_size)
            if header[0] == kind:
                yield self._slice(header[2], header[5])

    def notes(self) -> Iterator[Note]:
        """All notes in the note segments (System V ABI, "Note Section")."""
        for segment in self.segments(PT_NOTE):
            at = 0
            while at + _NOTE.size <= len(segment):
                owner_size, content_size, kind = _NOTE.unpack_from(segment, at)
                owner_at = at + _NOTE.size
                content_at = owner_at + _align4(owner_size)
                owner = segment[owner_at : owner_at + owner_size].rstrip(b"\0")
                yield Note(owner, kind, segment[content_at : content_at + content_size])
                at = content_at + _align4(content_size)

    def section(self, name: str) -> bytes | None:
        """The content of the section ``name``, or ``None`` if there is none."""
        offset, entry_size, count = self._section_headers
        headers = [self._unpack(_SECTION_HEADER, offset + index * entry_size) for index in range(count)]
        if self._section_names >= len(headers):
            return None
        names = headers[self._section_names]
        table = self._slice(names[4], names[5])
        for header in headers:
            end = table.find(b"\0", header[0])
            if end >= 0 and table[header[0] : end] == name.encode() and header[1] != _SHT_NOBITS:
                return self._slice(header[4], header[5])
        return None

    def _unpack(self, layout: struct.Struct, offset: int) -> tuple[int, ...]:
        if offset + layout.size > len(self._content):
            raise self._truncated()
        return layout.unpack_from(self._content, offset)

    def _slice(self, offset: int, size: int) -> bytes:
        if offset + size > len(self._content):
            raise self._truncated()
        return self._content[offset : offset + size]

    def _truncated(self) -> HostError:
        return HostError(f"{self._what} is a truncated ELF file ({len(self._content)} bytes)")


def _align4(size: int) -> int:
    return (size + 3) & ~3
