"""The observer and the usage rules on the recorded calls of real providers, where ../shared/data has them.

A public clone has no recordings: these tests then say so and pass, and tests/unit/test_sse.py and test_usage_rules.py
prove the same on streams and objects written by hand.
"""

import copy
import json
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from gateway.answer import Reading
from gateway.sse import SseTap
from tests.precision.extraction import STYLES, family_of, measure, recorded, wire
from tests.precision.tables import PAGE, extracted

RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "recorded_calls.jsonl"
pytestmark = pytest.mark.skipif(
    not RECORDINGS.exists(), reason="no recorded calls here; the fixtures of test_sse.py stand in for them"
)

LEARNED = {"_prefix", "_after_prefix"}
"""What the tap expects of the next chunk: it depends on the cuts, and decides only which way that chunk takes."""
OWN = attrgetter(*sorted(set(SseTap.__slots__) - LEARNED - {"_news", "_family", "_raw", "_reading"}))
READ = attrgetter(*Reading.__slots__)
RECORDED_USAGES_MIN = 800
VALUE = re.compile(rb'":(?:"(?:[^"\\]|\\.)*"|-?[\d.]+)')


def state(tap: SseTap) -> tuple[object, ...]:
    """Everything inside a tap, and what it read."""
    return (*OWN(tap), b"".join(tap._raw), *READ(tap._reading))


def clone(tap: SseTap) -> SseTap:
    """A tap that goes on from the same state."""
    twin = object.__new__(SseTap)
    for name in SseTap.__slots__:
        value = getattr(tap, name)
        setattr(twin, name, copy.copy(value) if name in ("_block", "_raw", "_reading") else value)
    return twin


def events_of(stream: bytes, eol: bytes) -> list[bytes]:
    return [event + eol * 2 for event in stream.split(eol * 2)[:-1]]


def unseen(event: bytes, seen: set[bytes]) -> bool:
    """Whether an event of this build, whatever its values, did not come yet."""
    build = VALUE.sub(b'":0', event)
    if build in seen:
        return False
    seen.add(build)
    return True


def calls() -> Iterator[dict[str, Any]]:
    return (call for call in recorded(RECORDINGS) if call["chunks"] is not None)


@pytest.mark.parametrize("style", STYLES)
def test_recorded_streams_at_every_byte_boundary(style: str) -> None:
    """An event cut at any byte leaves the tap, and what it let through, as the event in one piece does.

    So by induction every stream does. In LF all events are cut; in CRLF and CR those that differ in more than values.
    """
    eol = STYLES[style]
    cuts = 0
    seen: set[bytes] = set()
    for call in calls():
        family = family_of(call)
        tap = SseTap(family, strip_usage=True)
        for event in events_of(wire(call, eol), eol):
            whole = clone(tap)
            passed = whole.feed(event)
            expected = state(whole)
            for at in range(1, len(event)) if eol == b"\n" or unseen(event, seen) else ():
                cut = clone(tap)
                assert cut.feed(event[:at]) + cut.feed(event[at:]) == passed
                assert state(cut) == expected, f"{call['source_path']}, event cut at {at}: {event!r}"
                cuts += 1
            tap = whole
    assert cuts > 10_000


@pytest.mark.parametrize("style", STYLES)
def test_recorded_streams_byte_by_byte(style: str) -> None:
    """Fed in single bytes, a stream passes the bytes it passes whole, and all of them but the usage event."""
    for call in calls():
        family, stream = family_of(call), wire(call, STYLES[style])
        for strip in (False, True):
            whole, single = SseTap(family, strip), SseTap(family, strip)
            passed = whole.feed(stream) + whole.finish()
            assert b"".join(single.feed(stream[at : at + 1]) for at in range(len(stream))) + single.finish() == passed
            assert state(single) == state(whole)
            passed += whole.release()
            taken = call_usage_event(call, STYLES[style]) if strip and family == "chat" else b""
            assert passed == stream.replace(taken, b"")


def call_usage_event(call: dict[str, Any], eol: bytes) -> bytes:
    """The bytes of the event that carries usage and nothing else; b"" where there is none."""
    for chunk in call["chunks"]:
        choices = chunk.get("choices") or []
        quiet = not any(
            c["delta"].get("content") or c["delta"].get("tool_calls") or c.get("finish_reason") for c in choices
        )
        if chunk.get("usage") and quiet:
            return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + eol * 2
    return b""


def test_usage_is_extracted_exactly_from_every_recorded_call() -> None:
    """100 % of the recorded answers and streams that carry usage give exactly what their provider reported, and
    docs/precision.md holds the table as `make precision` prints it."""
    result = measure(RECORDINGS)
    assert result["wrong"] == []
    assert result["exact"] == result["calls"] > RECORDED_USAGES_MIN
    assert "\n".join(extracted(result)).strip() in PAGE.read_text(encoding="utf-8")
