"""Answers counted from their raw bytes: however these are cut, of every family, and of no family at all."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.recount.completion import Transcript, count_completion
from gateway.recount.tally import Recount
from tests.harness.answer_events import (
    CHAT,
    CHAT_TOKENS,
    MESSAGES,
    RESPONSES,
    RESPONSES_TOKENS,
    TEXT,
    Event,
    call,
    delta,
    length,
    pieces,
    stream,
)
from tests.precision.recorded import produced


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("family", "events", "tokens"), [("chat", CHAT, CHAT_TOKENS), ("responses", RESPONSES, RESPONSES_TOKENS)]
)
def test_every_cut_gives_the_same(family: str, events: list[Event], tokens: int, end: bytes) -> None:
    """Whole, in two at every byte, byte by byte, with garbage around: the count is that of the text."""
    raw = b": hello" + end + end + stream(events, end, done=True) + b"event: x" + end
    marked = b"\xef\xbb\xbf" + stream(events[1:], end) + b": end" + end + end
    assert count_completion(family, "gpt-4o", marked) == Recount(tokens)
    for cut in range(len(raw)):
        transcript = Transcript(family)
        transcript.add(raw[:cut])
        transcript.add(raw[cut:])
        assert transcript.count("gpt-4o").tokens == tokens
    transcript = Transcript(family)
    for at in range(len(raw)):
        transcript.add(raw[at : at + 1])
    assert transcript.count("gpt-4o") == Recount(tokens)


def test_what_came_before_a_cut_is_counted_exactly() -> None:
    """A prefix of a stream counts the tokens of the text in its whole events, at every byte."""
    raw = stream(CHAT)
    events = [stream([event]) for event in CHAT]
    for cut in range(len(raw) + 1):
        whole, size = 0, 0
        while whole < len(events) and size + len(events[whole]) <= cut:
            size += len(events[whole])
            whole += 1
        came = CHAT[:whole]
        said = "".join(event["choices"][0]["delta"].get("content") or "" for event in came)
        calls = [made["function"] for event in came for made in event["choices"][0]["delta"].get("tool_calls") or ()]
        name = "".join(made["name"] or "" for made in calls)
        arguments = "".join(made["arguments"] or "" for made in calls)
        assert count_completion("chat", "gpt-4o", raw[:cut]).tokens == length(said, name, arguments)


MIXED = [
    *(delta(number, content=text) for text in pieces("Universo 🌻") for number in (0, 1)),
    *(delta(2, refusal=text) for text in pieces("Não posso ajudar.")),
    *(call(at, arguments=text) for text in pieces('{"cidade": "São Paulo"}') for at in (0, 1)),
]


@pytest.mark.parametrize(("family", "events"), [("chat", MIXED), ("responses", RESPONSES)])
def test_every_cut_is_exact_whatever_is_said(family: str, events: list[Event]) -> None:
    """Several choices, refusals, parallel arguments, Responses: at every byte the count is that of each text so far."""
    raw = stream(events)
    for cut in range(len(raw) + 1):
        assert count_completion(family, "gpt-4o", raw[:cut]).tokens == length(*produced(family, raw[:cut]).values())


def test_every_cut_of_older_completions_is_exact() -> None:
    """So is the text of completions."""
    said = pieces(TEXT)
    raw = stream({"choices": [{"index": 0, "text": text}]} for text in said)
    for cut in range(len(raw) + 1):
        so_far = "".join(said[: raw[:cut].count(b"\n\n")])
        assert count_completion("completions", "davinci-002", raw[:cut]).tokens == length(so_far, model="davinci-002")


@given(st.lists(st.text(), max_size=20), st.lists(st.integers(0, 2000), max_size=10))
def test_any_text_in_any_pieces(texts: list[str], cuts: list[int]) -> None:
    """Whatever is said, and however the bytes fall, the count is that of the joined text."""
    raw = stream(delta(content=text) for text in texts)
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    transcript = Transcript("chat")
    for start, end in pairwise(edges):
        transcript.add(raw[start:end])
    assert transcript.count("azure/gpt-4o").tokens == length("".join(texts))
    assert transcript.characters == len("".join(texts))


def test_counting_goes_on() -> None:
    """A transcript may be counted while the stream runs, any number of times."""
    transcript = Transcript("chat")
    for event, said in zip(CHAT[1:5], ["Olá", "Olá! O", "Olá! O sa", "Olá! O saldo"], strict=True):
        transcript.add(stream([event]))
        assert transcript.count("gpt-4o").tokens == length(said)


def test_counting_in_another_thread() -> None:
    """While one thread adds choice after choice, another may count; it never fails, and never counts too much."""
    transcript = Transcript("chat")
    raw = [stream([delta(number, content="Olá")]) for number in range(2_000)]
    with ThreadPoolExecutor(1) as worker:
        counts = [worker.submit(transcript.count, "gpt-4o") for _ in range(50)]
        for piece in raw:
            transcript.add(piece)
        assert all(count.result().tokens % length("Olá") == 0 for count in counts)
    assert transcript.count("gpt-4o").tokens == len(raw) * length("Olá")


@pytest.mark.parametrize("end", [b"\n", b""])
def test_events_without_an_empty_line(end: bytes) -> None:
    """Servers that leave out the empty line between events are understood, and data in several lines too."""
    raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n" for event in CHAT) + end + b"\n"
    assert count_completion("chat", "gpt-4o", raw).tokens == CHAT_TOKENS
    split = stream([delta(content="Olá")]).replace(b'"index"', b'\ndata: "index"')
    assert count_completion("chat", "gpt-4o", split).tokens == length("Olá")


def test_choices_are_counted_apart() -> None:
    """With n > 1 the texts of the choices are not joined, though their events are mixed."""
    raw = stream(
        [delta(0, content="uni"), delta(1, content="uni"), delta(0, content="verso"), delta(1, content="forme")]
    )
    assert count_completion("chat", "gpt-4o", raw).tokens == length("universo", "uniforme")


def test_refusals_thoughts_and_older_calls_count() -> None:
    """Refusals, visible thought, `function_call` and the text of completions are produced tokens as well."""
    raw = stream(
        [
            delta(refusal="Não posso."),
            delta(reasoning_content="Hmm"),
            delta(function_call={"name": "f", "arguments": "{}"}),
        ]
    )
    assert count_completion("chat", "gpt-4o", raw).tokens == length("Não posso.", "Hmm", "f", "{}")
    plain = stream([{"choices": [{"index": 0, "text": "Era uma "}]}, {"choices": [{"index": 0, "text": "vez"}]}])
    assert count_completion("completions", "davinci-002", plain).tokens == length("Era uma vez", model="davinci-002")


@pytest.mark.parametrize(
    ("family", "body", "tokens"),
    [
        ("chat", {"choices": [{"message": {"content": TEXT}, "finish_reason": "length"}]}, length(TEXT)),
        ("chat", {"choices": [{"message": {"content": [{"type": "text", "text": TEXT}]}}]}, length(TEXT)),
        ("completions", {"choices": [{"text": TEXT, "finish_reason": "stop"}]}, length(TEXT)),
        (
            "responses",
            {"output": [{"type": "message", "content": [{"text": TEXT}], "status": "completed"}]},
            length(TEXT) + 1,
        ),
        ("responses", {"output": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, length("f", "{}")),
        ("embeddings", {"data": [{"embedding": [0.5]}]}, 0),
    ],
)
def test_whole_answers(family: str, body: Event, tokens: int) -> None:
    """A JSON answer counts the same parsed, as bytes, and as bytes in two pieces."""
    raw = b" \n" + json.dumps(body).encode()
    assert count_completion(family, "gpt-4o", body).tokens == tokens
    assert count_completion(family, "gpt-4o", raw) == Recount(tokens)
    transcript = Transcript(family)
    transcript.add(raw[:9])
    transcript.add(raw[9:])
    assert transcript.count("gpt-4o").tokens == transcript.count("gpt-4o").tokens == tokens


def test_what_an_ended_answer_bills_beside_its_text() -> None:
    """A call that came to its end costs seven tokens more, several their wrapper, a forced one no name."""
    made = [call(0, "ver_saldo", "{}")]
    other = call(1, "ver_saldo", "{}")
    ended = delta(finish="tool_calls")
    wrapper = ",".join(['{"recipient_name":"functions.ver_saldo","parameters":{}}'] * 2)
    count = {
        "cut": count_completion("chat", "gpt-4o", stream(made)).tokens,
        "one": count_completion("chat", "gpt-4o", stream([*made, ended])).tokens,
        "two": count_completion("chat", "gpt-4o", stream([*made, other, ended])).tokens,
        "forced": count_completion("chat", "gpt-4o", stream([*made, delta(finish="stop")])).tokens,
        "elsewhere": count_completion("chat", "an-alias", stream([*made, ended])).tokens,
    }
    assert count == {
        "cut": length("ver_saldo", "{}"),
        "one": length("ver_saldo", "{}") + 7,
        "two": length('{"tool_uses":[' + wrapper + "]}") + 8,
        "forced": length("{}"),
        "elsewhere": length("ver_saldo", "{}"),
    }


@pytest.mark.parametrize(
    ("model", "flags"), [("o4-mini", ("hidden_reasoning",)), ("gpt-4o", ()), ("gpt-5.4", ("hidden_reasoning",))]
)
def test_hidden_thought_is_flagged(model: str, flags: tuple[str, ...]) -> None:
    """An answer of a model that thinks says that its count may miss the thought."""
    assert count_completion("chat", model, stream(CHAT)).flags == flags


@pytest.mark.parametrize(("model", "size", "tokens"), [("gpt-5", 940 + 640, 102), ("grok-4.3", 620, 100)])
def test_sealed_thought_is_estimated_by_its_size(model: str, size: int, tokens: int) -> None:
    """Thought that came encrypted counts by its length, instead of its summary, streamed or whole; and says so."""
    thought = {"type": "reasoning", "encrypted_content": "x" * size, "summary": [{"text": "Penso."}]}
    said = {"type": "message", "content": [{"text": "Oi"}]}
    summary = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Penso."}
    seen = [summary, {"type": "response.output_item.done", "output_index": 0, "item": thought}]
    text = {"type": "response.output_text.delta", "output_index": 1, "delta": "Oi"}
    streamed = count_completion("responses", model, stream([*seen, text]))
    assert streamed.tokens == count_completion("responses", model, {"output": [thought, said]}).tokens
    assert streamed.tokens == count_completion("responses", model, stream([text])).tokens + tokens
    assert streamed.flags == ("estimated", "hidden_reasoning")
    assert count_completion("responses", model, stream(seen[:1])).tokens == length("Penso.")


def test_what_seals_thought_is_no_thought() -> None:
    """A seal smaller than its own envelope, one of no text, or one of a model that seals nothing adds nothing."""
    for model, sealed in (("gpt-5", "x" * 900), ("gpt-5", 7), ("gpt-5", ""), ("deepseek-v4", "x" * 9_000)):
        body = {"output": [{"type": "reasoning", "encrypted_content": sealed}]}
        assert count_completion("responses", model, body).tokens == 0


def test_anthropic_streams_are_estimated() -> None:
    """Text, thought and tool use of Anthropic's events are counted, scaled, and flagged."""
    recount = count_completion("messages", "claude-haiku-4-5", stream(MESSAGES))
    assert recount.flags == ("estimated", "hidden_reasoning")
    spoken = length("Vejamos.", TEXT, "ver_saldo", "{}", model="gpt-4")
    assert recount.tokens == spoken * 108 // 100
    ended = [*MESSAGES, {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}]
    assert count_completion("messages", "claude-haiku-4-5", stream(ended)).tokens == recount.tokens + 3 + 44


def test_the_last_event_of_responses_is_not_counted_twice() -> None:
    """`response.completed` repeats the whole answer; it counts only where nothing came before it."""
    said = [{"type": "message", "content": [{"text": TEXT}], "status": "completed"}]
    last = {"type": "response.completed", "response": {"output": said}}
    events = [*RESPONSES[:-2], last]
    assert count_completion("responses", "gpt-4o", stream(events)).tokens == length(TEXT)
    assert count_completion("responses", "gpt-4o", stream([last])).tokens == length(TEXT) + 1


@pytest.mark.parametrize(
    "event",
    [
        [],
        1,
        None,
        {},
        {"choices": None},
        {"choices": [None, {}]},
        {"choices": [{"delta": {"content": 3, "tool_calls": [1]}}]},
        {"choices": [{"index": "x", "delta": {"tool_calls": [{"index": None, "function": {"name": 3}}]}}]},
        {"type": "response.output_text.delta", "delta": None},
        {"type": "content_block_delta", "delta": 3},
    ],
)
@pytest.mark.parametrize("family", ["chat", "responses", "messages", "completions", "images"])
def test_events_of_no_known_shape_add_nothing(family: str, event: Any) -> None:
    """What is no text of a known place is passed over without an error."""
    raw = stream([event]) + b"data: {broken\n\ndata:\n\n"
    assert count_completion(family, "gpt-4o", raw).tokens == 0
    if isinstance(event, dict):
        assert count_completion(family, "gpt-4o", event).tokens == 0


def test_a_whole_answer_that_is_cut_counts_the_text_that_came() -> None:
    """At every byte of it: never its frame, nor what was to come."""
    text = "Um relógio de sol: a sombra diz as horas."
    message = {"role": "assistant", "content": text}
    answer = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    raw = json.dumps(answer, ensure_ascii=False).encode()
    start = raw.index(text.encode())
    for cut in range(1, len(raw) + 1):
        came = raw[start:cut][: len(text.encode())].decode(errors="ignore") if cut > start else ""
        counted = count_completion("chat", "gpt-4o", raw[:cut])
        assert counted.tokens == length(came), cut
        assert not counted.flags
