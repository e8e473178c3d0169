"""The observer of an SSE answer: sees each chunk on its way to the client and says which bytes may go on now. Pure.

Three things hold bytes back. The event that ends the stream waits for `release`, because the client must not have it
before the call is in the journal. The usage event that the gateway asked for, and the client did not, is taken out. And
an event that is not complete waits while it may still be one of these. All other bytes pass at once, unchanged.

The result is the same wherever the bytes are cut. The usual chunk, one whole event without news, costs a few searches.
"""

from collections.abc import Callable
from typing import Any, Final

from gateway.answer import Reading, parse
from gateway.sse_events import (
    DONE,
    FAMILIES,
    PLAIN,
    TEXT_PATTERN_BYTES,
    carries_only_usage,
    carries_text,
    comments,
    event_end,
    has_data,
    is_done,
    is_whole,
    may_end_stream,
    payload,
    says_nothing,
    usage_at_end,
    usual_events,
    usual_prefix,
)
from shared.usage import Usage

HOLD_BYTES_MAX: Final = 64 * 1024
"""Bytes of an incomplete event that wait because it may be the usage event; a larger event is never taken out."""
KEEP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of events that are kept to be recounted and were not taken yet."""
EVENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of an incomplete event that are kept to be read; of a larger one only the end is."""
MODEL_EVENTS_MAX: Final = 8
"""Events that are parsed to find the name of the model."""


class SseTap:
    """Watches one stream. Never raises, whatever the bytes.

    `family`: chat, completions, responses or messages; any other name is read as well as it can be. `strip_usage`:
    take the usage event out, because the gateway asked for it and the client did not (chat and completions only).
    """

    __slots__ = (
        "_after_prefix",
        "_block",
        "_family",
        "_fate",
        "_in_crlf",
        "_late_lf",
        "_news",
        "_prefix",
        "_quick",
        "_raw",
        "_reading",
        "_released",
        "_scan",
        "_sent",
        "_strip",
        "_trimmed",
        "done",
        "events",
        "held_terminal",
        "raw_bytes",
        "raw_full",
    )

    compressed = False
    """Whether nothing of ours can be written between the upstream's events."""

    def __init__(self, family: str, strip_usage: bool) -> None:
        self._family = FAMILIES.get(family, PLAIN)
        self._news = self._family.news.search
        self._strip = strip_usage and self._family.usage_event
        self._reading = Reading(family)
        self.events = 0
        """Events with data so far, `[DONE]` among them."""
        self.done = False
        """Whether the event that ends the stream was seen."""
        self.held_terminal = b""
        """That event and all that came after it, until `release`."""
        self.raw_bytes = 0
        """Bytes that `take_raw` would hand out."""
        self.raw_full = False
        """Whether some events were not kept, because too many waited: a recount would miss them."""
        self._raw: list[bytes] = []
        self._released = False
        # Whether what comes next may be asked of `passes`; how usual events begin; where to look for news in them.
        self._quick = False
        self._prefix = b"\0"
        self._after_prefix = 0
        # The event that is not complete: its bytes, how many of them the client has, where its end may begin, whether
        # it waits (True), passes (False) or is undecided (None), and whether its beginning was given up.
        self._block = bytearray()
        self._sent = 0
        self._scan = 0
        self._fate: bool | None = None
        self._trimmed = False
        # The last byte fed was a CR that ended an event. An LF that comes next belongs to it, and passes as it did.
        self._late_lf: bool | None = None
        self._in_crlf = False

    @property
    def at_boundary(self) -> bool:
        """Whether what was handed out ends between two events, so that a comment may be inserted."""
        return not self._sent and not (self._late_lf and self._in_crlf)

    @property
    def open_bytes(self) -> int:
        """Bytes of the event that is not complete."""
        return len(self._block)

    @property
    def model(self) -> str:
        return self._reading.model

    @property
    def usage_raw(self) -> dict[str, Any] | None:
        """The last credible usage object as parsed, never a sum; else the last one; None where there was none."""
        return self._reading.usage_raw

    @property
    def usage(self) -> Usage | None:
        """The last usage, where it is a usual one: read at once, and to be believed."""
        return self._reading.usage

    @property
    def usage_cost_usd(self) -> float | None:
        """What such a usage says that the call cost."""
        return self._reading.usage_cost_usd

    @property
    def usage_partial(self) -> bool:
        """Whether `usage_raw` has only Anthropic's input side, its output being a placeholder."""
        return self._reading.usage_partial

    @property
    def usage_absurd(self) -> bool:
        """Whether the last usage object had counts that cannot be, and is not in `usage_raw` or not to be believed."""
        return self._reading.usage_absurd

    @property
    def finish_reason(self) -> str:
        return self._reading.finish_reason

    @property
    def service_tier(self) -> str:
        return self._reading.service_tier

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that came inside the stream."""
        return self._reading.error

    @property
    def usual(self) -> Callable[[bytes], bool] | None:
        """`passes`, where the next piece may be asked of it."""
        return self.passes if self._quick else None

    def passes(self, data: bytes) -> bool:
        """Whether `data` is usual, as most of a stream is: whole events without news, which may all go on at once. Such
        ones are noted here; anything else is to be fed. To be asked only where `usual` says so."""
        size, after = len(data), self._after_prefix
        kept = self.raw_bytes + size
        events = 1
        if kept > KEEP_BYTES_MAX:
            return False
        if not data.startswith(self._prefix):
            events = 1 if self._learn(data) else usual_events(data, self._family)
        elif data.find(b"\n", after) != size - 2:
            events = usual_events(data, self._family)
        elif data.find(b"\r", after) >= 0 or self._news(data, after) is not None or data[-1] != 0x0A:
            return False
        if not events:
            return False
        self.events += events
        self.raw_bytes = kept
        self._raw.append(data)
        return True

    def feed(self, data: bytes) -> bytes:
        """Takes what the upstream sent and returns what goes to the client now: `data` itself where all of it does."""
        return data if self._quick and self.passes(data) else self._feed(data)

    def finish(self) -> bytes:
        """Ends the upstream's body, whose last event may lack its blank line; returns what goes to the client."""
        out: list[bytes] = []
        if self._block:
            block = bytes(self._block)
            sent = self._sent
            self._complete(block, out)
            self._block.clear()
            self._sent = sent + sum(map(len, out))  # what the client has of it ends within an event
        return b"".join(out)

    def release(self) -> bytes:
        """The held bytes, once the call is in the journal; from here on nothing more is held as terminal."""
        if not self.done:
            return b""
        held, self.held_terminal, self._released = self.held_terminal, b"", True
        return held

    def take_raw(self) -> bytes:
        """The whole events and comments since the last call, as they came, the ones taken out too."""
        raw = b"".join(self._raw)
        self._raw.clear()
        self.raw_bytes = 0
        return raw

    def _learn(self, data: bytes) -> bool:
        """Whether `data` is a usual chunk though it began otherwise; the next ones are expected to begin as it does."""
        prefix = usual_prefix(data, self._family)
        if not prefix:
            return False
        self._prefix, self._after_prefix = prefix, len(prefix) - 1
        return True

    def _feed(self, data: bytes) -> bytes:
        if not data:
            return data
        if not self._block and self._late_lf is None and is_whole(data):
            return self._event(data)
        out: list[bytes] = []
        waiting = len(self._block) - self._sent
        body = data
        if self._late_lf is not None:
            if data.startswith(b"\n"):
                self._keep(b"\n")
                if self._late_lf:
                    self._forward(b"\n", out)
                body = data[1:]
            self._late_lf, self._in_crlf = None, False

        buffer: bytes | bytearray = body
        if self._block:
            self._block += body
            buffer = self._block
        has_cr = b"\r" in buffer
        start = 0
        while (end := event_end(buffer, start, max(start, self._scan), has_cr)) >= 0:
            block = bytes(buffer[start:end])
            passed = self._complete(block, out)
            if end == len(buffer) and block.endswith(b"\r"):
                self._late_lf, self._in_crlf = passed, block.endswith(b"\n\r")
            start = end
        if buffer is self._block:
            del self._block[:start]
        else:
            self._block += buffer[start:]
        if self._block:
            self._wait_or_pass(out)

        self._quick = not self._block and self._late_lf is None and self._may_be_quick
        result = b"".join(out)
        return data if not waiting and len(result) == len(data) else result

    def _event(self, event: bytes) -> bytes:
        """A chunk that is one whole event, where nothing waits: most are, and go the short way through `_feed`."""
        only_usage, ends = self._judge(event)
        out = event
        if only_usage and self._strip and len(event) <= HOLD_BYTES_MAX and not carries_text(event):
            out = comments(event)
        elif ends:
            self.done = True
        if self.done and not self._released:
            self._quick = False
            self.held_terminal += out
            return b""
        self._quick = self._may_be_quick
        return out

    @property
    def _may_be_quick(self) -> bool:
        """Whether the next events need not be read, unless there is news in them."""
        knows_model = self._reading.model != "" or self.events >= MODEL_EVENTS_MAX
        return knows_model and self.done == self._released and not self.raw_full

    def _complete(self, block: bytes, out: list[bytes]) -> bool:
        """One whole event, of which the client may have the beginning. Returns False where it is taken out."""
        sent, fate, trimmed = self._sent, self._fate, self._trimmed
        self._sent, self._scan, self._fate, self._trimmed = 0, 0, None, False
        only_usage, ends = False, False
        if trimmed:
            self.raw_full = True
            self.events += 1
            self._reading.take({"usage": usage_at_end(block)})
            ends = fate is True
        else:
            only_usage, ends = self._judge(block)
        if only_usage and self._strip and not sent and len(block) <= HOLD_BYTES_MAX and not carries_text(block):
            self._forward(comments(block), out)
            return False
        self.done = self.done or ends
        self._forward(block[sent:], out)
        return True

    def _judge(self, event: bytes) -> tuple[bool, bool]:
        """Whether a whole event is a mere usage event, and whether it ends the stream. It is kept, and read where there
        may be news in it."""
        self._keep(event)
        if event == DONE:
            self.events += 1
            return False, True
        if has_data(event):
            self.events += 1
            knows_model = self._reading.model != "" or self.events > MODEL_EVENTS_MAX
            if not knows_model or self._news(event) or is_done(event):
                return self._read(event)
        return False, False

    def _read(self, block: bytes) -> tuple[bool, bool]:
        """Learns what an event says, and returns as `_judge` does."""
        data = payload(block)
        if data is None or data.strip() == b"[DONE]":
            return False, data is not None
        if self._family.usage_event and (usual := self._reading.take_usual(data)) is not None:
            return usual.usage is not None and says_nothing(usual.choices, is_first=self.events == 1), False
        event = parse(data)
        if event is None:
            return False, False
        self._reading.take(event)
        kind = event.get("type")
        ends = isinstance(kind, str) and kind in self._family.ends
        return carries_only_usage(event, is_first=self.events == 1), ends

    def _wait_or_pass(self, out: list[bytes]) -> None:
        """Passes on what has come of an incomplete event, unless it may have to be held or taken out."""
        block = self._block
        scanned, self._scan = self._scan, len(block) - 1
        if self._fate is None:
            self._fate = self._decide(max(0, scanned - TEXT_PATTERN_BYTES))
        if self._fate is False:
            self._forward(bytes(block[self._sent :]), out)
            self._sent = len(block)
        if len(block) > EVENT_BYTES_MAX:
            surplus = len(block) - HOLD_BYTES_MAX
            self._forward(bytes(block[self._sent : surplus]), out)
            del block[:surplus]
            self._sent = max(0, self._sent - surplus)
            self._scan = len(block) - 1
            self._trimmed = True

    def _decide(self, scan: int) -> bool | None:
        """True: the event waits until it is complete; False: it passes; None: it waits, and more may decide it."""
        if self.done and not self._released:
            return None
        small = len(self._block) <= HOLD_BYTES_MAX
        if not self._released:
            ends = may_end_stream(self._block, self._family.ends)
            if ends or (ends is None and small):
                return ends
        if self._strip and small and not carries_text(self._block, scan):
            return None
        return False

    def _forward(self, piece: bytes, out: list[bytes]) -> None:
        if self.done and not self._released:
            self.held_terminal += piece
        elif piece:
            out.append(piece)

    def _keep(self, event: bytes) -> None:
        if self.raw_full or self.raw_bytes + len(event) > KEEP_BYTES_MAX:
            self.raw_full = True
            return
        self._raw.append(event)
        self.raw_bytes += len(event)
