"""The shapes of OpenAI's API: models, chunks, whole answers, errors, vectors. Pure."""

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, Final

from deploy.demo.counting import Tokenizer
from deploy.demo.generation import Choice, Generation

SNAPSHOTS: Final = {
    # asked for: what answers, as OpenAI dates its models
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "o4-mini": "o4-mini-2025-04-16",
    # in no price map, as a model is on its first day
    "gpt-sol": "gpt-sol-2026-06-21",
}
CLAUDE_SNAPSHOTS: Final = {
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
}
COMPLETION_MODELS: Final = ("gpt-3.5-turbo-instruct",)
EMBEDDING_DIMENSIONS: Final = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
IMAGE_MODELS: Final = ("gpt-image-1", "gpt-image-1-mini", "dall-e-3", "dall-e-2")
SPEECH_MODELS: Final = ("gpt-4o-mini-tts", "tts-1", "tts-1-hd")
TRANSCRIPTION_MODELS: Final = ("gpt-4o-transcribe", "gpt-4o-mini-transcribe", "whisper-1")
MODERATION_MODELS: Final = ("omni-moderation-latest", "text-moderation-latest")
MODELS: Final = (
    *SNAPSHOTS,
    *CLAUDE_SNAPSHOTS,
    *COMPLETION_MODELS,
    *EMBEDDING_DIMENSIONS,
    *IMAGE_MODELS,
    *SPEECH_MODELS,
    *TRANSCRIPTION_MODELS,
    *MODERATION_MODELS,
)
FAILED: Final = "The demo model failed because the question asked it to (#fail)."
DONE: Final = b"data: [DONE]\n\n"
_CATEGORIES: Final = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)
FEATURES_PER_WORD: Final = 24
"""Dimensions that one word touches in the demo's embeddings: texts with words in common lie close together."""


def snapshot(model: str) -> str | None:
    """The dated name of the chat model that answers; None for what is none."""
    return model if model in SNAPSHOTS.values() else SNAPSHOTS.get(model)


def event(content: Mapping[str, Any], *, named: bool = False) -> bytes:
    """One event of a stream; `named`: with the line that says its type, as newer endpoints have it."""
    name = f"event: {content['type']}\n" if named else ""
    return f"{name}data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def error(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def model_list(created: int) -> dict[str, Any]:
    models = [{"id": model, "object": "model", "created": created, "owned_by": "sundial-demo"} for model in MODELS]
    return {"object": "list", "data": models}


def deltas(choice: Choice, index: int, call_id: str, tokenizer: Tokenizer) -> Iterator[tuple[int, dict[str, Any]]]:
    """One choice in a stream: what each event says, after how many tokens."""
    role: dict[str, Any] = {"role": "assistant", "content": None if choice.call else "", "refusal": None}
    if choice.call:
        function = {"name": choice.call.name, "arguments": ""}
        role["tool_calls"] = [{"index": 0, "id": call_id, "type": "function", "function": function}]
    yield choice.reasoning, _delta(index, role)
    for piece in tokenizer.pieces(choice.call.arguments if choice.call else choice.text):
        if choice.call:
            yield 1, _delta(index, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        elif piece:
            yield 1, _delta(index, {"content": piece})
    yield 0, {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice.finish}


def chunk(base: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {**base, "object": "chat.completion.chunk", "choices": choices}


def completion(base: dict[str, Any], generation: Generation, call_id: str) -> dict[str, Any]:
    """The whole answer of a call that is not streamed."""
    choices = []
    for index, choice in enumerate(generation.choices):
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
        if choice.call:
            function = {"name": choice.call.name, "arguments": choice.call.arguments}
            message |= {"content": None, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish})
    return {**base, "object": "chat.completion", "choices": choices, "usage": generation.usage()}


def text_choice(text: str, index: int, finish: str | None) -> dict[str, Any]:
    """One choice of the older completions."""
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def moderation(*, violent: bool) -> dict[str, Any]:
    """One result: the demo knows violence alone."""
    score = 0.97 if violent else 0.0001
    return {
        "flagged": violent,
        "categories": {name: violent and name == "violence" for name in _CATEGORIES},
        "category_scores": {name: score if name == "violence" else 0.0001 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


def embedding(text: str, dimensions: int, *, as_base64: bool) -> list[float] | str:
    """A unit vector made of the text's words."""
    vector = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        random = Random(zlib.crc32(word.encode("utf-8", "replace")))  # noqa: S311 - a vector, not a secret
        for _ in range(FEATURES_PER_WORD):
            vector[random.randrange(dimensions)] += random.gauss(0, 1)
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    vector = [value / length for value in vector]
    return base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if as_base64 else vector


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
