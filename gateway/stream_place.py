"""Where a stream stands: what its own events say that a last event must fit to. Pure; tolerant of anything.

Chat and completions need nothing. Events of the Responses API are numbered, belong to items and their parts, and end
with the whole answer as it began; Anthropic's belong to blocks that are opened and closed.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.answer import parse
from gateway.sse_events import payload

Event = Mapping[str, Any]

ITEMS_MAX: Final = 256
"""Whole items of one answer that are kept."""
ITEM_DONE: Final = b"response.output_item.done"


class Place:
    """Fed with whole events, as the tap hands them out; reads the first and the last ones that matter of each piece."""

    def __init__(self, family: str) -> None:
        self._read: Callable[[Event], bool] | None = None
        if family == "responses":
            self._read = self._responses
        elif family == "messages":
            self._read = self._messages
        self.begun: Event = {}
        """The answer as it was when it began (Responses)."""
        self.number = -1
        """Of the last event (Responses)."""
        self.index = -1
        """Of the last item or block."""
        self.item_id = ""
        self.part = 0
        """Part of the item that is being written (Responses)."""
        self.writing = False
        """Whether the last item or block is text, and open."""
        self.open = False
        """Whether it is open, whatever it is."""
        self.items: list[Event] = []
        """Items that are whole (Responses)."""

    def see(self, raw: bytes) -> None:
        if self._read is None or not raw:
            return
        blocks = raw.replace(b"\r\n", b"\n").split(b"\n\n")
        if not self.begun:
            for block in blocks:
                event = _event(block)
                if isinstance(event.get("response"), dict):
                    self.begun = event["response"]
                    break
        if ITEM_DONE in raw:
            self.items += [event["item"] for event in map(_event, blocks) if _is_whole_item(event)]
            del self.items[ITEMS_MAX:]
        for block in reversed(blocks):
            if self._read(_event(block)):
                break

    def _responses(self, event: Event) -> bool:
        """Whether the event says where the stream is; its number counts in any case."""
        number = event.get("sequence_number")
        if isinstance(number, int):
            self.number = max(self.number, number)
        index, kind = event.get("output_index"), event.get("type")
        if not isinstance(index, int) or not isinstance(kind, str):
            return False
        self.index, self.item_id = index, _text(event.get("item_id"))
        self.part = event["content_index"] if isinstance(event.get("content_index"), int) else 0
        self.open = kind != "response.output_item.done"
        begun = event.get("part") if kind == "response.content_part.added" else None
        begins_text = isinstance(begun, dict) and begun.get("type") == "output_text"
        self.writing = kind == "response.output_text.delta" or begins_text
        return True

    def _messages(self, event: Event) -> bool:
        index, kind = event.get("index"), event.get("type")
        if not isinstance(index, int):
            return False
        part = event.get("delta") if kind == "content_block_delta" else event.get("content_block")
        self.index, self.open = index, kind != "content_block_stop"
        self.writing = self.open and isinstance(part, dict) and part.get("type") in ("text_delta", "text")
        return True


def _is_whole_item(event: Event) -> bool:
    return event.get("type") == "response.output_item.done" and isinstance(event.get("item"), dict)


def _event(block: bytes) -> Event:
    data = payload(block + b"\n\n")
    return (parse(data) if data else None) or {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
