"""The last events of a stream that the gateway ends itself, when the credit runs out: valid for that family, with the
reason as text, so that a client shows a finished message and keeps what was written."""

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.stream_place import Place
from shared.usage import Usage

DONE = b"data: [DONE]\n\n"


def chat(model: str, chunk_id: str, created: int, text: str, usage: Usage | None, choices: int = 1) -> bytes:
    """Text, `finish_reason: length`, the usage where the client asked for it, `[DONE]`."""
    base = {"id": chunk_id, "object": "chat.completion.chunk", "created": created, "model": model}
    last: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]},
        *(
            {"choices": [{"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}]}
            for index in range(choices)
        ),
    ]
    if usage is not None:
        last.append({"choices": [], "usage": _chat_usage(usage)})
    return _unnamed({**base, **event} for event in last) + DONE


def completions(model: str, chunk_id: str, created: int, text: str, usage: Usage | None, choices: int = 1) -> bytes:
    """The same in the shape of the older endpoint."""
    base = {"id": chunk_id, "object": "text_completion", "created": created, "model": model}
    last: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": None}]},
        *(
            {"choices": [{"index": index, "text": "", "logprobs": None, "finish_reason": "length"}]}
            for index in range(choices)
        ),
    ]
    if usage is not None:
        last.append({"choices": [], "usage": _chat_usage(usage)})
    return _unnamed({**base, **event} for event in last) + DONE


def responses(place: Place, answer_id: str, model: str, created: int, text: str, written: str, usage: Usage) -> bytes:
    """The text in the message that is being written, or in a further one; all that is open in it closed; and
    `response.incomplete` for the reason `max_output_tokens`. `written` is what that message said before."""
    index = place.index if place.writing else place.index + 1
    part = place.part if place.writing else 0
    item_id = place.item_id if place.writing and place.item_id else f"msg_{answer_id}"
    before = written if place.writing else ""
    whole = {"type": "output_text", "text": before + text, "annotations": [], "logprobs": []}
    item = {"id": item_id, "type": "message", "status": "incomplete", "role": "assistant", "content": [whole]}
    at = {"item_id": item_id, "output_index": index, "content_index": part}
    events: list[dict[str, Any]] = []
    if not place.writing:
        empty = {**item, "status": "in_progress", "content": []}
        events += [
            {"type": "response.output_item.added", "output_index": index, "item": empty},
            {"type": "response.content_part.added", **at, "part": {**whole, "text": ""}},
        ]
    events += [
        {"type": "response.output_text.delta", **at, "delta": text, "logprobs": []},
        {"type": "response.output_text.done", **at, "text": before + text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": whole},
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]
    begun = dict(place.begun) or {
        "id": f"resp_{answer_id}",
        "object": "response",
        "created_at": created,
        "model": model,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    response = begun | {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [*place.items, item],
        "usage": {
            "input_tokens": usage.tokens_in,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
            "output_tokens": usage.tokens_out,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.tokens_in + usage.tokens_out,
        },
    }
    events.append({"type": "response.incomplete", "response": response})
    return _named({**event, "sequence_number": place.number + k} for k, event in enumerate(events, 1))


def messages(place: Place, text: str, usage: Usage) -> bytes:
    """The text in the block that is being written, or in a further one; `stop_reason: max_tokens` with the usage."""
    events: list[dict[str, Any]] = []
    index = place.index
    if not place.writing:
        if place.open:
            events.append({"type": "content_block_stop", "index": index})
        index += 1
        events.append({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}})
    events += [
        {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": index},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": usage.tokens_out},
        },
        {"type": "message_stop"},
    ]
    return _named(events)


def _chat_usage(usage: Usage) -> dict[str, int]:
    total = usage.tokens_in + usage.tokens_out
    return {"prompt_tokens": usage.tokens_in, "completion_tokens": usage.tokens_out, "total_tokens": total}


def _unnamed(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events)


def _named(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events
    )
