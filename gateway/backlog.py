"""What has come of an answer's body and has not been handed over yet, in pieces. Pure."""

from collections import deque
from collections.abc import Iterable
from typing import Final

READ_BYTES_MAX: Final = 256 * 1024
"""Body that comes at once at most: what uvloop reads from a socket in one go."""


class Backlog:
    """Pieces are as they come, until `cut` says how large they may be."""

    __slots__ = ("_piece_end", "_pieces", "piece_bytes", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.size = 0
        """In bytes, of all pieces."""
        self.piece_bytes = READ_BYTES_MAX
        self._piece_end = b""

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, parts: Iterable[bytes]) -> None:
        """Parts that came at once, as few pieces as they may be."""
        data, size = b"".join(parts), self.piece_bytes
        self.size += len(data)
        if len(data) <= size:
            self._pieces.append(data)
            return
        end, start = self._piece_end, 0
        while len(data) - start > size:
            found = data.rfind(end, start, start + size) if end else -1
            at = start + size if found < 0 else found + len(end)
            self._pieces.append(data[start:at])
            start = at
        self._pieces.append(data[start:])

    def take(self) -> bytes:
        """The first piece. Raises IndexError where there is none."""
        piece = self._pieces.popleft()
        self.size -= len(piece)
        return piece

    def cut(self, piece_bytes: int, piece_end: bytes) -> None:
        """From here on pieces are of `piece_bytes` at most, and end with a `piece_end` where one is in them."""
        self.piece_bytes, self._piece_end = piece_bytes, piece_end
        if self._pieces:
            whole = self.whole
            self._pieces.clear()
            self.size = 0
            self.put([whole])

    def reset(self) -> None:
        """As it was at first."""
        self._pieces.clear()
        self.size = 0
        self.piece_bytes, self._piece_end = READ_BYTES_MAX, b""

    @property
    def whole(self) -> bytes:
        return b"".join(self._pieces)
