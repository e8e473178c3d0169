"""Prompts of OpenAI's chat models: what each part of a request costs in tokens.

Sources of the rules: OpenAI's own note on counting for plain messages and names; recorded calls, with the provider's
count of each, for everything else. What they reach is printed by `make precision`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.recount.content import content_tokens, sequence, text_of
from gateway.recount.history import RESULT_ROLES, History, calls_of
from gateway.recount.profiles import Frame, Profile
from gateway.recount.response_format import NAME_CHARACTERS_MAX, render_format, schema_format
from gateway.recount.tally import Tally
from gateway.recount.typescript import render_tools

MESSAGE: Final = 3
"""Tokens that frame every message."""
NAME: Final = 1
"""A message's name, beside its own tokens."""
ADDED_SYSTEM: Final = MESSAGE + 1
"""A system message that the provider adds to hold functions: its frame and its role."""
FORMAT_MARK: Final = 2
"""Marking an answer with its response format, beside the tokens of that format's name."""

SYSTEM_ROLES: Final = ("system", "developer")

Request = Mapping[str, Any]


def count_chat(tally: Tally, request: Request, profile: Profile, frame: Frame) -> None:
    """Adds the prompt of one request in the shape of chat completions, framed by `frame`."""
    messages = [message for message in sequence(request.get("messages")) if isinstance(message, Mapping)]
    functions = list(offered_functions(request))
    response_format = schema_format(request.get("response_format"))
    sections = [render_tools(functions)] if functions else []
    if response_format:
        sections.append(render_format(response_format))
    history = History(messages)
    apart = frame.tools_apart and bool(functions)
    for message in messages:
        role = message.get("role")
        if role in RESULT_ROLES:
            history.result(tally, message, profile)
        elif calls_of(message):
            content_tokens(tally, message.get("content"), profile)
            history.calls(tally, message, frame)
        elif sections and role in SYSTEM_ROLES and not apart:
            _message(tally, message, profile, tail="\n\n" + "\n\n".join(sections))
            sections = []
        else:
            _message(tally, message, profile)
            if role == "assistant":
                _past_answer(tally, message, frame, response_format)
    if sections:
        tally.add(ADDED_SYSTEM if functions else frame.format_message)
        tally.text("\n\n".join(sections))
    _priming(tally, request, frame, bool(functions), response_format)


def _priming(tally: Tally, request: Request, frame: Frame, functions: bool, response_format: Request | None) -> None:
    """What stands before the first token of the answer.

    Cases: 1. functions may be called, or one must be; 2. none may, though offered, or none is; 3. a response format.
    """
    if functions:
        tally.add(frame.tools_preamble)
        barred = "none" in (request.get("tool_choice"), request.get("function_call"))
        tally.add(frame.priming_barred if barred else frame.priming_tools)
        forced = forced_function(request)
        if forced:
            tally.add(frame.forced)
            tally.text(forced if frame.forced_name else "")
    elif response_format:
        tally.add(frame.priming_format)
        _mark(tally, frame, response_format)
    else:
        tally.add(frame.priming)


def _message(tally: Tally, message: Request, profile: Profile, tail: str = "") -> None:
    tally.add(MESSAGE)
    tally.text(message.get("role"))
    if isinstance(message.get("name"), str) and message["name"]:
        tally.text(message["name"])
        tally.add(NAME)
    content_tokens(tally, message.get("content"), profile, tail)
    tally.text(message.get("refusal"))


def _past_answer(tally: Tally, message: Request, frame: Frame, response_format: Request | None) -> None:
    tally.add(frame.past_answer)
    if response_format and text_of(message.get("content")).startswith("{"):
        _mark(tally, frame, response_format)


def _mark(tally: Tally, frame: Frame, response_format: Request) -> None:
    if frame.marks_format:
        tally.text(str(response_format.get("name", ""))[:NAME_CHARACTERS_MAX])
        tally.add(FORMAT_MARK)


def offered_functions(request: Request) -> Iterable[Request]:
    """The functions of `tools` (chat nests them, Responses does not) or of the older `functions`."""
    for tool in sequence(request.get("tools")):
        if isinstance(tool, Mapping) and tool.get("type", "function") == "function":
            inner = tool.get("function")
            yield inner if isinstance(inner, Mapping) else tool
    for function in sequence(request.get("functions")):
        if isinstance(function, Mapping):
            yield function


def forced_function(request: Request) -> str:
    """The name of the one function that must be called; empty where the model may choose."""
    choice = request.get("tool_choice")
    if not isinstance(choice, Mapping):
        choice = request.get("function_call")
    if not isinstance(choice, Mapping):
        return ""
    inner = choice.get("function")
    name = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
    return name if isinstance(name, str) else ""
