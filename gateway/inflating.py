"""Observers of an answer that the upstream compressed although `identity` was asked for.

Its bytes pass as they are, with their header; what the observer reads is inflated, within bounds. Nothing of ours can
be put into such a stream: its usage event stays in, it gets no keep-alive comments, and credit that ends cuts it.
"""

import zlib
from typing import Final

from gateway.plain_tap import PlainTap
from gateway.sse import SseTap

INFLATED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Inflated bytes that are read of one answer; what comes after is passed on unread."""
ENCODINGS: Final = (b"gzip", b"x-gzip", b"deflate")

_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS


def is_inflatable(encoding: bytes) -> bool:
    """Whether an answer with this Content-Encoding can be read."""
    return encoding.strip().lower() in ENCODINGS


class _Inflater:
    """Bytes in, inflated bytes out; nothing more after damage or beyond the bound."""

    def __init__(self) -> None:
        self._state = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._left = INFLATED_BYTES_MAX

    def feed(self, data: bytes) -> bytes:
        if self._left <= 0:
            return b""
        try:
            out = self._state.decompress(data, self._left)
        except zlib.error:
            self._left = 0
            return b""
        self._left -= len(out)
        return out


class InflatingSseTap(SseTap):
    """Reads a compressed stream; the chunk with the terminal event, and all after it, waits for `release`."""

    __slots__ = ("_compressed", "_inflater")

    compressed = True

    def __init__(self, family: str) -> None:
        super().__init__(family, strip_usage=False)
        self._inflater = _Inflater()
        self._compressed: list[bytes] = []

    @property
    def at_boundary(self) -> bool:
        return False

    @property
    def usual(self) -> None:
        """What comes is not what is read."""

    @property
    def open_bytes(self) -> int:
        return 0  # in bytes that came nobody knows

    def feed(self, data: bytes) -> bytes:
        super().feed(self._inflater.feed(data))
        if not self.done:
            return data
        self._compressed.append(data)
        return b""

    def finish(self) -> bytes:
        super().finish()
        return b""

    def release(self) -> bytes:
        held, self._compressed = self._compressed, []
        return b"".join(held)


class InflatingPlainTap(PlainTap):
    """Reads a compressed answer when it is whole."""

    @property
    def body(self) -> bytes:
        return _Inflater().feed(super().body)
