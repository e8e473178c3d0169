"""What the fake upstream answers on endpoints other than chat: whole bodies and events, with the usage that it reports.

Shapes are those of OpenAI's and Anthropic's documentation; counts are the caller's.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

CREATED: Final = 1_790_000_000
PNG: Final = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3).decode()
SOUND: Final = bytes(range(256)) * 40
"""Sound that no header tells the length of."""


class Reply(msgspec.Struct):
    """An answer: `body` whole, or `events` one after the other, of which `cut` come before the stream's ending.
    `reported` is the usage in it."""

    content_type: str
    body: bytes = b""
    events: list[bytes] = []
    cut: int = 0
    reported: dict[str, Any] | None = None


class Asked(msgspec.Struct):
    """What a reply is made from. `pieces` are the tokens of the text that is answered."""

    request: Mapping[str, Any]
    event_id: str
    prompt_tokens: int
    pieces: list[str]
    ending: str = "done"
    usage: bool = True
    raw_usage: dict[str, Any] | None = None

    @property
    def model(self) -> str:
        return str(self.request.get("model"))

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def form_of(body: bytes, content_type: str) -> dict[str, Any]:
    """Fields of a form by name, each file as its bytes; for tests only: it takes what a strict reader would not."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    assert boundary, content_type
    found: dict[str, Any] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        assert name, head
        found[name[1].decode()] = value if b"filename" in head else value.decode()
    return found


def _json(value: Any, reported: dict[str, Any] | None = None) -> Reply:
    return Reply("application/json", json.dumps(value, ensure_ascii=False).encode(), reported=reported)


def _event(value: Mapping[str, Any], *, named: bool = True) -> bytes:
    name = f"event: {value['type']}\n" if named else ""
    return f"{name}data: {json.dumps(value, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def responses(asked: Asked) -> Reply:
    usage = asked.raw_usage or {
        "input_tokens": asked.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": len(asked.pieces),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked.prompt_tokens + len(asked.pieces),
    }
    base: dict[str, Any] = {
        "id": f"resp_{asked.event_id}",
        "object": "response",
        "created_at": CREATED,
        "model": f"{asked.model}-2024-07-18",
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }
    part = {"type": "output_text", "text": asked.text, "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    ends: dict[str, dict[str, Any]] = {
        "done": {"status": "completed"},
        "incomplete": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        "failed": {"status": "failed", "error": {"code": "server_error", "message": "overloaded"}},
    }
    end = ends.get(asked.ending, ends["done"])
    last = {**base, "output": [item], **end, **({"usage": usage} if asked.usage else {})}
    reported = usage if asked.usage else None
    if not asked.request.get("stream"):
        return _json(last, reported)
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = {**item, "content": [], "status": "in_progress"}
    begun = {**base, "output": [], "status": "in_progress"}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []} for piece in asked.pieces),
        {"type": "response.output_text.done", **at, "text": asked.text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": f"response.{end['status']}", "response": last},
    ]
    numbered = [_event({**event, "sequence_number": number}) for number, event in enumerate(events)]
    return Reply("text/event-stream", events=numbered, cut=4 + len(asked.pieces), reported=reported)


def completions(asked: Asked) -> Reply:
    usage = asked.raw_usage or {
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": len(asked.pieces),
        "total_tokens": asked.prompt_tokens + len(asked.pieces),
    }
    base = {"id": f"cmpl-{asked.event_id}", "object": "text_completion", "created": CREATED, "model": asked.model}

    def choice(text: str, finish: str | None) -> list[dict[str, Any]]:
        return [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]

    reported = usage if asked.usage else None
    if not asked.request.get("stream"):
        said = {"usage": usage} if asked.usage else {}
        return _json({**base, "choices": choice(asked.text, "stop"), **said}, reported)
    events = [{**base, "choices": choice(piece, None)} for piece in asked.pieces]
    events.append({**base, "choices": choice("", "stop")})
    if asked.usage and (asked.request.get("stream_options") or {}).get("include_usage"):
        events.append({**base, "choices": [], "usage": usage})
    data = [_event(event, named=False) for event in events]
    data.append(b"data: [DONE]\n\n")
    return Reply("text/event-stream", events=data, cut=len(asked.pieces), reported=reported)


def messages(asked: Asked) -> Reply:
    """Cached tokens come beside the input. The output stands at the end of a stream alone."""
    usage = asked.raw_usage or {
        "input_tokens": asked.prompt_tokens,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 3,
        "output_tokens": len(asked.pieces),
        "service_tier": "standard",
    }
    base = {"id": f"msg_{asked.event_id}", "type": "message", "role": "assistant", "model": asked.model}
    if not asked.request.get("stream"):
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        return _json({**base, "content": [{"type": "text", "text": asked.text}], **end, "usage": usage}, usage)
    start: dict[str, Any] = {**base, "content": [], "stop_reason": None, "stop_sequence": None}
    start["usage"] = {**usage, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in asked.pieces
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": usage["output_tokens"]},
        },
        {"type": "message_stop"},
    ]
    data = [_event(event) for event in events]
    return Reply("text/event-stream", events=data, cut=3 + len(asked.pieces), reported=usage)


def count_tokens(asked: Asked) -> Reply:
    return _json({"input_tokens": asked.prompt_tokens})


def embeddings(asked: Asked) -> Reply:
    usage = {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens}
    vector = base64.b64encode(bytes(16)).decode()
    value = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": asked.model,
    }
    return _json({**value, "usage": usage} if asked.usage else value, usage if asked.usage else None)


def images(asked: Asked) -> Reply:
    """Tokens for gpt-image-1; for others an image is an image."""
    number = int(asked.request.get("n") or 1)
    tokens = asked.usage and "gpt-image" in asked.model
    shown = 100 if "image" in asked.request else 0
    usage = {
        "input_tokens": asked.prompt_tokens + shown,
        "input_tokens_details": {"text_tokens": asked.prompt_tokens, "image_tokens": shown},
        "output_tokens": 272 * number,
        "total_tokens": asked.prompt_tokens + shown + 272 * number,
    }
    look = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}
    reported = usage if tokens else None
    if not asked.request.get("stream"):
        body: dict[str, Any] = {"created": CREATED, "data": [{"b64_json": PNG}] * number}
        return _json(body | ({**look, "usage": usage} if tokens else {}), reported)
    kind = "image_edit" if "image" in asked.request else "image_generation"
    common = {"b64_json": PNG, "created_at": CREATED, **look}
    partial = {"type": f"{kind}.partial_image", **common, "partial_image_index": 0}
    completed = {"type": f"{kind}.completed", **common, **({"usage": usage} if tokens else {})}
    return Reply("text/event-stream", events=[_event(partial), _event(completed)], cut=1, reported=reported)


def speech(asked: Asked) -> Reply:
    if asked.request.get("stream_format") != "sse":
        return Reply("audio/mpeg", SOUND)
    spoken = len(asked.pieces) * 10
    usage = {"input_tokens": asked.prompt_tokens, "output_tokens": spoken, "total_tokens": asked.prompt_tokens + spoken}
    delta = {"type": "speech.audio.delta", "audio": base64.b64encode(SOUND[:600]).decode()}
    events = [_event(delta, named=False)] * 3 + [_event({"type": "speech.audio.done", "usage": usage}, named=False)]
    return Reply("text/event-stream", events=events, cut=3, reported=usage)


def transcription(asked: Asked) -> Reply:
    """By tokens, by seconds (whisper-1), or, as plain text, with nothing said."""
    spoken = len(asked.pieces)
    usage: dict[str, Any] = {
        "type": "tokens",
        "input_tokens": 70,
        "input_token_details": {"text_tokens": 10, "audio_tokens": 60},
        "output_tokens": spoken,
        "total_tokens": 70 + spoken,
    }
    if asked.model == "whisper-1":
        usage = {"type": "duration", "seconds": 9}
    if asked.request.get("response_format") == "text":
        return Reply("text/plain; charset=utf-8", asked.text.encode())
    if asked.request.get("stream") != "true":
        return _json({"text": asked.text, "usage": usage}, usage)
    deltas = [_event({"type": "transcript.text.delta", "delta": piece}, named=False) for piece in asked.pieces]
    done = _event({"type": "transcript.text.done", "text": asked.text, "usage": usage}, named=False)
    return Reply("text/event-stream", events=[*deltas, done], cut=spoken, reported=usage)


def moderations(asked: Asked) -> Reply:
    result = {"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
    return _json({"id": "modr-1", "model": asked.model, "results": [result]})


def files(asked: Asked) -> Reply:
    return _json({"object": "list", "data": []})


REPLIES: Final[Mapping[tuple[str, str], Callable[[Asked], Reply]]] = {
    ("POST", "/v1/responses"): responses,
    ("POST", "/v1/completions"): completions,
    ("POST", "/v1/messages"): messages,
    ("POST", "/v1/messages/count_tokens"): count_tokens,
    ("POST", "/v1/embeddings"): embeddings,
    ("POST", "/v1/images/generations"): images,
    ("POST", "/v1/images/edits"): images,
    ("POST", "/v1/images/variations"): images,
    ("POST", "/v1/audio/speech"): speech,
    ("POST", "/v1/audio/transcriptions"): transcription,
    ("POST", "/v1/audio/translations"): transcription,
    ("POST", "/v1/moderations"): moderations,
    ("GET", "/v1/files"): files,
}
