"""Streams that the gateway ends itself, by family: events as their clients read them, fit to what came before."""

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gateway import farewell
from gateway.refusals import Refusal, response
from gateway.stream_place import Place
from shared.usage import Usage
from tests.harness.fake_families import Asked, messages, responses

USAGE: Final = Usage(input=7, cached=3, output=4, reasoning=1)
PIECES: Final = ["um", " dois", " três"]


def served(family: Any, until: int) -> list[bytes]:
    """The first events of a whole stream."""
    asked = Asked(request={"model": "m", "stream": True}, event_id="e", prompt_tokens=5, pieces=PIECES)
    return list(family(asked).events[:until])


def place_after(name: str, events: list[bytes], size: int = 1) -> Place:
    """Where a stream stands after these events, seen in pieces of `size` events."""
    place = Place(name)
    for start in range(0, len(events), size):
        place.see(b"".join(events[start : start + size]))
    return place


def parsed(data: bytes) -> list[dict[str, Any]]:
    events = []
    for block in data.split(b"\n\n")[:-1]:
        name, _, line = block.rpartition(b"\n")
        event = json.loads(line.removeprefix(b"data: "))
        assert not name or name == b"event: " + event["type"].encode()
        events.append(event)
    return events


EVENT: Final[TypeAdapter[Any]] = TypeAdapter(ResponseStreamEvent)


@pytest.mark.parametrize("until", range(11))
@pytest.mark.parametrize("size", [1, 3, 99])
def test_a_response_may_end_anywhere(until: int, size: int) -> None:
    """After each event: numbered on, by the client's own types, one finished message with the reason as its last words,
    and the answer as it began, incomplete for its length."""
    events = served(responses, until)
    place = place_after("responses", events, size)
    open_part = 4 <= until <= 7
    written = "".join(PIECES[: max(0, until - 4)])
    last = parsed(farewell.responses(place, "id", "m", 1_800_000_000, "\n\n[fim]", written, USAGE))
    assert [event["sequence_number"] for event in last] == list(range(until, until + len(last)))
    for event in last:
        EVENT.validate_python(event)
    end = last[-1]
    assert (end["type"], end["response"]["status"]) == ("response.incomplete", "incomplete")
    assert end["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert end["response"]["usage"]["total_tokens"] == 15
    if until:
        assert end["response"]["id"] == "resp_e"
    said = [event["item"] for event in last if event["type"] == "response.output_item.done"]
    assert said == end["response"]["output"][-1:]
    assert [item["id"] for item in end["response"]["output"][:-1]] == (["msg_1"] if until == 10 else [])
    assert said[0]["content"][0]["text"] == (written if open_part else "") + "\n\n[fim]"
    assert said[0]["id"] == ("msg_1" if open_part else "msg_id")


def test_a_call_that_was_being_written_is_left_open() -> None:
    """Half a function call must not look whole: the reason comes in a message of its own behind it."""
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 2, "delta": "{"}
    call = b"event: x\ndata: " + json.dumps(delta | {"sequence_number": 9}).encode() + b"\n\n"
    last = parsed(farewell.responses(place_after("responses", [call]), "id", "m", 1, "fim", "old", USAGE))
    assert last[0]["type"] == "response.output_item.added"
    assert last[0]["sequence_number"] == 10
    assert {event["output_index"] for event in last if "output_index" in event} == {3}
    assert last[-1]["response"]["output"][0]["content"][0]["text"] == "fim"


@pytest.mark.parametrize("until", range(1, 8))
def test_a_message_may_end_anywhere(until: int) -> None:
    """Blocks are opened once and closed once, in order; the reason is text; the end is that of a full answer."""
    events = served(messages, until)
    last = farewell.messages(place_after("messages", events), "\n\n[fim]", USAGE)
    whole = parsed(b"".join(events) + last)
    open_blocks: list[int] = []
    for event in whole:
        if event["type"] == "content_block_start":
            assert not open_blocks
            open_blocks.append(event["index"])
        elif event["type"] == "content_block_delta":
            assert open_blocks == [event["index"]]
        elif event["type"] == "content_block_stop":
            assert open_blocks.pop() == event["index"]
    assert not open_blocks
    assert [event["type"] for event in whole[-2:]] == ["message_delta", "message_stop"]
    assert whole[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert whole[-2]["usage"] == {"output_tokens": 5}
    text = "".join(event["delta"].get("text", "") for event in whole if event["type"] == "content_block_delta")
    assert text.endswith("\n\n[fim]")


def test_a_tools_input_is_closed_before_the_reason() -> None:
    """A block that is no text is closed as Anthropic closes it, and a text follows."""
    block = b'data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{"}}\n\n'
    last = parsed(farewell.messages(place_after("messages", [block]), "fim", USAGE))
    assert [event["type"] for event in last[:3]] == ["content_block_stop", "content_block_start", "content_block_delta"]
    assert [event["index"] for event in last[:3]] == [1, 2, 2]


@pytest.mark.parametrize("usage", [None, USAGE])
def test_the_older_endpoint_ends_each_of_its_choices(usage: Usage | None) -> None:
    """By the client's own types; usage where it was asked for."""
    *events, done, rest = farewell.completions("m", "cmpl-1", 1, "fim", usage, 3).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    first, *chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert first["choices"][0]["text"] == "fim"
    ended = [choice.index for chunk in map(Completion.model_validate, chunks) for choice in chunk.choices]
    assert ended == [0, 1, 2]
    assert ("usage" in chunks[-1]) == (usage is not None)


@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from(["chat", "responses", "messages"]))
def test_no_event_is_too_much(events: list[bytes], name: str) -> None:
    """Whatever a stream held, it can be ended."""
    shaped = [b'data: {"type":"x","index":0,"output_index":1,"delta":' + event + b"}\n\n" for event in events]
    place = place_after(name, [*events, *shaped])
    assert farewell.responses(place, "id", "m", 1, "fim", "", USAGE)
    assert farewell.messages(place, "fim", USAGE)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("missing_api_key", 401, "authentication_error"),
        ("credit_exhausted", 402, "billing_error"),
        ("model_not_priced", 403, "permission_error"),
        ("unknown_path", 404, "not_found_error"),
        ("body_too_large", 413, "request_too_large"),
        ("not_ready", 503, "api_error"),
        ("upstream_timeout", 504, "timeout_error"),
    ],
)
def test_anthropics_clients_read_a_refusal_in_their_shape(code: str, status: int, kind: str) -> None:
    """The same sentence and status, another object."""
    facts = {"balance": "0", "link": "", "model": "m", "path": "/", "limit_mb": 1}
    theirs = response(Refusal(code, **facts), "en", anthropic=True)
    ours = response(Refusal(code, **facts), "en")
    assert isinstance(theirs.body, bytes)
    assert isinstance(ours.body, bytes)
    error = json.loads(theirs.body)
    assert (theirs.status, error["type"], error["error"]["type"]) == (status, "error", kind)
    assert error["error"]["message"] == json.loads(ours.body)["error"]["message"]
    assert theirs.headers == ours.headers
