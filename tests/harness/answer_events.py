"""Answers of each family of text as events, to be counted: made by hand, with what they come to."""

import json
from collections.abc import Iterable
from typing import Any

from gateway.recount.vocabulary import encoding_for

Event = dict[str, Any]
TEXT = "Olá! O saldo é de 41.500 créditos 🌻 e vale até 30/11."


def length(*texts: str, model: str = "gpt-4o") -> int:
    return sum(len(encoding_for(model).encode_ordinary(text)) for text in texts)


def stream(events: Iterable[Event], end: bytes = b"\n", done: bool = False) -> bytes:
    lines = [b"data: " + json.dumps(event, ensure_ascii=False).encode() for event in events]
    lines += [b"data: [DONE]"] if done else []
    return b"".join(line + end + end for line in lines)


def delta(choice: int = 0, finish: str | None = None, **said: object) -> Event:
    return {"choices": [{"index": choice, "delta": said, "finish_reason": finish}]}


def call(index: int, name: str | None = None, arguments: str | None = None) -> Event:
    return delta(tool_calls=[{"index": index, "function": {"name": name, "arguments": arguments}}])


def pieces(text: str, size: int = 3) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


CHAT: list[Event] = [
    delta(role="assistant", content=""),
    *(delta(content=text) for text in pieces(TEXT)),
    call(0, "ver_saldo", ""),
    *(call(0, arguments=text) for text in pieces('{"conta": "77"}')),
]
CHAT_TOKENS = length(TEXT, "ver_saldo", '{"conta": "77"}')

RESPONSES: list[Event] = [
    {"type": "response.created", "response": {"output": []}},
    {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
    *(
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": text}
        for text in pieces(TEXT)
    ),
    {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "name": "ver_saldo"}},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
]
RESPONSES_TOKENS = length(TEXT, "ver_saldo", "{}")

MESSAGES: list[Event] = [
    {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 9}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Vejamos."}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": TEXT}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "name": "ver_saldo", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
]
