"""SSE streams of each endpoint family, written by hand, and all that an observer gives away over one stream."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gateway.sse import SseTap

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
STYLES = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


class Seen(NamedTuple):
    """All that a tap gives away over one stream."""

    passed: bytes
    held: bytes
    events: int
    done: bool
    model: str
    usage: dict[str, Any] | None
    partial: bool
    finish_reason: str
    service_tier: str
    error: dict[str, Any] | None
    raw: bytes


def watch(family: str, strip: bool, pieces: Iterable[bytes]) -> Seen:
    """Feeds all pieces, then the end of the body, then releases."""
    tap = SseTap(family, strip)
    passed = b"".join([*map(tap.feed, pieces), tap.finish()])
    held = tap.release()
    return Seen(
        passed,
        held,
        tap.events,
        tap.done,
        tap.model,
        tap.usage_raw,
        tap.usage_partial,
        tap.finish_reason,
        tap.service_tier,
        tap.error,
        tap.take_raw(),
    )


def data(payload: Any) -> list[str]:
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return [f"data: {text}", ""]


def named(payload: dict[str, Any]) -> list[str]:
    return [f"event: {payload['type']}", *data(payload)]


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> list[str]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return data({"id": "c1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices, **more})


def wire(lines: Sequence[str], eol: str = "\n") -> bytes:
    return "".join(line + eol for line in lines).encode()


WORDS = [
    *chunk({"role": "assistant", "content": ""}, usage=None, service_tier="default"),
    *chunk({"content": "Olá 🌻"}, usage=None),
    *chunk({"content": '"usage":{"prompt_tokens":1} data: [DONE]'}, usage=None),
    *chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"usage":{}}'}}]}, usage=None),
    *chunk({}, "stop", usage=None),
]
DONE = data("[DONE]")
LITELLM_USAGE = data({"id": "c1", "model": "gpt-x", "choices": [{"index": 0, "delta": {}}], "usage": USAGE})

# Lines of each stream, and the indices of those that strip mode takes out.
STREAMS: dict[str, tuple[str, list[str], range]] = {
    "openai": ("chat", [*WORDS, *chunk(usage=USAGE), *DONE], range(10, 12)),
    "litellm": ("chat", [*WORDS, *LITELLM_USAGE, *DONE], range(10, 12)),
    "usage with the last text": ("chat", [*WORDS[:8], *chunk({"content": "!"}, "stop", usage=USAGE), *DONE], range(0)),
    "usage with the end": ("chat", [*WORDS[:8], *chunk({"content": ""}, "stop", usage=USAGE), *DONE], range(0)),
    "usage from the start": (
        "chat",
        [
            *chunk({"role": "assistant", "content": "a"}, usage={**USAGE, "completion_tokens": 1}),
            *chunk({"content": "b"}, usage=USAGE),
            *DONE,
        ],
        range(0),
    ),
    "error": ("chat", [*WORDS[:4], *data({"error": {"message": "overloaded", "code": "500"}})], range(0)),
    "decorated": (
        "chat",
        [
            ": hello",
            "",
            "id: 7",
            "retry: 300",
            *WORDS[2:4],
            "",
            ": ping",
            'data: {"choices":[],',
            f'data: "usage": {json.dumps(USAGE)}}}',
            "id: 8",
            "",
            "data:[DONE]",
            "",
            ": bye",
            "",
        ],
        range(8, 12),
    ),
    "completions": (
        "completions",
        [
            *data({"model": "old", "choices": [{"text": "a", "index": 0, "finish_reason": None}], "usage": None}),
            *data({"model": "old", "choices": [{"text": "b", "index": 0, "finish_reason": "stop"}], "usage": None}),
            *data({"model": "old", "choices": [], "usage": USAGE}),
            *DONE,
        ],
        range(4, 6),
    ),
    "responses": (
        "responses",
        [
            *named({"type": "response.created", "response": {"model": "gpt-y", "service_tier": "auto", "usage": None}}),
            *named({"type": "response.output_text.delta", "delta": "Olá 🌻", "item_id": "m"}),
            *named({"type": "response.output_text.delta", "delta": '"response"', "item_id": "m"}),
            *named(
                {
                    "type": "response.completed",
                    "response": {
                        "model": "gpt-y",
                        "status": "completed",
                        "service_tier": "default",
                        "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
                    },
                }
            ),
            *DONE,
        ],
        range(0),
    ),
    "messages": (
        "messages",
        [
            *named(
                {
                    "type": "message_start",
                    "message": {
                        "model": "claude-z",
                        "usage": {"input_tokens": 9, "cache_read_input_tokens": 5, "output_tokens": 1},
                    },
                }
            ),
            *named({"type": "ping"}),
            *named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Olá 🌻"}}),
            *named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}),
            *named({"type": "message_stop"}),
        ],
        range(0),
    ),
    "transcription": (
        "transcription",
        [
            *data({"type": "transcript.text.delta", "delta": "Olá"}),
            *data({"type": "transcript.text.done", "text": "Olá", "usage": {"type": "tokens", "input_tokens": 14}}),
        ],
        range(0),
    ),
}
TERMINAL_LINES = {  # where the event begins that ends the stream
    "openai": 12,
    "litellm": 12,
    "usage with the last text": 10,
    "usage with the end": 10,
    "usage from the start": 4,
    "error": 6,
    "decorated": 12,
    "completions": 6,
    "responses": 9,
    "messages": 12,
    "transcription": 2,
}
