"""Random streams, cut anywhere, through the observer and through a plain reader that sees the whole at once."""

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.sse import SseTap
from gateway.sse_events import FAMILIES, usual_events, usual_prefix
from gateway.witness import Witness

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
ENDS = {"response.completed", "response.incomplete", "response.failed", "message_stop"}

text = st.text(max_size=12) | st.sampled_from(['"usage":{', "\n\ndata: [DONE]\n\n", "🌻", "[DONE]", "usage"])
deltas = st.fixed_dictionaries({}, optional={"content": text | st.none(), "role": st.just("assistant")})
choices = st.lists(
    st.fixed_dictionaries(
        {"index": st.just(0), "delta": deltas},
        optional={"finish_reason": st.sampled_from([None, "stop", ""]), "logprobs": st.none()},
    ),
    max_size=2,
)
usages = st.sampled_from([USAGE, {**USAGE, "prompt_tokens": 1}, {"prompt_tokens": -1}, {}, None, "no", 7])
chat = st.fixed_dictionaries(
    {"choices": choices},
    optional={
        "model": st.sampled_from(["m", "n", ""]),
        "usage": usages,
        "error": st.sampled_from([None, {"message": "e"}]),
    },
)
typed = st.fixed_dictionaries(
    {"type": st.sampled_from([*ENDS, "response.created", "response.output_text.delta", "message_delta", "ping"])},
    optional={
        "delta": text | deltas,
        "usage": usages,
        "response": st.fixed_dictionaries({}, optional={"model": st.just("m"), "usage": usages}),
    },
)
payloads = st.one_of(chat, chat, typed).map(
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
) | st.sampled_from(["[DONE]", "[DONE] ", "[DO", "{", "", '{"usage": {"prompt_tokens": 5}, "choices": []}'])
eols = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One event as bytes: data in one line or several, with what else may stand there, and any mix of line ends."""
    payload = draw(payloads)
    lines = [f"data:{draw(st.sampled_from([' ', ' ', ' ', '']))}{payload}"]
    if draw(st.integers(0, 5)) == 0 and ',"' in payload:
        head, _, tail = payload.partition(',"')
        lines = [f"data: {head},", f'data: "{tail}']
    extra = draw(st.lists(st.sampled_from([": note", "id: 1", "event: x", "retry: 9", "junk", ":"]), max_size=2))
    lines = [*extra, *lines] if draw(st.booleans()) else [*lines, *extra]
    usual = draw(eols)
    mixed = draw(st.booleans())
    return "".join(line + (draw(eols) if mixed else usual) for line in [*lines, ""]).encode()


streams = st.tuples(
    st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf"]),
    st.lists(events() | st.sampled_from([b"\n", b"\r\n", b": ping\n\n", b"\r", b"id\n\n"]), max_size=7).map(b"".join),
    st.sampled_from([b"", b"", b'data: {"choices":[]', b"data: [DONE]", b"\xff\x00"]),
).map(b"".join)


ALIKE = b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":9}}\n\ndata: {"choices":[]'
"""A usage event, and an unfinished one that begins as it does."""
NOTED = b'data: {"choices":[]}\n\ndata: {"usage":{"prompt_tokens":5},"choices":[]}\n: note\r\n'
"""A usage event without its blank line, whose comment goes on."""


@dataclass
class Expected:
    """What the plain reader makes of a stream."""

    passed: bytes = b""
    held: bytes = b""
    count: int = 0
    done: bool = False
    usages: list[dict[str, Any]] = field(default_factory=list)


def split(stream: bytes) -> list[list[bytes]]:
    """The lines of each event with their line ends: byte by byte, as the SSE standard tells it."""
    lines: list[bytes] = []
    line = bytearray()
    at = 0
    while at < len(stream):
        line.append(stream[at])
        if stream[at] == 13 and stream[at + 1 : at + 2] == b"\n":
            line.append(10)
            at += 1
        if stream[at] in (10, 13):
            lines.append(bytes(line))
            line.clear()
        at += 1
    if line:
        lines.append(bytes(line))
    found: list[list[bytes]] = [[]]
    for item in lines:
        found[-1].append(item)
        if not item.strip(b"\r\n"):
            found.append([])
    return [lines for lines in found if lines]


def read(stream: bytes, family: str, strip: bool) -> Expected:
    """The rules of the observer, told once more without any thought for speed or for bytes to come."""
    seen = Expected()
    for index, lines in enumerate(split(stream)):
        bare = [line.rstrip(b"\r\n") for line in lines]
        if index == 0:
            bare[0] = bare[0].removeprefix(b"\xef\xbb\xbf")
        data = [line[5:].removeprefix(b" ") for line in bare if line.startswith(b"data:")]
        out = b"".join(lines)
        if data:
            seen.count += 1
            payload = b"\n".join(data)
            try:
                value = json.loads(payload)
            except ValueError:
                value = None
            if payload.strip() == b"[DONE]" or (
                family != "chat" and isinstance(value, dict) and wanted_end(value, family)
            ):
                seen.done = True
            elif strip and isinstance(value, dict) and is_usage_only(value, seen.count == 1):
                out = b"".join(line for line, text in zip(lines, bare, strict=True) if text.startswith(b":"))
        if seen.done:
            seen.held += out
        else:
            seen.passed += out
    return seen


def wanted_end(value: dict[str, Any], family: str) -> bool:
    kind = value["type"] if isinstance(value.get("type"), str) else ""
    if family == "messages":
        return kind == "message_stop"
    return kind.startswith("response.") and kind in ENDS


def is_usage_only(value: dict[str, Any], first: bool) -> bool:
    if not isinstance(value.get("usage"), dict) or value.get("error") or has_text(value):
        return False
    for choice in value.get("choices") or []:
        for name, part in choice["delta"].items():
            if part and (first or name != "role"):
                return False
    return True


def has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_text(part) or (key in ("content", "finish_reason") and part) for key, part in value.items())
    return isinstance(value, list) and any(map(has_text, value))


def watch(family: str, strip: bool, pieces: list[bytes]) -> tuple[tuple[Any, ...], bytes, bytes]:
    """Facts, bytes that passed, bytes that were held; all of it is what came, less what a witness may miss."""
    tap = SseTap(family, strip)
    witness = Witness(may_take=strip)
    passed = b""
    for piece in pieces:
        passed += (out := tap.feed(piece))
        if out is not piece or not witness.idle:
            witness.see(piece, out)
    passed += (out := tap.finish())
    witness.see(b"", out, ended=True)
    held = tap.release()
    witness.see(b"", held, ended=True)
    witness.end()
    assert witness.same, (pieces, passed, held)
    assert len(passed) + len(held) + witness.stayed_bytes == sum(map(len, pieces))
    facts = (tap.events, tap.done, tap.model, tap.usage_raw, tap.usage_partial, tap.finish_reason, tap.error)
    return (*facts, tap.take_raw()), passed, held


def pieces_of(stream: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(stream) + 1) for place in places})
    return [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]


@settings(max_examples=600, deadline=None)
@given(streams, st.sampled_from(["chat", "responses", "messages"]), st.booleans(), st.lists(st.integers(0), max_size=9))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", "chat", False, [9, 10])
@example(b"data: [DONE]\r\n\r\n\n", "chat", True, [14, 15])
@example(ALIKE, "chat", True, [])
@example(NOTED, "chat", True, [])
def test_the_tap_agrees_with_a_plain_reader(stream: bytes, family: str, strip: bool, places: list[int]) -> None:
    """Bytes passed and held, events and the end are those of a reader that has the whole stream, however it is cut."""
    strips = strip and family == "chat"
    expected = read(stream, family, strips)
    facts, passed, held = watch(family, strip, pieces_of(stream, places))
    assert passed == expected.passed
    assert held == expected.held
    assert facts[:2] == (expected.count, expected.done)


@settings(max_examples=300, deadline=None)
@given(
    streams | st.binary(max_size=60),
    st.sampled_from(["chat", "completions", "responses", "messages", "plain"]),
    st.booleans(),
    st.lists(st.integers(0), max_size=9),
)
def test_cuts_change_nothing(stream: bytes, family: str, strip: bool, places: list[int]) -> None:
    """Whole, event by event, in random pieces or byte by byte: the same bytes in the same two parts, the same facts."""
    whole = watch(family, strip, [stream])
    *events, rest = stream.split(b"\n\n")
    assert watch(family, strip, [*(event + b"\n\n" for event in events), rest]) == whole
    assert watch(family, strip, pieces_of(stream, places)) == whole
    assert watch(family, strip, [bytes([byte]) for byte in stream]) == whole
    if not strip or family not in ("chat", "completions"):
        assert whole[1] + whole[2] == stream


PARTS = st.sampled_from(
    [
        b'data: {"delta":"a"}\n\n',
        b'data: {"delta":"b","usage":null}\n\n',
        b"data: {\n\n",
        b'event: x\ndata: {"delta":"a"}\n\n',
        b"event: x\ndata: {\ndata: {\n\n",
        *(b"data: [DONE]\n\n", b'data: {"usage":{}}\n\n', b"event: x\n\n", b"event: x}\n\n", b": note\n\n"),
        *(b'data: {"a":1}\r\n\r\n', b'data: {"a":1\r}\n\n', b"\n", b"\n\n", b"data: {", b"data: {}\n", b"id: 1\n"),
    ]
)


@settings(max_examples=2_000, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=5), st.sampled_from(sorted(FAMILIES)))
def test_usual_events_are_usual_each_by_itself(parts: list[bytes], name: str) -> None:
    """What is taken for several usual events at once is so many of them; and all usual ones of one form are."""
    family, data = FAMILIES[name], b"".join(parts)
    events = [event + b"\n\n" for event in data.removesuffix(b"\n\n").split(b"\n\n")]
    each = all(usual_prefix(event, family) for event in events) and data.endswith(b"\n\n")
    one_form = len({event.startswith(b"data: {") for event in events}) == 1
    assert usual_events(data, family) == (len(events) if each and one_form else 0)
