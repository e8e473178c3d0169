"""Observer of an answer that is sound: it passes as it comes, but for its last byte, which waits for the S record."""

from gateway.asks.clip import Clip
from gateway.plain_tap import PlainTap


class BinaryTap(PlainTap):
    """The same face as PlainTap; nothing is kept but the ends, which tell how long the sound is."""

    def __init__(self, family: str) -> None:
        super().__init__(family)
        self.clip = Clip()
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        self.clip.add(data)
        out, self._last = self._last + data[:-1], data[-1:]
        return out

    def finish(self) -> bytes:
        return b""

    def release(self) -> bytes:
        return self._last

    @property
    def body(self) -> bytes:
        return b""
