"""Functions that earlier answers called, and what came back."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.recount.content import content_tokens, media_tokens, sequence, text_of
from gateway.recount.profiles import Frame, Profile
from gateway.recount.response_format import NAME_CHARACTERS_MAX
from gateway.recount.tally import Tally

RESULT: Final = 4
"""The message with a function's result, beside `functions.` + name and the text."""
WRAPPER: Final = "multi_tool_use.parallel"
"""What several calls at once are addressed to, and their results come from: one function that takes them all."""

RESULT_ROLES: Final = ("tool", "function")

Message = Mapping[str, Any]


def calls_of(message: Message) -> list[Message]:
    """The functions that a past message calls, in the current and the older spelling."""
    calls = [call["function"] for call in sequence(message.get("tool_calls")) if _is_call(call)]
    older = message.get("function_call")
    return [*calls, older] if isinstance(older, Mapping) else calls


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
    """Which function each result belongs to, and which results came back together."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._names: dict[str, str] = {}
        self._together: dict[str, list[str]] = {}
        """Identity of a call made in parallel → the results of all that were made with it, as far as they came."""
        for message in messages:
            calls = [call for call in sequence(message.get("tool_calls")) if _is_call(call)]
            for call in calls:
                self._names[str(call.get("id"))] = str(call["function"].get("name", ""))
            if len(calls) > 1:
                results: list[str] = []
                self._together |= {str(call.get("id")): results for call in calls}
            elif message.get("role") in RESULT_ROLES:
                self._gather(message)

    def calls(self, tally: Tally, message: Message, frame: Frame) -> None:
        """Adds the calls that an earlier answer made. Cases: one, to its function; several, as the arguments of one to
        WRAPPER, with their results as one JSON list, in which an accent costs its escape."""
        calls = calls_of(message)
        tally.add(frame.call)
        if len(calls) == 1:
            tally.text(calls[0].get("name"), compact(calls[0].get("arguments")))
            return
        tally.text(WRAPPER, wrapper((str(call.get("name", "")), compact(call.get("arguments"))) for call in calls))
        identities = (str(call.get("id")) for call in sequence(message.get("tool_calls")) if isinstance(call, Mapping))
        results = next((self._together[each] for each in identities if each in self._together), [])
        if results:
            tally.text(WRAPPER, json.dumps(results))
            tally.add(RESULT)

    def result(self, tally: Tally, message: Message, profile: Profile) -> None:
        """Adds one result; of those that came together only what is no text, for the calls hold their texts."""
        identity = str(message.get("tool_call_id"))
        if identity in self._together:
            media_tokens(tally, message.get("content"), profile)
            return
        content_tokens(tally, message.get("content"), profile)
        tally.text(f"functions.{str(self._names.get(identity) or message.get('name') or '')[:NAME_CHARACTERS_MAX]}")
        tally.add(RESULT)

    def _gather(self, message: Message) -> None:
        results = self._together.get(str(message.get("tool_call_id")))
        if results is not None:
            results.append(text_of(message.get("content")))


def _is_call(call: object) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)
