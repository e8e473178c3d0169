"""The last events of a stream that the gateway ends itself, when the credit runs out: valid for that family, with the
reason as text, so that a client shows a finished message and keeps what was written."""

from typing import Any

import msgspec

from shared.usage import Usage


def chat(model: str, chunk_id: str, created: int, text: str, usage: Usage | None) -> bytes:
    """Text, `finish_reason: length`, the usage where the client asked for it, `[DONE]`."""
    base = {"id": chunk_id, "object": "chat.completion.chunk", "created": created, "model": model}
    last: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]},
    ]
    if usage is not None:
        counts = {
            "prompt_tokens": usage.tokens_in,
            "completion_tokens": usage.tokens_out,
            "total_tokens": usage.tokens_in + usage.tokens_out,
        }
        last.append({"choices": [], "usage": counts})
    return b"".join(b"data: %b\n\n" % msgspec.json.encode({**base, **event}) for event in last) + b"data: [DONE]\n\n"
