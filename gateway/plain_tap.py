"""Observer of an answer that is no stream: it is kept to read its usage, and its last bytes wait for the S record."""

from typing import Any, Final

from gateway.answer import read_answer

HELD_BYTES_MAX: Final = 1024 * 1024
"""An answer up to this size leaves in one piece; of a larger one only the last chunk waits."""
READ_BYTES_MAX: Final = 32 * 1024 * 1024
"""Largest answer that is read for its usage."""


class PlainTap:
    """The same face as gateway.sse.SseTap, as far as a whole answer has it."""

    done = False
    """There is no terminal event: the end of the answer is the end."""

    usage_partial = False
    compressed = False
    events = 0
    raw_bytes = 0
    open_bytes = 0
    at_boundary = True

    def __init__(self, family: str) -> None:
        self._family = family
        self._held: list[bytes] = []
        self._kept: list[bytes] = []
        self._size = 0
        self.model = ""
        self.service_tier = ""
        self.finish_reason = ""
        self.usage_raw: dict[str, Any] | None = None
        self.usage_absurd = False
        self.error: dict[str, Any] | None = None
        self.images = 0
        """Images in the answer, and what they are, where it says so."""
        self.quality = ""
        self.size = ""

    def feed(self, data: bytes) -> bytes:
        """The bytes to forward now; empty while all is held."""
        self._size += len(data)
        if self._size <= READ_BYTES_MAX:
            self._kept.append(data)
        else:
            self._kept.clear()
        self._held.append(data)
        if self._size <= HELD_BYTES_MAX:
            return b""
        out = b"".join(self._held[:-1])
        self._held = [data]
        return out

    def finish(self) -> bytes:
        """The answer has ended: read it. Nothing more leaves before `release`."""
        answer = read_answer(self._family, self.body)
        self.model, self.service_tier, self.finish_reason = answer.model, answer.service_tier, answer.finish_reason
        self.usage_raw, self.usage_absurd, self.error = answer.usage_raw, answer.usage_absurd, answer.error
        self.images, self.quality, self.size = answer.images, answer.quality, answer.size
        return b""

    def release(self) -> bytes:
        return b"".join(self._held)

    @property
    def body(self) -> bytes:
        """The whole answer; empty where it is too large to be read."""
        return b"".join(self._kept) if self._size <= READ_BYTES_MAX else b""
