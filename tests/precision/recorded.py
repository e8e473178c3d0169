"""Recorded calls as the recount tests read them: what was asked, what came and in which events, what was counted.

README.md beside the data says where they come from; each carries the provider's own usage.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.recount.profiles import is_openai

DATA = Path(__file__).parents[3] / "shared" / "data" / "recorded_calls.jsonl"
"""Recorded calls; absent in a public clone."""

OWN = Path(__file__).with_name("own_calls.jsonl")
"""Calls of our own writing in the same shape. Their usage is what the rules counted when they matched the recorded
calls: it proves nothing about a provider, and shows when a rule changes unawares."""

DEMANDS = ("plain text", "tools", "tool history", "JSON schema", "images")
"""Kinds of requests, in the order of the tables."""

DELTA_CHARACTERS = 7
"""Characters of one event, where an answer that came whole is cut into events."""


class Call(NamedTuple):
    """One record: what was asked, by whom it was answered, what came, and what the provider counted."""

    number: int
    family: str
    model: str
    request: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    body: Mapping[str, Any] | None
    tokens_in: int
    tokens_out: int
    thought: int
    source: str
    """The project whose tests recorded it."""

    @property
    def openai(self) -> bool:
        return is_openai(self.model)


def read(path: Path = DATA) -> Iterator[Call]:
    """The records that carry a usage."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            call = _call(number, record)
            if call is not None:
                yield call


def _call(number: int, record: Mapping[str, Any]) -> Call | None:
    request, body = record["request"], record["response"]
    events = [event for event in record["chunks"] or () if isinstance(event, dict)]
    usage: dict[str, Any] = {}
    answered = ""
    for said in [body] if isinstance(body, dict) else events:
        inner = next((said[key] for key in ("response", "message") if isinstance(said.get(key), dict)), said)
        answered = inner.get("model") or answered
        usage |= inner.get("usage") or said.get("usage") or {}
    path = record["path"].partition("#")[0]
    deployment = path.rpartition("/deployments/")[2].partition("/")[0]
    model = answered or request.get("model") or deployment
    ends = {
        "/chat/completions": "chat",
        "/responses": "responses",
        "/embeddings": "embeddings",
        "/messages": "messages",
    }
    family = next((name for end, name in ends.items() if path.endswith(end)), "")
    tokens_in = usage.get("prompt_tokens", usage.get("input_tokens"))
    if not family or not tokens_in:
        return None
    if "prompt_tokens" not in usage and family == "messages":
        tokens_in += (usage.get("cache_creation_input_tokens") or 0) + (usage.get("cache_read_input_tokens") or 0)
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    tokens_out = usage.get("completion_tokens", usage.get("output_tokens")) or 0
    thought = details.get("reasoning_tokens") or 0
    return Call(number, family, model, request, events, body, tokens_in, tokens_out, thought, record["source_repo"])


def demand_of(request: Mapping[str, Any]) -> str:
    """The most demanding thing in a request, one of DEMANDS."""
    said = json.dumps([request.get("messages"), request.get("input"), request.get("system")])
    if '"image_url"' in said or '"input_image"' in said or '"type": "image"' in said:
        return "images"
    schema = request.get("response_format") or (request.get("text") or {}).get("format") or request.get("output_format")
    if isinstance(schema, Mapping) and schema.get("type") == "json_schema":
        return "JSON schema"
    history = ('"tool_calls": [', '"function_call"', '"tool_use"', '"tool_result"')
    if any(mark in said for mark in history):
        return "tool history"
    if request.get("tools") or request.get("functions"):
        return "tools"
    return "plain text"


def stream(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Events as a provider sends them."""
    return b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events)


def events_of(call: Call) -> Sequence[Mapping[str, Any]]:
    """The call's events; of an answer that came whole, the events it would have come in."""
    if call.body is None:
        return call.events
    if call.family == "chat":
        return [event for choice in call.body.get("choices", ()) for event in _chat_events(choice)]
    if call.family == "responses":
        return [event for at, item in enumerate(call.body.get("output", ())) for event in _responses_events(at, item)]
    return [event for at, block in enumerate(call.body.get("content", ())) for event in _block_events(at, block)]


def thought_ends(event: Mapping[str, Any]) -> bool:
    """Whether a Responses event closes a thought, sealed or not."""
    item = event.get("item")
    done = event.get("type") == "response.output_item.done"
    return done and isinstance(item, Mapping) and item.get("type") == "reasoning"


def _block_events(at: int, block: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    deltas = [{"text": text} for text in _pieces(block.get("text"))]
    deltas += [{"thinking": text} for text in _pieces(block.get("thinking"))]
    if block.get("type") == "tool_use":
        started = {"type": "tool_use", "name": block["name"]}
        yield {"type": "content_block_start", "index": at, "content_block": started}
        deltas += [{"partial_json": text} for text in _pieces(json.dumps(block["input"]))]
    for delta in deltas:
        yield {"type": "content_block_delta", "index": at, "delta": delta}


def _responses_events(at: int, item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Cases: thought, which ends before anything else is said; a call; texts."""
    if item.get("type") == "reasoning":
        yield {"type": "response.output_item.done", "output_index": at, "item": item}
    elif item.get("type") == "function_call":
        yield {"type": "response.output_item.added", "output_index": at, "item": {"name": item["name"]}}
        for text in _pieces(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", "output_index": at, "delta": text}
    for part in item.get("content") or ():
        for text in _pieces(part.get("text")):
            yield {"type": "response.output_text.delta", "output_index": at, "delta": text}


def _chat_events(choice: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    message = choice["message"]
    deltas: list[Mapping[str, Any]] = [{"content": text} for text in _pieces(message.get("content"))]
    for at, made in enumerate(message.get("tool_calls") or ()):
        deltas.append({"tool_calls": [{"index": at, "function": {"name": made["function"]["name"]}}]})
        deltas += [
            {"tool_calls": [{"index": at, "function": {"arguments": text}}]}
            for text in _pieces(made["function"]["arguments"])
        ]
    for delta in deltas:
        yield {"choices": [{"index": choice["index"], "delta": delta}]}


def _pieces(text: object) -> Iterator[str]:
    if isinstance(text, str):
        for at in range(0, len(text), DELTA_CHARACTERS):
            yield text[at : at + DELTA_CHARACTERS]


def produced(family: str, raw: bytes) -> dict[Any, str]:
    """The texts in all whole events of a stream, read the plain way: split, decode, concatenate."""
    texts: dict[Any, str] = {}
    for block in raw.split(b"\n\n")[:-1]:
        event = json.loads(block.removeprefix(b"data:"))
        for key, text in _said(family, event):
            texts[key] = texts.get(key, "") + (text or "")
    return texts


def _said(family: str, event: Mapping[str, Any]) -> Iterator[tuple[Any, str | None]]:
    at = event.get("output_index", event.get("index"))
    if family == "chat":
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            for key in ("content", "refusal", "reasoning_content", "reasoning"):
                if isinstance(delta.get(key), str):
                    yield (choice["index"], key), delta[key]
            for made in delta.get("tool_calls") or ():
                for key in ("name", "arguments"):
                    yield (choice["index"], made.get("index"), key), (made.get("function") or {}).get(key)
    elif family == "responses":
        if event.get("type", "").endswith((".output_text.delta", "_arguments.delta", "_summary_text.delta")):
            yield (at, event["type"]), event["delta"]
        elif event.get("type") == "response.output_item.added":
            yield (at, "name"), event["item"].get("name")
    else:
        delta = event.get("delta") or {}
        yield (at, "text"), delta.get("text")
        yield (at, "thinking"), delta.get("thinking")
        yield (at, "json"), delta.get("partial_json")
        yield (at, "name"), (event.get("content_block") or {}).get("name")


def ended_at(events: Sequence[Mapping[str, Any]]) -> int:
    """How many events come before the first that says that something ended."""
    for at, event in enumerate(events):
        choices = event.get("choices") or ()
        if any(choice.get("finish_reason") for choice in choices) or event.get("type") == "response.output_item.done":
            return at
    return len(events)
