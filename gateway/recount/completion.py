"""Counts an answer that no provider counted: what was produced, as far as it came.

`Transcript.add` costs some microseconds an event and may run anywhere; counting runs the tokenizer and belongs into a
worker thread.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pydantic_core

from gateway.recount.answer import Answer, Key, Part
from gateway.recount.foreign import Foreign, foreign_of
from gateway.recount.history import wrapper
from gateway.recount.profiles import is_openai, may_think, profile_of
from gateway.recount.sealed import sealed_tokens
from gateway.recount.tally import Recount, Tally
from gateway.recount.usual_events import head_of, texts_of
from gateway.recount.vocabulary import encoding_for, load

EVENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest event, and largest answer without events, that is read; a larger one is passed over and flagged."""

EVENT_LINES_MAX: Final = 64
"""Lines that the data of one event may be spread over."""

BYTES_PER_TOKEN_X10: Final = 25
"""Tenths of bytes a token for the cheap estimate: prose has 40 and more, JSON and digits about 27."""

PART_TOKENS: Final = 20
CALL_TOKENS: Final = 60
"""What the cheap estimate adds for each text and each call: what is billed beside them when they end."""

THOUGHT: Final = 2
"""Tokens around a thought of OpenAI's that came sealed."""

SEALED_PER_TOKEN: Final = 5
"""Characters of sealed thought a token in the cheap estimate; it has 6 and more."""

UNREAD_PER_TOKEN: Final = 4
"""Bytes or characters a token, of what could not be kept or read."""

_BOM: Final = b"\xef\xbb\xbf"


class _Delta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    content: str
    role: str | None = None
    refusal: None = None


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    delta: _Delta
    index: int = 0
    finish_reason: str | None = None
    logprobs: None = None


class _Chunk(msgspec.Struct, frozen=True):
    """The usual event of a chat: one piece of text, and nothing else of the answer."""

    choices: tuple[_Choice]


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class Ending(msgspec.Struct, frozen=True):
    """What an answer that came to its end bills beside its texts: recipients, channels, the final mark. In tokens."""

    text: int
    call: int
    calls: int
    """Several calls at once, beside the wrapper that holds them."""


_ENDINGS: Final = {
    ("chat", False): Ending(text=0, call=7, calls=8),
    ("chat", True): Ending(text=10, call=18, calls=18),
    ("responses", False): Ending(text=1, call=8, calls=8),
    ("responses", True): Ending(text=4, call=11, calls=11),
}
"""(family, whether the model thinks) → what was measured of OpenAI's models."""


def count_completion(family: str, model: str, raw: bytes | Mapping[str, Any]) -> Recount:
    """Tokens of an answer: the bytes received so far (events or JSON, cut anywhere), or a whole parsed answer.

    An answer that was cut counts exactly the tokens of the text in its whole events. One that ended, and says why,
    counts also what OpenAI bills beside the text. Raises VocabularyMissing.
    """
    transcript = Transcript(family)
    if isinstance(raw, Mapping):
        transcript.take_answer(raw)
    else:
        transcript.add(bytes(raw))
    return transcript.count(model)


class Transcript(Answer):
    """An answer gathered from its raw bytes, which may be cut anywhere. Memory: its text, and one event.

    One thread adds. Another may count meanwhile, on copies: it sees some moment between two pieces of text.
    """

    def __init__(self, family: str) -> None:
        super().__init__(family)
        self._events = 0
        self._spoken = 0
        """Events that brought text: the first one of a chat, and its last ones, bring none."""
        self._added = 0
        self._rest = b""
        self._data: list[bytes] = []
        self._skipping = False
        self._begun = False
        # The last usual event and its choice, and how usual events begin.
        self._usual = b""
        self._choice = 0
        self._head = b""

    def add(self, raw: bytes) -> None:
        """Takes the next bytes of the answer, decompressed and in order."""
        self._added += len(raw)
        if not (self._head and self._add_usual(raw)):
            self._add(raw)
            self._head = head_of(self._usual)

    def _add_usual(self, raw: bytes) -> bool:
        """Takes whole events that are all alike; False: they are read one by one."""
        found = None if self._rest or self._data or self._skipping else texts_of(raw, self._head)
        if found is None:
            return False
        self._events += found.events
        self._spoken += found.spoken
        self.take_text(self._choice, found.text, None)
        return True

    def _add(self, raw: bytes) -> None:
        data = self._rest + raw if self._rest else raw
        if not self._begun:
            data = data.removeprefix(_BOM)
            self._begun = len(data) >= len(_BOM)
        if self._is_json(data):
            self._rest = data
        elif b"\r" not in data:
            *lines, self._rest = data.split(b"\n")
            for line in lines:
                self._line(line)
        else:
            start = 0
            while (end := _line_end(data, start)) >= 0:
                self._line(data[start:end])
                start = end + 1
            self._rest = data[start:]
        if len(self._rest) > EVENT_BYTES_MAX:
            self._rest = b""
            self._skipping = True
            self.flags.add("estimated")

    def estimate(self) -> int:
        """Tokens so far without the tokenizer, to extend a hold by: from the size of the text, or the events if more.

        High on purpose; docs/precision.md says how far above, and how seldom below.
        """
        texts = sum(PART_TOKENS if kind != "call" else CALL_TOKENS for kind, _, _ in self.parts)
        return max(self._seen + texts, self._events if self.parts else 0)

    def likely(self) -> int:
        """Tokens so far without the tokenizer, rather too few: an event of text holds one or more, and the size of the
        text says twice the truth at most."""
        return min(self.estimate(), max(self._seen // 2, self._spoken))

    @property
    def _seen(self) -> int:
        return self.text_bytes * 10 // BYTES_PER_TOKEN_X10 + sum(self.sealed.values()) // SEALED_PER_TOKEN

    @property
    def overhead_bytes(self) -> int:
        """What an event has beside its text, as a mean."""
        return max(0, self._added - self.text_bytes) // max(1, self._events)

    def count(self, model: str) -> Recount:
        """Tokens so far in the vocabulary of `model`; more may be added afterwards. Raises VocabularyMissing."""
        unread = self._read_json() + self.dropped
        foreign = foreign_of(model)
        tally = Tally(load(foreign.vocabulary) if foreign else encoding_for(model))
        tally.flags |= self.flags
        if may_think(model):
            tally.flag("hidden_reasoning")
        if not is_openai(model):
            tally.flag("estimated")
        sealed = self.sealed.copy()
        thoughts = {number: tokens for number, size in sealed.items() if (tokens := sealed_tokens(model, size))}
        parts = [each for each in self.parts.copy().items() if each[0][0] != "thought" or each[0][1] not in thoughts]
        if thoughts:
            tally.flag("estimated")
            tally.add(sum(thoughts.values()))
        if foreign:
            _estimate_parts(tally, parts, foreign, bool(self.finished))
        else:
            known = is_openai(model)
            tally.add(THOUGHT * len(thoughts))
            ending = _ENDINGS.get((self.family, profile_of(model).reasoning)) if known else None
            _count_parts(tally, parts, self, ending)
        tally.add(unread // UNREAD_PER_TOKEN)
        return tally.recount()

    def _is_json(self, data: bytes) -> bool:
        return not self._events and not self._skipping and data.lstrip()[:1] == b"{"

    def _read_json(self) -> int:
        """Reads the answer where it is one JSON object, as far as it came; bytes that could not be read."""
        if not self._is_json(self._rest):
            return 0
        body = _decode(self._rest) or _decode_cut(self._rest)
        if body is None:
            self.flags.add("estimated")
            return len(self._rest)
        self.take_answer(body)
        self._rest = b""
        return 0

    def _line(self, line: bytes) -> None:
        """Cases: the end of an event too large; the end of an event; its data; the rest.

        Data of one event may stand in several lines. Some servers leave the empty line between events out: what is
        whole JSON when more data begins was an event of its own.
        """
        if self._skipping:
            self._skipping = False
        elif not line or not line.strip():
            self._event()
            self._data.clear()
        elif line.startswith(b"data:"):
            if self._data and (self._event() or len(self._data) >= EVENT_LINES_MAX):
                self._data.clear()
            self._data.append(line[5:])

    def _event(self) -> bool:
        """Takes the event that the data gathered so far is, if it is one."""
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        before = self.text_bytes
        if not (self.family == "chat" and self._take_chunk(data)):
            event = _decode(data)
            if event is None:
                return False
            self.take_event(event)
        self._events += 1
        self._spoken += self.text_bytes > before
        return True

    def _take_chunk(self, data: bytes) -> bool:
        """Takes a usual event without building what nobody reads of it. False: it may be another one."""
        try:
            choice = _decode_chunk(data).choices[0]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        self._usual, self._choice = data, choice.index
        self.take_text(choice.index, choice.delta.content, choice.finish_reason)
        return True


def _count_parts(tally: Tally, parts: Sequence[tuple[Key, Part]], answer: Answer, ending: Ending | None) -> None:
    """Cases, for each choice: 1. it was cut, or another provider's; 2. it ended with text; 3. with calls."""
    calls: dict[int, list[tuple[int, Part]]] = {}
    texts: set[int] = set()
    finished = answer.finished.copy()
    for (kind, number, _), part in parts:
        if kind == "call":
            group = 0 if answer.family == "responses" else number
            calls.setdefault(group, []).append((number, part))
        else:
            texts.add(number)
            tally.text(part.text)
    for made in calls.values():
        ended = ending if all(number in finished for number, _ in made) else None
        forced = len(made) == 1 and finished.get(made[0][0]) == "stop"
        _count_calls(tally, [part for _, part in made], ended, forced)
    if ending:
        tally.add(ending.text * sum(number not in calls for number in texts & finished.keys()))


def _estimate_parts(tally: Tally, parts: Sequence[tuple[Key, Part]], foreign: Foreign, ended: bool) -> None:
    """Texts scaled as prompts are; an answer that ended, and its calls, with what such answers were seen to bill."""
    calls = tokens = 0
    for (kind, _, _), part in parts:
        calls += kind == "call"
        tokens += sum(tally.length(text) for text in (part.name, part.text) if text)
    tally.add(tokens * foreign.text_percent // 100)
    if ended:
        tally.add(foreign.ending_text + calls * foreign.ending_call)


def _count_calls(tally: Tally, calls: list[Part], ending: Ending | None, forced: bool) -> None:
    """Cases: cut; several at once, in one wrapper; one that was forced, whose name the prompt holds; one."""
    if ending and len(calls) > 1:
        tally.text(wrapper((call.name, call.text) for call in calls))
        tally.add(ending.calls)
        return
    for call in calls:
        tally.text(call.text)
        if not (ending and forced):
            tally.text(call.name)
            tally.add(ending.call if ending else 0)


def _decode(data: bytes) -> Mapping[str, Any] | None:
    try:
        event = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _line_end(data: bytes, start: int) -> int:
    """Where the line that begins at `start` ends: LF, CRLF, or CR alone, which may not be the last byte."""
    end = data.find(b"\n", start)
    lone = data.find(b"\r", start, end if end >= 0 else len(data) - 1)
    return lone if lone >= 0 and lone + 1 != end else end


def _decode_cut(data: bytes) -> Mapping[str, Any] | None:
    """What came of an object that was cut: a text that was begun ends where it was cut."""
    try:
        body = pydantic_core.from_json(data, allow_partial="trailing-strings")
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
