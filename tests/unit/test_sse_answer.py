"""Answers that are not streamed: what is read from them, and that nothing in them does harm."""

import json
from typing import Any

import pytest

from gateway.answer import Answer, read_answer

CHAT: dict[str, Any] = {
    "model": "gpt-x",
    "service_tier": "flex",
    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}


def read(family: str, value: Any) -> Answer:
    return read_answer(family, json.dumps(value).encode())


def test_a_chat_answer() -> None:
    """Model, usage, tier and finish reason of a chat answer are read; there is no error and no image."""
    assert read("chat", CHAT) == Answer(
        model="gpt-x", usage_raw=CHAT["usage"], service_tier="flex", finish_reason="stop"
    )


def test_a_responses_answer() -> None:
    """A finished response says `completed`, an incomplete one why; hosted tools are kept beside the usage."""
    usage = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    body: dict[str, Any] = {
        "object": "response",
        "model": "gpt-y",
        "status": "completed",
        "usage": usage,
        "error": None,
    }
    answer = read("responses", body)
    assert (answer.model, answer.usage_raw, answer.finish_reason, answer.error) == ("gpt-y", usage, "completed", None)

    body |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    body |= {"tool_usage": {"web_search": {"num_requests": 2}}}
    answer = read("responses", body)
    assert answer.finish_reason == "max_output_tokens"
    assert answer.usage_raw == {**usage, "tool_usage": {"web_search": {"num_requests": 2}}}


def test_an_anthropic_answer() -> None:
    """Anthropic's stop reason and the tier inside its usage are read."""
    usage = {"input_tokens": 9, "output_tokens": 4, "service_tier": "priority"}
    answer = read("messages", {"type": "message", "model": "claude-z", "stop_reason": "end_turn", "usage": usage})
    assert (answer.model, answer.finish_reason, answer.service_tier) == ("claude-z", "end_turn", "priority")
    assert answer.usage_raw == usage


def test_images_and_durations() -> None:
    """The images of an image answer are counted; a verbose transcription without usage is sold by its duration."""
    assert read("images", {"data": [{"url": "a"}, {"url": "b"}]}).images == 2
    assert read("embeddings", {"data": [{}, {}]}).images == 0
    assert read("transcription", {"text": "a", "duration": 8.47}).usage_raw == {"type": "duration", "seconds": 8.47}
    timed = {"type": "duration", "seconds": 9}
    assert read("transcription", {"text": "a", "duration": 8.47, "usage": timed}).usage_raw == timed


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"error": {"message": "m", "code": 400}}, {"message": "m", "code": 400}),
        ({"error": "m"}, {"message": "m"}),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
            {"type": "overloaded_error", "message": "m"},
        ),
        ([{"error": {"message": "m"}}], {"message": "m"}),
        ({"error": None}, None),
        ({"error": {}}, None),
    ],
)
def test_errors(value: Any, error: dict[str, Any] | None) -> None:
    """The error object of each provider's error answer is found, also in Gemini's list and as bare text."""
    assert read("chat", value).error == error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"<html>",
        b"[1,2]",
        b"[]",
        b'"text"',
        b"7",
        b'{"usage":',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"model":1,"usage":[],"choices":{"a":1},"error":false,"service_tier":{},"status":3,"delta":"x"}',
        b'{"choices":[null,7,{"finish_reason":3}],"usage":"many","x_groq":5,"response":null,"message":[]}',
    ],
)
def test_what_says_nothing_gives_nothing(body: bytes) -> None:
    """No JSON, other JSON and fields of other types give an empty answer and raise nothing."""
    for family in ("chat", "responses", "messages", "images", "transcription"):
        assert read_answer(family, body) == Answer()


@pytest.mark.parametrize("text", [b"\xff", b"\\ud83c", b"\xed\xa0\xbd"])
def test_broken_text_leaves_the_rest_readable(text: bytes) -> None:
    """Invalid UTF-8, lone surrogates, a BOM and NaN do not hide the usage beside them."""
    body = b'\xef\xbb\xbf{"choices":[{"message":{"content":"' + text + b'"}}],"usage":{"prompt_tokens":3},"x":NaN}'
    assert read_answer("chat", body).usage_raw == {"prompt_tokens": 3}


def test_groq_puts_usage_of_streams_apart() -> None:
    """Groq's usage in x_groq is read where there is none beside it."""
    assert read("chat", {"choices": [], "x_groq": {"usage": {"prompt_tokens": 3}}}).usage_raw == {"prompt_tokens": 3}
