"""The two ends of a file that passes by: enough to tell how long a sound is."""

from typing import Final

HEAD_BYTES: Final = 64 * 1024
TAIL_BYTES: Final = 256 * 1024
"""Bytes kept of a file's beginning and of its end."""


class Clip:
    """Fed with a file's bytes in order, however they are cut. Memory: both ends."""

    __slots__ = ("_late", "head", "size")

    def __init__(self) -> None:
        self.head = b""
        self.size = 0
        self._late = b""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if (room := HEAD_BYTES - len(self.head)) > 0:
            self.head += data[:room]
        self._late = (self._late + data)[-TAIL_BYTES:]

    @property
    def tail(self) -> bytes:
        """The last bytes, which may overlap with `head`."""
        return self._late
