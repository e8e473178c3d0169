"""Observer of an answer that is no stream: it is kept to read its usage, and its last bytes wait for the S record."""

from typing import Any, Final

from gateway.answer import parse, read_answer
from gateway.usual_answer import usual_answer
from shared.usage import Usage
from shared.usage_rules.usual import FAMILIES

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
    usual = None

    # What the answer says, once it has ended. Most of it stays as it is here.
    model = ""
    service_tier = ""
    usage: Usage | None = None
    """The usage, where it is a usual one: read at once, and to be believed. Else there may be one in `usage_raw`."""
    usage_cost_usd: float | None = None
    """What such a usage says that the call cost."""
    usage_absurd = False
    error: dict[str, Any] | None = None
    images = 0
    """Images in the answer, and what they are, where it says so."""
    quality = ""
    size = ""
    _usage_raw: dict[str, Any] | None = None

    def __init__(self, family: str) -> None:
        self._family = family
        self._size = 0
        self._kept: list[bytes] = []
        """All that came, while that can be read."""
        self._waiting: bytes | None = None
        """The chunk that waits, of an answer that is too large to be held; None while all of it waits."""

    def feed(self, data: bytes) -> bytes:
        """The bytes to forward now; empty while all is held."""
        self._size += len(data)
        self._kept.append(data)
        if self._size <= HELD_BYTES_MAX:
            return b""
        out = b"".join(self._kept[:-1]) if self._waiting is None else self._waiting
        self._waiting = data
        if self._size > READ_BYTES_MAX:
            self._kept.clear()
        return out

    def finish(self) -> bytes:
        """The answer has ended: read it. Nothing more leaves before `release`."""
        usual = usual_answer(self.body) if self._family in FAMILIES else None
        if usual is None or (usage := usual.usage.counted()) is None:
            self._read_any()
            return b""
        self.usage, self.usage_cost_usd = usage, usual.usage.cost
        self.model = usual.model or ""
        self.service_tier = usual.usage.service_tier or usual.service_tier or ""
        return b""

    def _read_any(self) -> None:
        answer = read_answer(self._family, self.body)
        self.model, self.service_tier = answer.model, answer.service_tier
        self._usage_raw, self.usage_absurd, self.error = answer.usage_raw, answer.usage_absurd, answer.error
        self.images, self.quality, self.size = answer.images, answer.quality, answer.size

    def release(self) -> bytes:
        return b"".join(self._kept) if self._waiting is None else self._waiting

    @property
    def usage_raw(self) -> dict[str, Any] | None:
        """The usage object as parsed, of a usual answer when it is asked for; None where there is none to be read."""
        if self._usage_raw is None and self.usage is not None:
            answer = parse(self.body)
            self._usage_raw = answer and answer["usage"]
        return self._usage_raw

    @property
    def body(self) -> bytes:
        """The whole answer; empty where it is too large to be read."""
        return b"".join(self._kept)
