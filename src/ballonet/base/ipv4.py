"""Blocks of IPv4 addresses. The standard library's ``ipaddress`` would cost memory in every sandbox's process. Pure."""

from __future__ import annotations

import socket
from typing import NamedTuple, Self


class Block(NamedTuple):
    """A block of IPv4 addresses: the first one as a number, and the length of the prefix."""

    address: int
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``A.B.C.D`` or ``A.B.C.D/PREFIX``.

        :raises ValueError: it has another form, or is not the first address of its block.
        """
        address, slash, length = text.partition("/")
        try:
            number = int.from_bytes(socket.inet_pton(socket.AF_INET, address))
        except OSError:
            raise ValueError("is not an IPv4 address in the form 192.0.2.1") from None
        prefix = int(length) if slash else 32
        if prefix > 32:
            raise ValueError(f"has a prefix length of {prefix}, which must be 0 to 32")
        block = cls(number, prefix)
        if block.address & block.mask != block.address:
            raise ValueError(f"has bits after its prefix: use {cls(number & block.mask, prefix)}")
        return block

    @property
    def mask(self) -> int:
        return (0xFFFFFFFF << (32 - self.prefix)) & 0xFFFFFFFF

    def within(self, other: Block) -> bool:
        """Whether every address of this block is one of ``other``."""
        return self.prefix >= other.prefix and self.address & other.mask == other.address

    def __str__(self) -> str:
        address = socket.inet_ntop(socket.AF_INET, self.address.to_bytes(4))
        return address if self.prefix == 32 else f"{address}/{self.prefix}"
