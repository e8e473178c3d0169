"""Functions that earlier answers called, and what came back."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.recount.content import content_tokens, sequence
from gateway.recount.profiles import Frame, Profile
from gateway.recount.tally import Tally

RESULT: Final = 4
"""The message with a function's result, beside `functions.` + name and the text."""
CALLS: Final = 21
"""Calls made in parallel with all their results, beside the wrapper that names them and the texts of the results."""

RESULT_ROLES: Final = ("tool", "function")

Message = Mapping[str, Any]


def calls_of(message: Message) -> list[Message]:
    """The functions that a past message calls, in the current and the older spelling."""
    calls = [call["function"] for call in sequence(message.get("tool_calls")) if _is_call(call)]
    older = message.get("function_call")
    return [*calls, older] if isinstance(older, Mapping) else calls


def past_calls(tally: Tally, calls: Sequence[Message], frame: Frame) -> None:
    """Calls that an earlier answer made: one names its recipient, several are the arguments of one wrapper."""
    if len(calls) == 1:
        tally.text(calls[0].get("name"), compact(calls[0].get("arguments")))
        tally.add(frame.call)
        return
    tally.text(wrapper((str(call.get("name", "")), compact(call.get("arguments"))) for call in calls))
    tally.add(CALLS + frame.calls_each * len(calls))


def wrapper(calls: Iterable[tuple[str, str]]) -> str:
    """How several calls at once are written, by the model and in its history: one call with all of them in it."""
    uses = ",".join(f'{{"recipient_name":"functions.{name}","parameters":{arguments}}}' for name, arguments in calls)
    return f'{{"tool_uses":[{uses}]}}'


def compact(arguments: object) -> str:
    """Arguments as they are shown to the model again: JSON without spaces; what is no JSON stays as it is."""
    if not isinstance(arguments, str):
        return ""
    try:
        return json.dumps(json.loads(arguments), separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


class History:
    """Which function each result belongs to, and which results came back in one wrapper."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._names: dict[str, str] = {}
        self._wrapped: set[str] = set()
        for message in messages:
            calls = [call for call in sequence(message.get("tool_calls")) if _is_call(call)]
            for call in calls:
                self._names[str(call.get("id"))] = str(call["function"].get("name", ""))
            if len(calls) > 1:
                self._wrapped |= {str(call.get("id")) for call in calls}

    def result(self, tally: Tally, message: Message, profile: Profile) -> None:
        """Adds one result."""
        identity = str(message.get("tool_call_id"))
        content_tokens(tally, message.get("content"), profile)
        if identity not in self._wrapped:
            tally.text(f"functions.{self._names.get(identity) or message.get('name') or ''}")
            tally.add(RESULT)


def _is_call(call: object) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)
