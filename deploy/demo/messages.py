"""The demo's side of Anthropic's Messages API: the same canned answers, usage with the cache beside the input.

Claude's vocabulary is not public: the demo's Claude counts in OpenAI's newest. What stands above a `cache_control` mark
is written to the cache the first time and read from it afterwards, as at Anthropic, from 1,024 tokens on.
"""

import json
import secrets
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from deploy.demo import answers, wire
from deploy.demo.counting import CACHED_FROM_TOKENS, PromptCache, Tokenizer
from deploy.demo.generation import BadRequestError, Choice, Generation, generate
from deploy.demo.serving import DEMO, Served, answered, body_of, headers, streamed

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    529: "overloaded_error",
}
_STOPS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


async def messages(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await body_of(request)
    model = str(body.get("model"))
    snapshot = _snapshot(model)
    if snapshot is None:
        return failure(404, f"model: {model}")
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 1:
        raise BadRequestError("max_tokens: Field required", "max_tokens")
    tokenizer = demo.tokenizers.of(snapshot)
    chat = {**chat_of(body), "model": snapshot}
    generation = generate(chat, tokenizer, PromptCache())
    usage = usage_of(body, chat, generation, tokenizer, demo.cache)
    with Served("messages", model, usage, stream=bool(body.get("stream"))) as call:
        call.failed = answers.is_to_fail(generation.question)
        await demo.pace.first()
        (choice,) = generation.choices
        base = {
            "id": f"msg_{secrets.token_urlsafe(18)}",
            "type": "message",
            "role": "assistant",
            "model": snapshot,
        }
        block = _block(choice)
        end = {"stop_reason": _STOPS[choice.finish], "stop_sequence": None}
        told = answers.told_usage(generation.question, usage)
        if not call.stream:
            if call.failed:
                return failure(529, wire.FAILED)
            await demo.pace.wait(generation.completion_tokens)
            call.sent = generation.completion_tokens
            return answered({**base, "content": [block], **end, "usage": told})
        response = await streamed(request)
        for tokens, event in _events(base, choice, block, end, usage, told, tokenizer):
            await demo.pace.wait(tokens)
            await response.write(wire.event(event, named=True))
            call.sent += tokens
            if call.failed and call.sent > choice.tokens // 2:
                error = {"type": "overloaded_error", "message": wire.FAILED}
                await response.write(wire.event({"type": "error", "error": error}, named=True))
                break
        await response.write_eof()
        return response


async def count_tokens(request: web.Request) -> web.Response:
    demo = request.app[DEMO]
    body = await body_of(request)
    snapshot = _snapshot(str(body.get("model")))
    if snapshot is None:
        return failure(404, f"model: {body.get('model')}")
    chat = chat_of(body)
    return answered({"input_tokens": len(demo.tokenizers.of(snapshot).prompt(chat["messages"], chat.get("tools")))})


def failure(status: int, message: str, **_: str | None) -> web.Response:
    """A refusal in Anthropic's shape, which has neither code nor field."""
    error = {"type": _KINDS.get(status, "api_error"), "message": message}
    return web.json_response({"type": "error", "error": error}, status=status, headers=headers())


def _snapshot(model: str) -> str | None:
    return model if model in wire.CLAUDE_SNAPSHOTS.values() else wire.CLAUDE_SNAPSHOTS.get(model)


def chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """The same request as a chat. Raises BadRequestError."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise BadRequestError("messages: Field required", "messages")
    messages: list[dict[str, Any]] = []
    if system := body.get("system"):
        messages.append({"role": "system", "content": system})
    for message in given:
        messages += _chat_messages(message if isinstance(message, dict) else {})
    chat: dict[str, Any] = {"messages": messages, "max_tokens": body.get("max_tokens")}
    if tools := [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]:
        chat["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.get("name"),
                    "description": tool.get("description", ""),
                    "parameters": tool.get("input_schema") or {},
                },
            }
            for tool in tools
        ]
    choice = body.get("tool_choice")
    wanted = str(choice.get("type")) if isinstance(choice, dict) else ""
    chat["tool_choice"] = {"any": "required", "none": "none", "tool": {"function": choice}}.get(wanted)
    chat["stop"] = body.get("stop_sequences")
    return chat


def _chat_messages(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One message of Anthropic's holds what a chat has in several: text, calls, what the tools said."""
    role, content = message.get("role"), message.get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]
    blocks = [block for block in blocks if isinstance(block, dict)]
    for block in blocks:
        if block.get("type") == "tool_result":
            yield {"role": "tool", "content": answers.words_of(block.get("content"))}
    calls = [
        {"function": {"name": block.get("name"), "arguments": json.dumps(block.get("input"), ensure_ascii=False)}}
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    rest = [block for block in blocks if block.get("type") not in ("tool_use", "tool_result")]
    if calls:
        yield {"role": role, "content": rest, "tool_calls": calls}
    elif rest or not blocks:
        yield {"role": role, "content": rest}


def usage_of(
    body: dict[str, Any], chat: dict[str, Any], generation: Generation, tokenizer: Tokenizer, cache: PromptCache
) -> dict[str, Any]:
    """Anthropic's usage object: what is read from the cache, and what is written to it, comes beside the input."""
    marked, lasting = _marked(body)
    prefix = tokenizer.prompt(chat["messages"][:marked], chat.get("tools")) if marked else []
    size = len(prefix) if len(prefix) >= CACHED_FROM_TOKENS else 0
    read = size if size and cache.holds(prefix) else 0
    written = size - read
    return {
        "input_tokens": generation.prompt_tokens - size,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0 if lasting else written,
            "ephemeral_1h_input_tokens": written if lasting else 0,
        },
        "output_tokens": generation.completion_tokens,
        "service_tier": "standard",
    }


def _marked(body: dict[str, Any]) -> tuple[int, bool]:
    """How many of the chat's messages, the system's included, stand above the last mark; and whether it lasts 1 h."""
    system = body.get("system")
    parts = [system] if system else []
    parts += [message.get("content") for message in body["messages"] if isinstance(message, dict)]
    found, lasting = 0, False
    for place, content in enumerate(parts):
        for block in content if isinstance(content, list) else []:
            if isinstance(block, dict) and (mark := block.get("cache_control")):
                found, lasting = place + 1, mark.get("ttl") == "1h"
    return found, lasting


def _block(choice: Choice) -> dict[str, Any]:
    if choice.call is None:
        return {"type": "text", "text": choice.text}
    arguments = json.loads(choice.call.arguments)
    return {
        "type": "tool_use",
        "id": f"toolu_{secrets.token_urlsafe(18)}",
        "name": choice.call.name,
        "input": arguments,
    }


def _events(
    base: dict[str, Any],
    choice: Choice,
    block: dict[str, Any],
    end: dict[str, Any],
    usage: dict[str, Any],
    told: Any,
    tokenizer: Tokenizer,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What each event says, after how many tokens. The usage stands at both ends; only the last one has the output, and
    is as it is `told`."""
    start = {**base, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    yield 0, {"type": "message_start", "message": start}
    empty = {**block, "input": {}} if choice.call else {**block, "text": ""}
    yield 0, {"type": "content_block_start", "index": 0, "content_block": empty}
    yield 0, {"type": "ping"}
    kind, name = ("input_json_delta", "partial_json") if choice.call else ("text_delta", "text")
    for piece in tokenizer.pieces(choice.call.arguments if choice.call else choice.text):
        yield 1, {"type": "content_block_delta", "index": 0, "delta": {"type": kind, name: piece}}
    yield 0, {"type": "content_block_stop", "index": 0}
    if isinstance(told, dict):
        told = {name: count for name, count in told.items() if name.endswith("_tokens")}
    yield 0, {"type": "message_delta", "delta": end, "usage": told}
    yield 0, {"type": "message_stop"}
