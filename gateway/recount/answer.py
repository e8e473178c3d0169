"""What an answer says: text, refusals, visible thought and calls, gathered from parsed events or a parsed whole.

One method per endpoint family; unknown fields and kinds add nothing. The text leaves with the object: nothing of it is
logged or stored.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.recount.content import sequence

TEXT_CHARACTERS_MAX: Final = 16 * 1024 * 1024
"""Characters kept of one answer; beyond it they are counted and dropped."""

PARTS_MAX: Final = 4096
"""Choices, calls and items of one answer that are kept; the text of further ones is counted and dropped."""

PIECES_MAX: Final = 512
"""Pieces of one part before they are joined: an answer comes in thousands of them."""

Event = Mapping[str, Any]
Key = tuple[str, int, int]
"""Kind of a part (text, refusal, thought, call), number of its choice or item, number within that."""

_TEXT_DELTAS: Final = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "thought",
    "response.reasoning_summary_text.delta": "thought",
}
_CALL_DELTAS: Final = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
_CALL_ITEMS: Final = ("function_call", "custom_tool_call")


class Part:
    """One run of text: the content of a choice, a refusal, a thought, or the arguments of a call with its name."""

    __slots__ = ("_pieces", "name")

    def __init__(self) -> None:
        self.name = ""
        self._pieces: list[str] = []

    def append(self, text: str) -> None:
        self._pieces.append(text)
        if len(self._pieces) >= PIECES_MAX:
            self._pieces = ["".join(self._pieces)]

    @property
    def text(self) -> str:
        return "".join(self._pieces)


class Answer:
    """Gathers one answer of endpoint `family`: chat, completions, responses or messages."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.parts: dict[Key, Part] = {}
        self.finished: dict[int, str] = {}
        """Number of a choice or item → why it ended, as the provider says it."""
        self.sealed: dict[int, int] = {}
        """Number of an item → characters of the thought in it that came sealed."""
        self.flags: set[str] = set()
        self.characters = 0
        """Characters of all texts, kept or not."""
        self.text_bytes = 0
        """The same in UTF-8."""
        self.dropped = 0
        """Characters that were counted and not kept."""

    def text_of(self, number: int, within: int) -> str:
        """The text of a choice or item so far."""
        part = self.parts.get(("text", number, within))
        return part.text if part is not None else ""

    def take_event(self, event: Event) -> None:
        """One event of a stream, parsed."""
        if self.family == "responses":
            self._responses(event)
        elif self.family == "messages":
            self._messages(event)
        else:
            self._choices(event, "delta")

    def take_answer(self, body: Event) -> None:
        """A whole answer, parsed."""
        if self.family == "responses":
            self._output(body)
        elif self.family == "messages":
            for at, block in enumerate(_mappings(body.get("content"))):
                self._block(at, block)
            self._end(0, body.get("stop_reason"))
        else:
            self._choices(body, "message")

    def take_text(self, index: int, text: str, finish_reason: str | None) -> None:
        """An event of a chat that holds one piece of text."""
        number = _number(index, 0)
        self._say("text", number, 0, text)
        self._end(number, finish_reason)

    def _choices(self, event: Event, said: str) -> None:
        for at, choice in enumerate(_mappings(event.get("choices"))):
            number = _number(choice.get("index"), at)
            self._say("text", number, 0, choice.get("text"))
            message = choice.get(said)
            if isinstance(message, Mapping):
                self._message(number, message)
            self._end(number, choice.get("finish_reason"))

    def _message(self, choice: int, message: Event) -> None:
        content = message.get("content")
        self._say("text", choice, 0, content)
        for part in _mappings(content):  # Mistral: a list of texts and thoughts
            self._say("text", choice, 0, part.get("text"))
            for thought in _mappings(part.get("thinking")):
                self._say("thought", choice, 0, thought.get("text"))
        self._say("refusal", choice, 0, message.get("refusal"))
        self._say("thought", choice, 0, message.get("reasoning_content") or message.get("reasoning"))
        for at, call in enumerate(_mappings(message.get("tool_calls"))):
            self._call(choice, _number(call.get("index"), at), call.get("function"))
        self._call(choice, 0, message.get("function_call"))

    def _responses(self, event: Event) -> None:
        kind = str(event.get("type"))
        item = event.get("item")
        at = _number(event.get("output_index"), 0)
        if kind in _TEXT_DELTAS:
            within = _number(event.get("content_index", event.get("summary_index")), 0)
            self._say(_TEXT_DELTAS[kind], at, within, event.get("delta"))
        elif kind in _CALL_DELTAS:
            self._call(at, 0, {"arguments": event.get("delta")})
        elif kind == "response.output_item.added" and isinstance(item, Mapping):
            self._call(at, 0, {"name": item.get("name")})
        elif kind == "response.output_item.done" and isinstance(item, Mapping):
            self._seal(at, item)
            self._end(at, item.get("status"))
        elif kind in ("response.completed", "response.incomplete") and not self.parts:
            body = event.get("response")
            self._output(body if isinstance(body, Mapping) else {})

    def _output(self, body: Event) -> None:
        for at, item in enumerate(_mappings(body.get("output"))):
            kind = item.get("type")
            for within, part in enumerate(_mappings(item.get("content"))):
                self._say("thought" if kind == "reasoning" else "text", at, within, part.get("text"))
                self._say("refusal", at, within, part.get("refusal"))
            for within, part in enumerate(_mappings(item.get("summary"))):
                self._say("thought", at, within, part.get("text"))
            if kind in _CALL_ITEMS:
                self._call(at, 0, {"name": item.get("name"), "arguments": item.get("arguments", item.get("input"))})
            self._seal(at, item)
            self._end(at, item.get("status"))

    def _messages(self, event: Event) -> None:
        at = _number(event.get("index"), 0)
        block = event.get("content_block")
        if isinstance(block, Mapping):
            self._block(at, {**block, "input": None})
        delta = event.get("delta")
        if isinstance(delta, Mapping):
            self._say("text", at, 0, delta.get("text"))
            self._say("thought", at, 0, delta.get("thinking"))
            self._call(at, 0, {"arguments": delta.get("partial_json")})
            self._end(0, delta.get("stop_reason"))

    def _block(self, at: int, block: Event) -> None:
        kind = block.get("type")
        self._say("text", at, 0, block.get("text"))
        self._say("thought", at, 0, block.get("thinking"))
        if kind in ("thinking", "redacted_thinking"):
            self.flags.add("hidden_reasoning")
        if kind in ("tool_use", "server_tool_use"):
            given = block.get("input")
            arguments = msgspec.json.encode(given).decode() if given is not None else None
            self._call(at, 0, {"name": block.get("name"), "arguments": arguments})

    def _end(self, number: int, reason: object) -> None:
        if isinstance(reason, str) and reason != "in_progress" and len(self.finished) < PARTS_MAX:
            self.finished[number] = reason

    def _seal(self, number: int, item: Event) -> None:
        sealed = item.get("encrypted_content") if item.get("type") == "reasoning" else None
        if isinstance(sealed, str) and sealed and len(self.sealed) < PARTS_MAX:
            self.sealed[number] = len(sealed)

    def _call(self, number: int, within: int, function: object) -> None:
        """Names come whole, arguments in pieces; some providers repeat the name in every piece."""
        if not isinstance(function, Mapping):
            return
        name = function.get("name")
        if isinstance(name, str) and name:
            part = self._part("call", number, within)
            if part is not None and part.name != name:
                part.name += name
                self._measure(name)
        self._say("call", number, within, function.get("arguments"))

    def _say(self, kind: str, number: int, within: int, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        self._measure(text)
        part = self._part(kind, number, within) if self.characters <= TEXT_CHARACTERS_MAX else None
        if part is None:
            self.dropped += len(text)
            self.flags.add("estimated")
        else:
            part.append(text)

    def _measure(self, text: str) -> None:
        self.characters += len(text)
        self.text_bytes += len(text) if text.isascii() else len(text.encode(errors="replace"))

    def _part(self, kind: str, number: int, within: int) -> Part | None:
        key = (kind, number, within)
        part = self.parts.get(key)
        if part is None and len(self.parts) < PARTS_MAX:
            part = self.parts[key] = Part()
        return part


def _mappings(value: object) -> Iterable[Event]:
    return [item for item in sequence(value) if isinstance(item, Mapping)]


def _number(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
