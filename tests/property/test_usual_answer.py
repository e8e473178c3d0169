"""The short cut for usual answers of chat says what the general reader says, of any bytes, whole or in events."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import answer, counting, plain_tap
from gateway.plain_tap import PlainTap
from gateway.running import Running
from gateway.sse import SseTap
from gateway.upstream_connection import Head
from shared.usage_rules.usual import FAMILIES
from tests.harness.calls import MINI, ask, call, rates
from tests.precision.recorded import DATA, OWN

numbers = st.sampled_from([0, 0, 1, 4, 9, 2**27 + 1, -1, 1.5, None, "9", True])
details = st.dictionaries(
    st.sampled_from(["cached_tokens", "reasoning_tokens", "audio_tokens", "text_tokens", "video_tokens"]),
    st.sampled_from([0, 0, 1, 3, None, "x"]),
    max_size=3,
)
usual_usages = st.builds(
    lambda read, made, more: {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made, **more},
    st.integers(0, 9),
    st.integers(0, 9),
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens_details": details | st.none(),
            "completion_tokens_details": details | st.none(),
            "cost": st.sampled_from([0.0015, 3, None, {"total_cost": 2}, "0.5", -1]),
            "service_tier": st.sampled_from(["flex", "", None, 7]),
            "speed": st.sampled_from(["fast", None]),
            "input_tokens": st.sampled_from([3, "many"]),
            "is_byok": st.just(False),
            "tool_usage": st.just({"web_search": {"num_requests": 2}}),
            "iterations": st.just([{"input_tokens": 9}]),
        },
    ),
)
usages = st.one_of(
    usual_usages,
    usual_usages,
    st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "x"]), numbers),
    st.sampled_from([None, [], "many", 7]),
)
texts = st.sampled_from(["m", "n", "", None, 7, "é", "\ud83c"])
texts_of_ends = st.sampled_from(["stop", "length", "", None, 7])
choices = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": st.just(0),
            "finish_reason": texts_of_ends,
            "message": st.fixed_dictionaries({"content": st.text(max_size=9)}),
            "delta": st.sampled_from([{}, None, {"role": "assistant"}, {"content": "Olá"}, {"content": ""}, "x"]),
            "logprobs": st.none(),
        },
    )
    | st.sampled_from([None, 7]),
    max_size=3,
)
rare = st.dictionaries(
    st.sampled_from(
        [
            *("error", "type", "message", "response", "delta", "output", "status", "stop_reason", "tool_usage"),
            *("x_groq", "incomplete_details", "id"),
        ]
    ),
    st.one_of(
        st.none(),
        st.sampled_from(["error", "message_start", "message_delta", "completed", "", 7, False, [], {}]),
        st.builds(lambda usage: {"usage": usage, "model": "inner", "finish_reason": "inner"}, usages),
        st.just([{"type": "web_search_call"}]),
        st.just({"message": "no"}),
        st.just({"web_search": {"num_requests": 2}}),
    ),
    max_size=1,
)
bodies = st.builds(
    lambda fields, more: fields | more,
    st.fixed_dictionaries(
        {},
        optional={
            "model": texts,
            "service_tier": texts,
            "choices": choices | st.none() | st.just({}),
            "usage": usages,
        },
    ),
    rare,
)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """JSON as it comes, now and then with bytes in it that are none."""
    value = draw(bodies)
    as_ascii = draw(st.booleans())
    data = json.dumps(value, ensure_ascii=as_ascii).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)):
        return data
    at = draw(st.integers(0, len(data)))
    spoilt = draw(st.sampled_from([b"\xff", b"\\ud83c", b"NaN", b"1e999", b'"', b"\x00", b"{", b"", b"\xed\xa0\xbd"]))
    return data[:at] + spoilt + data[at + draw(st.integers(0, 2)) :]


@contextmanager
def without_short_cut() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_tap, "usual_answer", lambda _: None)
        patch.setattr(answer, "usual_event", lambda _: None)
        yield


def said(tap: SseTap | PlainTap, model: str = MINI.model, tier: str = "") -> tuple[Any, ...]:
    """All that is booked of an answer by what it says of itself."""
    made = call(ask=ask(service_tier=tier), rates=rates(msgspec.structs.replace(MINI, model=model)))
    running = SimpleNamespace(
        _answer=SimpleNamespace(head=Head()),
        _tap=tap,
        _hold=SimpleNamespace(call=made),
        relay=SimpleNamespace(first_byte_s=0.0),
    )
    facts = Running._facts(cast("Running", running), "complete")
    absurd, partial = tap.usage_absurd, tap.usage_partial
    return facts, counting.told(made, tap, facts), counting.input_said(made, tap), tap.error, absurd, partial


def whole(family: str, body: bytes) -> PlainTap:
    tap = PlainTap(family)
    tap.feed(body)
    tap.finish()
    return tap


def stream(family: str, events: list[bytes]) -> tuple[SseTap, list[bytes]]:
    tap = SseTap(family, strip_usage=True)
    out = [tap.feed(b"data: %b\n\n" % event) for event in events]
    return tap, [*out, tap.finish(), tap.release()]


def both_ways_whole(family: str, body: bytes, **how: str) -> bool:
    """Whether the short cut was taken; it must not show."""
    quick = whole(family, body)
    taken = quick.usage is not None
    with without_short_cut():
        general = whole(family, body)
    assert said(quick, **how) == said(general, **how), body
    assert quick.usage_raw == general.usage_raw
    return taken


def both_ways_streamed(family: str, events: list[bytes], **how: str) -> bool:
    quick, out = stream(family, events)
    taken = quick.usage is not None
    with without_short_cut():
        general, expected = stream(family, events)
    assert out == expected
    assert said(quick, **how) == said(general, **how), events
    assert quick.finish_reason == general.finish_reason
    assert quick.usage_raw == general.usage_raw
    return taken


BROKEN_TEXT: Final = b'{"choices":[{"x":"\xff"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'

tiers = st.sampled_from(["", "flex", "@fast", "priority@fast,us"])
models = st.sampled_from([MINI.model, "gpt-4o-search-preview"])


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FAMILIES), written(), tiers, models)
@example("chat", BROKEN_TEXT, "", MINI.model)
def test_a_whole_answer(family: str, body: bytes, tier: str, model: str) -> None:
    """What is booked of it, and the usage object when it is asked for."""
    both_ways_whole(family, body, tier=tier, model=model)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FAMILIES), st.lists(written(), max_size=4), tiers, models)
@example("chat", [b'{"choices":[],"x_groq":{"usage":{"prompt_tokens":3,"completion_tokens":4}}}'], "", MINI.model)
def test_a_stream(family: str, events: list[bytes], tier: str, model: str) -> None:
    """What is booked of it, what of it the client gets, and when."""
    both_ways_streamed(family, [event for event in events if b"\n" not in event], tier=tier, model=model)


@pytest.mark.parametrize("path", [OWN, DATA], ids=lambda path: str(path.stem))
def test_recorded_answers(path: Path) -> None:
    """All of them are read alike, and most of what providers answered for chat takes the short cut."""
    if not path.exists():
        pytest.skip(
            f"{path.name} lies beside the repository where it is there at all; calls of our own are read instead"
        )
    taken = []
    for line in path.read_text(encoding="utf-8").splitlines():
        recorded = json.loads(line)
        if recorded["path"].endswith("chat/completions"):
            if recorded["response"]:
                taken.append(both_ways_whole("chat", json.dumps(recorded["response"]).encode()))
            if recorded["chunks"]:
                chunks = [json.dumps(chunk).encode() for chunk in recorded["chunks"]]
                taken.append(both_ways_streamed("chat", chunks) or not any(b'"usage": {' in chunk for chunk in chunks))
    assert sum(taken) > 0.9 * len(taken) > (400 if path == DATA else 1)
