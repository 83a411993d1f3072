"""Compressed archives on their way into a guest: decompressed with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ballonet.base.errors import ConfigError

_PIECE_BYTES = 64 << 10
_MAGIC_BYTES = 6


async def uncompressed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Decompress a stream that may be compressed with gzip, bzip2 or xz.

    :raises ConfigError: it is damaged, or compressed with zstd.
    """
    head = b""
    async for piece in stream:
        head += piece
        if len(head) >= _MAGIC_BYTES:
            break
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise ConfigError(
            "the archive is compressed with zstd, which is not supported",
            hint="decompress it first: zstd -dc FILE | ballonet cp - NAME:PATH",
        )
    make = next((make for magic, make in _decompressors().items() if head.startswith(magic)), None)
    if make is None:
        if head:
            yield head
        async for piece in stream:
            yield piece
        return
    decompressor = _Decompressor(make)
    for out in decompressor.feed(head):
        yield out
    async for piece in stream:
        for out in decompressor.feed(piece):
            yield out
    decompressor.end()


def _decompressors() -> dict[bytes, Callable[[], Any]]:
    import bz2
    import lzma
    import zlib

    return {
        b"\x1f\x8b": lambda: zlib.decompressobj(31),
        b"BZh": bz2.BZ2Decompressor,
        b"\xfd7zXZ\0": lzma.LZMADecompressor,
    }


class _Decompressor:
    """Decompresses concatenated streams in pieces of bounded size: a small input may expand to a very large output."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._one = make()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._feed(data)
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(f"the compressed archive is damaged: {error}") from error
        except Exception as error:  # the only common base of zlib.error and lzma.LZMAError
            if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
                raise
            raise ConfigError(f"the compressed archive is damaged: {error}") from error

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data or not getattr(self._one, "needs_input", True):
            if self._one.eof:
                self._one, self._begun = self._make(), False
            if not self._begun and not data.strip(b"\0"):
                return  # padding after the last stream
            self._begun = True
            out = self._one.decompress(data, _PIECE_BYTES)
            if out:
                yield out
            # zlib returns the input that it did not use; the others keep it.
            data = self._one.unused_data if self._one.eof else getattr(self._one, "unconsumed_tail", b"")
            if self._one.eof and not data:
                return

    def end(self) -> None:
        if self._begun and not self._one.eof:
            raise ConfigError("the compressed archive ends early")
