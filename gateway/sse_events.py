"""One SSE event as bytes: where it ends, what it carries, whether it may be of interest. Pure functions and tables.

An event ends at a blank line. Lines end in LF, CRLF or CR, mixed as they come. JSON is parsed only where an event may
say something about the call, which the names in `Family.news` show: in JSON they stand between bare quotes only as keys
or as whole values, since quotes inside a string are escaped.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

HEAD_BYTES: Final = 4 * 1024
"""Bytes at the beginning of an event in which its name and the type of its data are looked for."""

_BOM: Final = b"\xef\xbb\xbf"


class Family(msgspec.Struct, frozen=True):
    """What to look for in one endpoint family's streams."""

    news: re.Pattern[bytes]
    """Finds a name that an event of interest contains, with a value other than null."""
    text: bytes
    """The key before the text of an answer: all before it is the same in most events of a stream."""
    ends: frozenset[str] = frozenset()
    """Types, as the data tells them, of the events that end a stream. `[DONE]` always does."""
    usage_event: bool = False
    """Whether usage comes as an event of its own when it is asked for."""


def _news(*names: str) -> re.Pattern[bytes]:
    return re.compile(f'"(?:{"|".join(map(re.escape, names))})"(?!: ?null)'.encode())


_CHAT_NAMES: Final = ("usage", "finish_reason", "error")
_RESPONSES_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_MESSAGES_ENDS: Final = frozenset({"message_stop"})
_MEDIA_ENDS: Final = frozenset(
    {"transcript.text.done", "speech.audio.done", "image_generation.completed", "image_edit.completed"}
)

FAMILIES: Final[Mapping[str, Family]] = {
    "chat": Family(_news(*_CHAT_NAMES), b'"delta":', usage_event=True),
    "completions": Family(_news(*_CHAT_NAMES), b'"text":', usage_event=True),
    "responses": Family(_news("response", "error", *_RESPONSES_ENDS), b'"delta":', _RESPONSES_ENDS),
    "messages": Family(_news("usage", "error", *_MESSAGES_ENDS), b'"delta":', _MESSAGES_ENDS),
}
PLAIN: Final = Family(
    _news(*_CHAT_NAMES, "response", *_RESPONSES_ENDS, *_MESSAGES_ENDS, *_MEDIA_ENDS),
    b'"delta":',
    _RESPONSES_ENDS | _MESSAGES_ENDS | _MEDIA_ENDS,
)
"""Any other stream: audio, images, the unknown."""

_START: Final = rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])"
_BLANK: Final = re.compile(rb"\n\n|\n\r\n?|\r\r\n?")
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_COMMENT: Final = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n])):[^\r\n]*(?:\r\n|\n|\r)")
_NAMED: Final = re.compile(rb"(?:event: [^\r\n]*\ndata: \{[^\r\n]*\n\n)+")
_HAS_DATA: Final = re.compile(_START + rb"data:")
_DATA: Final = re.compile(_START + rb"data:[ \t]*([^\s])")
_DONE: Final = re.compile(_START + rb"data:[ \t]*\[DONE\]")
_NAME: Final = re.compile(_START + rb"event:[ \t]*([^\r\n]*)[\r\n]")
_TYPE: Final = re.compile(_START + rb'data:[ \t]*\{\s*"type"\s*:\s*"([^"]*)"')
_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|refusal|arguments|finish_reason)"\s{0,4}:\s{0,4}"[^"]'
)
DONE: Final = b"data: [DONE]\n\n"
"""How all write the event that ends a chat."""
TEXT_PATTERN_BYTES: Final = 32
"""No match of what `carries_text` looks for is longer, in bytes."""


def event_end(buffer: bytes | bytearray, start: int, scan: int, has_cr: bool) -> int:
    """Where the event that begins at `start` ends, after its blank line; -1: it is not complete.

    `scan`: where to look from; all before it was looked at, but the line end just before it. `has_cr`: whether there
    is a CR in the buffer at all. A blank line at `start` is an event of its own, without fields.
    """
    if start == len(buffer):
        return -1
    if buffer[start] in b"\r\n":
        return start + 1
    if not has_cr:
        at = buffer.find(b"\n\n", scan)
        return at + 2 if at >= 0 else -1
    found = _BLANK.search(buffer, scan)
    return found.end() if found else -1


def is_whole(data: bytes) -> bool:
    """Whether this is one event, with lines that end in LF, and nothing else."""
    return 0 < data.find(b"\n\n") == len(data) - 2 and data[0] != 0x0A and b"\r" not in data


def usual_prefix(event: bytes, family: Family) -> bytes:
    """The part of an event that others are likely to share: its head, up to where its text begins. Empty unless the
    chunk is one whole event without news, whose data is one line of JSON after at most a name.

    A chunk with the same prefix, and after it neither news nor a line end but the two at its end, is such an event too.
    """
    lines = event.count(b"\n")
    start = event.find(b"data: {")
    alone = lines == 2 and start == 0
    named = lines == 3 and start > 0 and event.startswith(b"event: ") and event[start - 1] == 0x0A
    if not (alone or named) or not event.endswith(b"\n\n") or b"\r" in event or family.news.search(event):
        return b""
    text = event.find(family.text, start)
    return event[: start + len(b"data: {") if text < 0 else text + len(family.text) + 1]


def usual_events(data: bytes, family: Family) -> int:
    """How many events `data` is, where all of them are whole and as `usual_prefix` wants them; else 0."""
    if data.startswith(b"data: {"):
        events = 1 + data.count(b"\n\ndata: {")
        alike = data.count(b"\n") == 2 * events and data.endswith(b"\n\n") and b"\r" not in data
    else:
        events = data.count(b"\n\n")
        alike = _NAMED.fullmatch(data) is not None
    return events if alike and family.news.search(data) is None else 0


def has_data(event: bytes) -> bool:
    return event.startswith(b"data:") or _HAS_DATA.search(event) is not None


def is_done(event: bytes) -> bool:
    """Whether the data may be `[DONE]`."""
    return not event.startswith(b"data: {") and b"[DONE]" in event and _DONE.search(event) is not None


def payload(event: bytes) -> bytes | None:
    """The event's data with its lines joined; None where it has no data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[len(b"data: ") : -2]
    lines = [line.partition(b":") for line in _LINE.split(event.removeprefix(_BOM))]
    data = [value.removeprefix(b" ") for field, _, value in lines if field == b"data"]
    return b"\n".join(data) if data else None


def may_end_stream(part: bytes | bytearray, ends: frozenset[str]) -> bool | None:
    """Whether an event of which `part` is the beginning ends the stream; None: it cannot be told yet.

    Its name tells, or the first character of its data, or the type where that is the first field, as all providers
    send it.
    """
    name = _NAME.search(part, 0, HEAD_BYTES) if ends else None
    if name and name[1].decode("utf-8", "replace") in ends:
        return True
    if not ends and part.startswith(b"data: {"):
        return False
    data = _DATA.search(part, 0, HEAD_BYTES)
    if data is None or data[1] == b"[":
        return None
    if not ends or data[1] != b"{":
        return False
    kind = _TYPE.search(part, 0, HEAD_BYTES)
    return None if kind is None else kind[1].decode("utf-8", "replace") in ends


def carries_text(part: bytes | bytearray, scan: int = 0) -> bool:
    """Whether there is text of an answer, or the reason of its end: then it is no mere usage event."""
    return _TEXT.search(part, scan) is not None


def carries_only_usage(event: Mapping[str, Any], is_first: bool) -> bool:
    """Whether a parsed chat event has a usage object and nothing else to say.

    OpenAI: `choices` is empty. LiteLLM: each choice has an empty delta and no finish_reason; OpenRouter's deltas
    repeat the role, which is news only in the first event.
    """
    if not isinstance(event.get("usage"), dict) or event.get("error"):
        return False
    return says_nothing(event.get("choices"), is_first)


def says_nothing(choices: Any, is_first: bool) -> bool:
    """Whether these are the choices of an event that has a usage and nothing else to say."""
    if not choices:
        return True
    return isinstance(choices, list) and all(_is_empty_choice(choice, is_first) for choice in choices)


def _is_empty_choice(choice: Any, is_first: bool) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict) or any(value for key, value in delta.items() if is_first or key != "role"):
        return False
    return not any(value for key, value in choice.items() if key not in ("index", "delta"))


def comments(event: bytes) -> bytes:
    """The comment lines inside an event."""
    return b"".join(_COMMENT.findall(event))


def usage_at_end(tail: bytes) -> dict[str, Any] | None:
    """The last usage object in the end of an event that is too large to be parsed."""
    at = tail.rfind(b'"usage"')
    text = tail[at + len(b'"usage"') :].decode("utf-8", "replace").lstrip().removeprefix(":").lstrip()
    if at < 0:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return usage if isinstance(usage, dict) else None
