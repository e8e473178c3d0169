"""What an answer says about itself: model, usage, service tier, how it ended, an error. Pure, and tolerant of anything.

One reader for whole JSON answers and for the events of a stream, told apart by their own shape, so that an unknown
endpoint is read as well as it can be.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.usual_answer import UsualEvent, usual_event
from shared.usage import Usage
from shared.usage_rules import absurd, counts, credible

_WRAPPED: Final = {"images": "image_", "transcription": "transcript."}
"""Families of which LiteLLM (1.106) reads no streams, and how the types of their events begin. What the provider
streamed comes as one text in a whole answer: of a transcription in `text`, of images in the message of an error."""
_EVENT_DATA: Final = "data: "
_BOM: Final = b"\xef\xbb\xbf"
_decode = msgspec.json.Decoder().decode


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Texts are empty, objects None, where the answer says nothing."""

    model: str = ""
    usage_raw: dict[str, Any] | None = None
    """The usage object as parsed, for shared.usage_rules."""
    usage_absurd: bool = False
    service_tier: str = ""
    finish_reason: str = ""
    error: dict[str, Any] | None = None
    images: int = 0
    """Images in the answer of an image endpoint; those in an error, too."""
    quality: str = ""
    size: str = ""
    """Of these images."""


def read_answer(family: str, body: bytes) -> Answer:
    """Reads a JSON answer that was not streamed. Whatever is no JSON object gives an Answer with nothing in it."""
    found = parse(body)
    if found is None:
        return Answer()
    reading = Reading(family)
    reading.take(found)
    data = found.get("data")
    images = len(data) if family == "images" and isinstance(data, list) and not reading.error else 0
    if family in _WRAPPED and reading.usage_raw is None:
        for event in _wrapped(found, _WRAPPED[family]):
            reading.take(event)
            images += "b64_json" in event and "partial_image_index" not in event
    usage_raw = reading.usage_raw
    if family == "transcription" and usage_raw is None and "duration" in found:
        usage_raw = {"type": "duration", "seconds": found["duration"]}  # `verbose_json` of older models
    return Answer(
        model=reading.model,
        usage_raw=usage_raw,
        usage_absurd=reading.usage_absurd,
        service_tier=reading.service_tier,
        finish_reason=reading.finish_reason,
        error=reading.error,
        images=images,
        quality=_text(found.get("quality")),
        size=_text(found.get("size")),
    )


def _wrapped(found: Mapping[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The events of a stream that came as a text, those whose type begins with `kind`."""
    error = found.get("error")
    text = _text(found.get("text")) or _text(error.get("message") if isinstance(error, dict) else None)
    for line in text.splitlines() if _EVENT_DATA in text else ():
        event = parse(line.removeprefix(_EVENT_DATA).encode()) if line.startswith(_EVENT_DATA) else None
        if event is not None and _text(event.get("type")).startswith(kind):
            yield event


def parse(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else. Takes what strict JSON forbids: broken UTF-8, lone surrogates, NaN."""
    data = data.removeprefix(_BOM)
    value: Any
    try:
        value = _decode(data)
    except (ValueError, RecursionError):
        try:
            value = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
    if isinstance(value, list) and len(value) == 1:  # Gemini's OpenAI endpoint wraps its errors so
        value = value[0]
    return value if isinstance(value, dict) else None


class Reading:
    """What has been read so far of one answer; later events override earlier ones."""

    __slots__ = (
        *("_family", "_usage_in", "_usage_raw", "error", "finish_reason", "model", "service_tier"),
        *("usage", "usage_absurd", "usage_cost_usd", "usage_partial"),
    )

    def __init__(self, family: str) -> None:
        self._family = family
        self.model = ""
        self.service_tier = ""
        self.finish_reason = ""
        self.error: dict[str, Any] | None = None
        self.usage: Usage | None = None
        """The last usage, where it is a usual one: to be believed. Else there may be one in `usage_raw`."""
        self.usage_cost_usd: float | None = None
        """What such a usage says that the call cost."""
        self._usage_raw: dict[str, Any] | None = None
        self._usage_in = b""
        """The event that has it, where it was not parsed."""
        self.usage_partial = False
        """Whether `usage_raw` is only the first half of Anthropic's: its output is not counted yet."""
        self.usage_absurd = False
        """Whether the last usage object had counts that cannot be, and was passed over or is to be."""

    @property
    def usage_raw(self) -> dict[str, Any] | None:
        """The last credible usage object, else the last one; of Anthropic's stream, both of its halves in one."""
        if self._usage_in:
            event, self._usage_in = parse(self._usage_in), b""
            self._usage_raw = event and event["usage"]
        return self._usage_raw

    def take_usual(self, data: bytes) -> UsualEvent | None:
        """One event's data of a chat's stream, where it is a usual one: as `take` reads it. None: nothing was read."""
        event = usual_event(data)
        if event is None:
            return None
        if event.usage is not None:
            usage = event.usage.counted()
            if usage is None:
                return None
            self.usage, self.usage_cost_usd, self._usage_in = usage, event.usage.cost, data
            self.usage_absurd = self.usage_partial = False
        self.model = event.model or self.model
        self.service_tier = (event.usage and event.usage.service_tier) or event.service_tier or self.service_tier
        for choice in event.choices or ():
            self.finish_reason = _text(choice.get("finish_reason")) or self.finish_reason
        return event

    def take(self, event: Mapping[str, Any]) -> None:
        """`event`: a whole answer or one event's data. Three of them wrap what they are about: the life-cycle events
        of the Responses API in `response`, Anthropic's `message_start` in `message`, Groq's last one in `x_groq`."""
        kind = event.get("type")
        body = event
        for wrapper in ("response", "message"):
            inner = event.get(wrapper)
            if isinstance(inner, dict):
                body = inner
        self.model = _text(body.get("model")) or self.model
        self.service_tier = _text(body.get("service_tier")) or self.service_tier
        self.finish_reason = _finish_reason(event, body) or self.finish_reason
        self.error = _error(event, body) or self.error

        usage = body.get("usage")
        if usage is None and isinstance(groq := event.get("x_groq"), dict):
            usage = groq.get("usage")
        if isinstance(usage, dict) and usage:
            tools = body.get("tool_usage")
            if isinstance(tools, dict):
                usage = {**usage, "tool_usage": tools}
            elif searches := _searches(body):
                usage = {**usage, "tool_usage": {"web_search": {"num_requests": searches}}}
            self._take_usage(usage, _text(kind))

    def _take_usage(self, usage: dict[str, Any], kind: str) -> None:
        self.service_tier = _text(usage.get("service_tier")) or self.service_tier
        # Of Anthropic's the first half has a placeholder for the output, which stands until the second one counts it.
        partial = kind == "message_start"
        if kind == "message_delta" and self.usage_raw is not None:
            partial = self.usage_partial and not counts(usage.get("output_tokens"))
            usage = _merged(self.usage_raw, usage)
        before, self.usage = self.usage_raw, None
        if not credible(usage, family=self._family):
            self.usage_absurd = absurd(usage, family=self._family)
            if credible(before, family=self._family):
                return
        else:
            self.usage_absurd = False
        self._usage_raw = usage
        self.usage_partial = partial


def _merged(start: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's two halves. Both are cumulative, so the later one counts; but a zero in it takes nothing back,
    because relays fill in zeros for what they do not know at that point."""
    known = {key: value for key, value in delta.items() if value is not None and (value or not start.get(key))}
    return {**start, **known}


def _searches(body: Mapping[str, Any]) -> int:
    """Searches of the web among the items of a Responses answer: the usage of older ones does not count them.

    Pages that are opened, and searched within, cost nothing."""
    items = body.get("output")
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    actions = [item.get("action") for item in found if item.get("type") == "web_search_call"]
    return sum(not isinstance(action, dict) or action.get("type") in (None, "search") for action in actions)


def _finish_reason(event: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """Chat: the last choice's; Anthropic: the stop reason; Responses: the reason of an incomplete one, else status."""
    choices = event.get("choices")
    for choice in reversed(choices) if isinstance(choices, list) else ():
        if isinstance(choice, dict) and _text(choice.get("finish_reason")):
            return _text(choice["finish_reason"])
    delta = event.get("delta")
    reason = _text(body.get("stop_reason")) or _text(delta.get("stop_reason") if isinstance(delta, dict) else None)
    details = body.get("incomplete_details")
    status = _text(body.get("status"))
    if reason or status in ("", "in_progress", "queued"):
        return reason
    return _text(details.get("reason") if isinstance(details, dict) else None) or status


def _error(event: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The error's own object, with a `message` where the answer has one; None where nothing went wrong."""
    error = event.get("error") or body.get("error")
    if not error and event.get("type") == "error":
        error = {key: value for key, value in event.items() if key != "type"}
    if not error:
        return None
    return error if isinstance(error, dict) else {"message": str(error)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
