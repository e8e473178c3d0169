"""The SSE observer event by event: what passes, what waits, what is taken out, what is kept."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway import answer, sse
from gateway.sse import SseTap
from gateway.usual_answer import usual_event
from shared.usage_rules import normalise
from tests.harness.sse_streams import DONE, STREAMS, STYLES, USAGE, WORDS, chunk, data, named, watch, wire


def test_the_usual_chunk_comes_back_as_the_same_object() -> None:
    """Chunks of whole events are handed back themselves, not copied, whether the quick way takes them or not."""
    tap = SseTap("chat", strip_usage=True)
    for lines in (WORDS[:2], WORDS[2:4], WORDS[2:4], WORDS[:6], WORDS[8:10], [": ping", ""]):
        sent = wire(lines)
        assert tap.feed(sent) is sent
    assert tap.events == 7


def test_usual_chunks_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the model is known, JSON is parsed for usage, an error, a finish reason or the end, and nothing else."""
    parsed: list[bytes] = []

    def counted(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def counting(payload: bytes) -> Any:
            parsed.append(payload)
            return parse(payload)

        return counting

    monkeypatch.setattr(sse, "parse", counted(answer.parse))
    monkeypatch.setattr(answer, "usual_event", counted(usual_event))
    streams: dict[str, tuple[str, int]] = {
        "openai": ("chat", 3),
        "responses": ("responses", 2),
        "messages": ("messages", 3),
    }
    for name, (family, interesting) in streams.items():
        tap = SseTap(family, strip_usage=False)
        _, lines, _ = STREAMS[name]
        starts = [i for i, line in enumerate(lines) if i == 0 or lines[i - 1] == ""]
        parsed.clear()
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            tap.feed(wire(lines[start:end]))
            tap.release()
        assert len(parsed) == interesting, name


def test_the_quick_way_sees_news_behind_a_known_beginning() -> None:
    """A chunk that begins like the usual ones is still read where its rest has news, or is no single event."""
    tap = SseTap("chat", strip_usage=True)
    usual = b'data: {"model":"m","choices":[{"delta":{"content":"a"}}]}\n\n'
    for _ in range(3):
        assert tap.feed(usual) is usual
    last = b'data: {"model":"m","choices":[{"delta":{},"finish_reason":"length"}],"usage":{"prompt_tokens":3}}\n\n'
    assert tap.feed(last) is last
    assert (tap.finish_reason, tap.usage_raw) == ("length", {"prompt_tokens": 3})
    only = b'data: {"model":"m","choices":[{"delta":{}}],"usage":{"prompt_tokens":4}}\n\n'
    assert tap.feed(only) == b""
    assert tap.usage_raw == {"prompt_tokens": 4}
    assert tap.feed(usual + usual[:20]) == usual
    assert tap.feed(usual[20:]) == usual
    assert tap.events == 7
    assert tap.feed(usual[:-2] + b"\r\rdata: [DONE]\n\n") == usual[:-2] + b"\r\r"
    assert tap.done


def test_complete_events_do_not_wait_for_an_incomplete_one() -> None:
    """Events that are whole go at once; only the beginning of the next is held, until it is told from the usage."""
    tap = SseTap("chat", strip_usage=True)
    word = wire(WORDS[2:4])
    assert tap.feed(word + word[:30]) == word
    assert tap.at_boundary
    assert tap.feed(word[30:]) == word

    passing = SseTap("chat", strip_usage=False)
    assert passing.feed(word + word[:30]) == word + word[:30]
    assert not passing.at_boundary
    assert passing.feed(word[30:]) == word[30:]
    assert passing.at_boundary


def test_text_in_an_incomplete_event_sets_it_free() -> None:
    """In strip mode an incomplete event that carries text cannot be the usage event and passes before it is whole."""
    tap = SseTap("chat", strip_usage=True)
    start = b'data: {"choices":[{"delta":{"content":"' + b"x" * 100
    assert tap.feed(start) == start
    assert not tap.at_boundary


def test_text_that_is_cut_sets_its_event_free() -> None:
    """The key of the text, cut anywhere, is found with its second half; the event then passes."""
    start = b'data: {"choices":[{"delta":{"content":"x'
    for at in range(start.index(b'"content"'), len(start)):
        tap = SseTap("chat", strip_usage=True)
        assert tap.feed(start[:at]) == b""
        assert tap.feed(start[at:]) == start


def test_no_boundary_between_cr_and_lf() -> None:
    """In a CRLF stream an event is over only with its last LF; in a CR stream with its CR."""
    for eol, over in (("\r\n", False), ("\r", True)):
        tap = SseTap("chat", strip_usage=False)
        stream = wire(WORDS[:2], eol)
        end = stream.rindex(b"\r") + 1
        assert tap.feed(stream[:end]) == stream[:end]
        boundaries = [tap.at_boundary]
        tap.feed(stream[end:] or stream)
        boundaries.append(tap.at_boundary)
        assert boundaries == [over, True]


def test_an_event_of_a_megabyte_passes_while_it_comes() -> None:
    """A 1 MB event goes through in pieces, is read at its end, and holds back at most one piece."""
    usage = json.dumps({"model": "m", "choices": [{"delta": {"content": "é" * 500_000}}], "usage": USAGE})
    stream = f"data: {usage}\n\n".encode()
    for strip in (False, True):
        tap = SseTap("chat", strip)
        passed = b""
        for start in range(0, len(stream), 16_384):
            piece = stream[start : start + 16_384]
            passed += tap.feed(piece)
            assert passed == stream[: start + len(piece)]
        assert tap.usage_raw == USAGE


def test_an_event_waits_for_64_kib_at_most() -> None:
    """What could be the usage event is held up to HOLD_BYTES_MAX; a larger one passes whole, however it was cut."""
    start = b'data: {"choices":[],"pad":"'
    tap = SseTap("chat", strip_usage=True)
    fill = b"x" * (sse.HOLD_BYTES_MAX - len(start))
    assert tap.feed(start + fill) == b""
    assert tap.feed(b"x") == start + fill + b"x"
    rest = b'","usage":' + json.dumps(USAGE).encode() + b"}\n\n"
    assert tap.feed(rest) == rest
    assert tap.usage_raw == USAGE

    whole = SseTap("chat", strip_usage=True)
    assert whole.feed(start + fill + b"x" + rest) == start + fill + b"x" + rest


def test_a_terminal_event_of_any_size_waits_for_its_release() -> None:
    """A response.completed beyond every limit leaves its end held, and its usage is read from them."""
    tap = SseTap("responses", strip_usage=False)
    image = "A" * (sse.EVENT_BYTES_MAX + 3_000_000)
    body = {
        "type": "response.completed",
        "response": {"output": image, "usage": {"input_tokens": 7, "output_tokens": 2}},
    }
    stream = wire(named(body))
    passed = b"".join(tap.feed(stream[at : at + 1_000_000]) for at in range(0, len(stream), 1_000_000))
    assert tap.done
    assert tap.usage_raw == {"input_tokens": 7, "output_tokens": 2}
    assert sse.HOLD_BYTES_MAX <= len(tap.held_terminal) <= sse.HOLD_BYTES_MAX + 3_000_000
    assert passed + tap.release() == stream

    small = SseTap("responses", strip_usage=False)
    body["response"] = {"output": "A" * 1_000_000, "usage": {"input_tokens": 7}}
    stream = wire(named(body))
    assert b"".join(small.feed(stream[at : at + 16_384]) for at in range(0, len(stream), 16_384)) == b""
    assert small.release() == stream


def test_the_end_is_never_handed_out_before_its_release() -> None:
    """However it is cut, no feed gives the client `[DONE]`; what follows it waits too, and passes after the release."""
    stream = wire([*WORDS, *DONE, ": late", ""])
    for at in range(1, len(stream)):
        tap = SseTap("chat", strip_usage=False)
        passed = tap.feed(stream[:at]) + tap.feed(stream[at:])
        assert b"data: [DO" not in passed.rpartition(b"\n\n")[2]
        assert passed == wire(WORDS)
        assert tap.held_terminal == wire([*DONE, ": late", ""])
        assert tap.at_boundary
        assert tap.release() == wire([*DONE, ": late", ""])
        assert tap.held_terminal == b""
        assert tap.feed(b": more\n\n") == b": more\n\n"
        assert tap.feed(wire(DONE)) == wire(DONE)


def test_release_before_the_end_does_nothing() -> None:
    """A release without a terminal event gives nothing and does not let the later one slip through."""
    tap = SseTap("chat", strip_usage=False)
    tap.feed(wire(WORDS))
    assert tap.release() == b""
    assert tap.feed(wire(DONE)) == b""
    assert tap.release() == wire(DONE)


def test_usage_after_the_end_still_counts() -> None:
    """Usage that an upstream sends behind `[DONE]` is read, and taken out in strip mode."""
    tap = SseTap("chat", strip_usage=True)
    tap.feed(wire([*WORDS, *DONE, *chunk(usage=USAGE)]))
    assert tap.usage_raw == USAGE
    assert tap.release() == wire(DONE)


@pytest.mark.parametrize("tail", ["", "\n", "\r\n", "\r"])
@pytest.mark.parametrize("at", [0, 5, 60])
def test_the_last_event_may_lack_its_blank_line(tail: str, at: int) -> None:
    """At the end of the body an event without its blank line is read, held or taken out like any other."""
    end = f"data: [DONE]{tail}".encode()
    tap = SseTap("chat", strip_usage=False)
    assert tap.feed(wire(WORDS) + end[:at]) + tap.feed(end[at:]) + tap.finish() == wire(WORDS)
    assert tap.done
    assert tap.release() == end

    usage = f"data: {json.dumps({'choices': [], 'usage': USAGE})}{tail}".encode()
    tap = SseTap("chat", strip_usage=True)
    assert tap.feed(wire(WORDS) + usage[:at]) + tap.feed(usage[at:]) + tap.finish() == wire(WORDS)
    assert tap.usage_raw == USAGE

    cut = b'data: {"choices":[{"delta":{"content":"half a wor'
    tap = SseTap("chat", strip_usage=False)
    assert tap.feed(cut[:at]) + tap.feed(cut[at:]) + tap.finish() == cut
    assert tap.usage_raw is None
    assert not tap.at_boundary


def test_what_is_inserted_at_a_boundary_breaks_no_event() -> None:
    """A comment put in wherever `at_boundary` allows leaves the events as they were, in every style of line."""
    for eol in STYLES.values():
        stream = wire(WORDS, eol)
        for at in range(len(stream)):
            tap = SseTap("chat", strip_usage=False)
            passed = tap.feed(stream[:at])
            if tap.at_boundary:
                passed += b": keep-alive\n\n"
            passed += tap.feed(stream[at:])
            reread = watch("chat", False, [passed])
            assert (reread.events, reread.finish_reason) == (5, "stop")


@pytest.mark.parametrize(
    ("choices", "stripped"),
    [
        ([], True),
        (None, True),
        ([{"index": 0, "delta": {}}], True),
        ([{"index": 0, "delta": None, "finish_reason": None}], True),
        ([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}], True),
        ([{"index": 0, "delta": {"content": None, "tool_calls": []}}], True),
        ([{"index": 0, "text": "", "finish_reason": None}], True),
        ([{"index": 0, "delta": {"content": "a"}}], False),
        ([{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "a"}}], False),
        ([{"index": 0, "delta": {}, "finish_reason": "stop"}], False),
        ([{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}], False),
        ([{"index": 0, "delta": {"reasoning_content": "hm"}}], False),
        ([{"index": 0, "text": "a"}], False),
        (["odd"], False),
        ({"odd": 1}, False),
    ],
)
def test_only_a_mere_usage_event_is_taken_out(choices: Any, stripped: bool) -> None:
    """An event is taken out if it has usage and nothing else; with text or a finish reason it stays, byte for byte."""
    tap = SseTap("chat", strip_usage=True)
    tap.feed(wire(WORDS))
    event = wire(data({"choices": choices, "usage": USAGE}))
    assert tap.feed(event) == (b"" if stripped else event)
    assert tap.usage_raw == USAGE


def test_other_events_stay_in_strip_mode() -> None:
    """An event without a usage object, with an error, the first with a role, or in another family is never taken."""
    payloads: list[dict[str, Any]] = [
        {"choices": []},
        {"choices": [], "usage": None},
        {"choices": [], "usage": "many"},
        {"choices": [], "usage": USAGE, "error": {"message": "m"}},
        {"choices": [{"delta": {"role": "assistant"}}], "usage": USAGE},
    ]
    for payload in payloads:
        event = wire(data(payload))
        assert SseTap("chat", strip_usage=True).feed(event) == event
    event = wire(data({"choices": [], "usage": USAGE}))
    assert SseTap("messages", strip_usage=True).feed(event) == event


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>502 Bad Gateway</html>",
        b"\x00\xff\xfe" * 50,
        b'data: {"usage":{\n\ndata: [DONE\n\n',
        b'data: {"choices":[{"text":"a"}],"usage":{"prompt_tokens":NaN}}\n\n',
        b'data: {"usage":' + b"[" * 5000 + b"\n\n",
        b'data: ["usage"]\n\ndata: "error"\n\ndata: 7\n\ndata:\n\n',
        b"\n\n\n\r\r\r\n\r\n\n\r",
        b'data: {"model":7,"choices":7,"usage":[],"error":0,"response":7,"message":7}\n\n',
    ],
)
@pytest.mark.parametrize("family", ["chat", "responses", "messages", "other"])
def test_garbage_passes_unharmed(garbage: bytes, family: str) -> None:
    """Bytes that are no SSE, or no JSON, raise nothing and reach the client as they came."""
    for strip in (False, True):
        for pieces in ([garbage], [bytes([byte]) for byte in garbage]):
            seen = watch(family, strip, pieces)
            assert seen.passed + seen.held == garbage
            assert normalise(seen.usage, family=family).usage.is_zero


def test_raw_events_are_handed_out_once_and_bounded() -> None:
    """take_raw gives whole events, each once; what is not taken stops at KEEP_BYTES_MAX and is flagged."""
    tap = SseTap("chat", strip_usage=True)
    word = wire(WORDS[2:4])
    tap.feed(wire(WORDS[:2]))
    tap.feed(word + word[:10])
    assert tap.raw_bytes == len(wire(WORDS[:4]))
    assert tap.take_raw() == wire(WORDS[:4])
    assert tap.raw_bytes == 0
    tap.feed(word[10:])
    tap.feed(wire(chunk(usage=USAGE)))
    assert tap.take_raw() == word + wire(chunk(usage=USAGE))
    big = b'data: {"choices":[{"delta":{"content":"' + b"x" * 100_000 + b'"}}]}\n\n'
    for _ in range(sse.KEEP_BYTES_MAX // len(big)):
        tap.feed(big)
    full = [tap.raw_full]
    tap.feed(big)
    tap.feed(word)
    full.append(tap.raw_full)
    assert full == [False, True]
    assert tap.raw_bytes <= sse.KEEP_BYTES_MAX
    assert tap.take_raw() == big * (sse.KEEP_BYTES_MAX // len(big))
