"""Prompts of OpenAI's Responses API: the rules of chat completions, from another shape of request."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.recount.chat import count_chat
from gateway.recount.content import sequence
from gateway.recount.profiles import Profile
from gateway.recount.sealed import OPENAI
from gateway.recount.tally import Tally

HOSTED_TOOL: Final = 294
"""Tokens of instructions that a hosted tool (web search, file search …) adds before it is used, as measured for web
search with gpt-4o and gpt-4.1; what it finds is billed as input too, and is known to the provider alone."""
HOSTED_TOOL_THINKER: Final = 4300
"""The same with gpt-5.2."""

Request = Mapping[str, Any]


def count_responses(tally: Tally, request: Request, profile: Profile) -> None:
    """Adds the prompt of one Responses request."""
    if request.get("previous_response_id") or request.get("conversation") or request.get("prompt"):
        tally.flag("hidden_history")
    for tool in sequence(request.get("tools")):
        if isinstance(tool, Mapping) and tool.get("type") != "function":
            tally.flag("hosted_tool")
            tally.add(HOSTED_TOOL_THINKER if profile.reasoning else HOSTED_TOOL)
    items = [item for item in sequence(request.get("input")) if isinstance(item, Mapping)]
    _thoughts(tally, items)
    count_chat(tally, as_chat(request, items), profile, profile.responses)


def as_chat(request: Request, items: Sequence[Request]) -> Request:
    """The request in the shape of chat completions."""
    messages: list[Request] = []
    if isinstance(request.get("instructions"), str):
        messages.append({"role": "system", "content": request["instructions"]})
    if isinstance(request.get("input"), str):
        messages.append({"role": "user", "content": request["input"]})
    messages += _messages(items)
    text = request.get("text")
    return {
        "messages": messages,
        "tools": request.get("tools"),
        "tool_choice": request.get("tool_choice"),
        "response_format": text.get("format") if isinstance(text, Mapping) else None,
    }


def _messages(items: Sequence[Request]) -> list[Request]:
    """Input items as messages. Calls that follow one another were made at once, and become one message."""
    messages: list[Request] = []
    calls: list[Request] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            if not calls:
                messages.append({"role": "assistant", "tool_calls": calls})
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "function": function})
        elif kind == "function_call_output":
            calls = []
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
        elif kind == "message":
            calls = []
            messages.append(item)
    return messages


def _thoughts(tally: Tally, items: Sequence[Request]) -> None:
    """Thought that is sent back counts until the next message of the user; items of other kinds are unknown."""
    last_user = max((at for at, item in enumerate(items) if item.get("role") == "user"), default=-1)
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "reasoning":
            if at > last_user:
                tally.flag("hidden_history")
                sealed = item.get("encrypted_content")
                tally.add(OPENAI.tokens(len(sealed)) if isinstance(sealed, str) else 0)
        elif kind not in ("message", "function_call", "function_call_output"):
            tally.flag("hidden_history")
