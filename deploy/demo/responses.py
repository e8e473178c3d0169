"""The demo's Responses API: the chat model's answers in another shape, streamed as numbered events or whole."""

import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from deploy.demo import answers, wire
from deploy.demo.counting import Tokenizer
from deploy.demo.generation import BadRequestError, Choice, Generation, generate
from deploy.demo.serving import DEMO, Served, answered, body_of, no_such_model, streamed

_ECHOED: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What an answer repeats of its request, with what OpenAI fills in."""


async def responses(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await body_of(request)
    model = str(body.get("model"))
    snapshot = wire.snapshot(model)
    if snapshot is None:
        return no_such_model(model)
    if body.get("previous_response_id"):
        raise BadRequestError("The demo keeps no answers: send the whole conversation.", "previous_response_id")
    tokenizer = demo.tokenizers.of(snapshot)
    generation = generate({**chat_of(body), "model": snapshot}, tokenizer, demo.cache)
    answer = _Answer(body, snapshot, generation)
    with Served("responses", model, usage_of(generation), stream=bool(body.get("stream"))) as call:
        call.failed = answer.failed
        await demo.pace.first()
        if not call.stream:
            if not call.failed:
                await demo.pace.wait(generation.completion_tokens)
                call.sent = generation.completion_tokens
            return answered(answer.whole(answer.end, [] if call.failed else answer.items))
        response = await streamed(request)
        for number, (tokens, event) in enumerate(answer.events(tokenizer)):
            await demo.pace.wait(tokens)
            await response.write(wire.event({**event, "sequence_number": number}, named=True))
            call.sent += tokens
        await response.write_eof()
        return response


def chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """The same request as a chat. Raises BadRequestError."""
    messages: list[dict[str, Any]] = []
    if instructions := body.get("instructions"):
        messages.append({"role": "system", "content": str(instructions)})
    given = body.get("input")
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given or []:
        if not isinstance(item, dict):
            raise BadRequestError("Invalid 'input': expected a text or a list of items.", "input")
        match item.get("type", "message"):
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                messages.append({"role": "assistant", "tool_calls": [{"type": "function", "function": function}]})
            case "function_call_output":
                messages.append({"role": "tool", "content": str(item.get("output", ""))})
            case "message":
                messages.append({"role": item.get("role"), "content": _content(item.get("content"))})
    if not messages:
        raise BadRequestError("Missing required parameter: 'input'.", "input")
    chat: dict[str, Any] = {"messages": messages, "max_completion_tokens": body.get("max_output_tokens")}
    if tools := [tool for tool in body.get("tools") or [] if isinstance(tool, dict) and tool.get("type") == "function"]:
        chat["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in tools
        ]
    choice = body.get("tool_choice")
    chat["tool_choice"] = {"function": choice} if isinstance(choice, dict) else choice
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        chat["response_format"] = {"type": "json_schema", "json_schema": form}
    elif form.get("type") == "json_object":
        chat["response_format"] = form
    return chat


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("text", "")} if str(part.get("type", "")).endswith("_text") else part
        for part in content
        if isinstance(part, dict)
    ]


def usage_of(generation: Generation) -> dict[str, Any]:
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens},
        "output_tokens": generation.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": generation.reasoning_tokens},
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }


class _Answer:
    """One answer: its objects and events."""

    def __init__(self, body: dict[str, Any], model: str, generation: Generation) -> None:
        self.failed = answers.is_to_fail(generation.question)
        self._generation = generation
        (self._choice,) = generation.choices
        self._base = {
            "id": f"resp_{secrets.token_hex(24)}",
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "service_tier": "default",
            **{name: body.get(name, usual) for name, usual in _ECHOED.items()},
        }
        self.items = list(_items(self._choice))
        if self.failed:
            self.end: dict[str, Any] = {
                "status": "failed",
                "error": {"code": "server_error", "message": wire.FAILED},
                "usage": None,  # as at OpenAI: an answer that failed tells no usage
            }
            return
        told = answers.told_usage(generation.question, usage_of(generation))
        if self._choice.finish == "length":
            details = {"reason": "max_output_tokens"}
            self.end = {"status": "incomplete", "incomplete_details": details, "usage": told}
        else:
            self.end = {"status": "completed", "usage": told}

    def whole(self, end: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._base, "output": items, "usage": None, **end}

    def events(self, tokenizer: Tokenizer) -> Iterator[tuple[int, dict[str, Any]]]:
        """What each event says, after how many tokens."""
        begun = self.whole({"status": "in_progress"}, [])
        yield 0, {"type": "response.created", "response": begun}
        yield 0, {"type": "response.in_progress", "response": begun}
        made = 0
        for index, item in enumerate(self.items):
            for tokens, event in self._of_item(index, item, tokenizer):
                yield tokens, event
                made += tokens
                if self.failed and made > self._choice.tokens // 2:
                    yield 0, {"type": "response.failed", "response": self.whole(self.end, [])}
                    return
        yield 0, {"type": f"response.{self.end['status']}", "response": self.whole(self.end, self.items)}

    def _of_item(self, index: int, item: dict[str, Any], tokenizer: Tokenizer) -> Iterator[tuple[int, dict[str, Any]]]:
        def added(empty: dict[str, Any]) -> dict[str, Any]:
            return {"type": "response.output_item.added", "output_index": index, "item": {**item, **empty}}

        at = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "reasoning":
                yield self._choice.reasoning, added({})
            case "function_call":
                yield 0, added({"arguments": "", "status": "in_progress"})
                kind = "response.function_call_arguments"
                for piece in tokenizer.pieces(item["arguments"]):
                    yield 1, {"type": f"{kind}.delta", **at, "delta": piece}
                yield 0, {"type": f"{kind}.done", **at, "arguments": item["arguments"]}
            case _:
                yield 0, added({"content": [], "status": "in_progress"})
                (part,) = item["content"]
                at["content_index"] = 0
                yield 0, {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
                for piece in tokenizer.pieces(part["text"]):
                    yield 1, {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
                yield 0, {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
                yield 0, {"type": "response.content_part.done", **at, "part": part}
        yield 0, {"type": "response.output_item.done", "output_index": index, "item": item}


def _items(choice: Choice) -> Iterator[dict[str, Any]]:
    """Hidden thought, if there is any; then a call, or text, if there was room for any."""
    if choice.reasoning:
        yield {"id": f"rs_{secrets.token_hex(24)}", "type": "reasoning", "summary": []}
    status = "incomplete" if choice.finish == "length" else "completed"
    if choice.call:
        yield {
            "id": f"fc_{secrets.token_hex(24)}",
            "type": "function_call",
            "status": status,
            "call_id": f"call_{secrets.token_urlsafe(18)}",
            "name": choice.call.name,
            "arguments": choice.call.arguments,
        }
    elif choice.text:
        part = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "status": status, "role": "assistant", "content": [part]}
        yield {"id": f"msg_{secrets.token_hex(24)}", **message}
