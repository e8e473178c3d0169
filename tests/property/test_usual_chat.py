"""The short way for usual chats says what the general way says, of any body that it reads at all."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import asks
from gateway.admission import Call, admit, parse
from gateway.asks.steering import steers
from gateway.asks.usual import UsualChat, usual_chat
from gateway.refusals import Refusal
from tests.harness.calls import CATALOG, CHAT, MINI, PLAN, caller, event_of

MEDIA_PRICED = msgspec.structs.replace(
    MINI, rates=MINI.rates | {"image_in": 150_000_000, "audio_in": 150_000_000, "cache_write_1h": 150_000_000}
)
ANY_MODEL = msgspec.structs.replace(CATALOG, provisional=MEDIA_PRICED)
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"model": "x"}'}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 600}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}
COUNTS = (None, 0, 1, 128, 129, 4096, 2**31, 2**31 + 1, 1.0, True, "1", -1)

USUAL: Final[dict[str, tuple[object, ...]]] = {
    "stream": (None, True, False),
    "stream_options": ({"include_usage": True},),
    "user": ("ana", None),
    "max_tokens": (None, 1, 4096, 2**31),
    "max_completion_tokens": (None, 2, 100),
    "n": (None, 1, 128),
    "service_tier": (None, "auto", "flex"),
    "reasoning_effort": (None, "none", "high"),
    "tools": (None, [], [FUNCTION], [FUNCTION, FUNCTION]),
    "response_format": (None, {}, {"type": "json_schema", "json_schema": {"schema": {}}}),
    "temperature": (None, 0, 0.5),
    "stop": (None, "a", ["a", "b"]),
    "seed": (1,),
}
"""Fields, and values that the short way is for."""
MODELS = ("gpt-mini", "claude-haiku-4-5", "xai/grok-4")
PARTS = ({"type": "text", "text": "Oi"}, {"type": "text", "text": "", "cache_control": {"type": "x", "ttl": "1h"}})
NO_TEXTS: Final[tuple[dict[str, object], ...]] = ({"type": "text"}, {"type": "text", "text": []}, PARTS[0] | {"x": 1})
MESSAGES: Final[tuple[dict[str, object], ...]] = (
    {"role": "user", "content": "Oi, ação"},
    {"role": "user", "content": list(PARTS)},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "assistant", "tool_calls": CALLS, "reasoning_content": "hm", "refusal": None},
    {"role": "tool", "content": "10:00", "tool_call_id": "c1", "name": "f"},
)
"""None of them with what might be a second model: that is an odd one."""

ODD: Final[dict[str, tuple[object, ...]]] = {
    "model": (
        *("gpt-4o-search-preview", "a,b", "a\tb", " ", "", "x" * 256, "x" * 257, "ação", None, 7, ["gpt-mini"]),
        *("gpt-oss:120b", "gpt-mini"),
    ),
    "messages": (
        [{"role": "user", "content": "model"}, {"role": "user", "content": '"model": "\\u006d"'}],
        *(None, "text", [1], [None], {}, [{"content": "no role"}], [{"role": 3, "content": "x"}]),
        *([{"role": "user", "content": odd}] for odd in (3, {"type": "text"}, [IMAGE], [*PARTS, IMAGE], [{}, "x"])),
        *([{"role": "user", "content": [{"type": kind, "text": "x"}]}] for kind in ("refusal", "thinking", "x", 1)),
        *([{"role": "user", "content": [part]}] for part in NO_TEXTS),
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 300}}]}],
        [{"role": "tool", "content": [{"type": "tool_result", "content": [IMAGE]}]}],
        [{"role": "user", "content": "", "output": [IMAGE]}],
        [{"role": "user", "content": "", "model": "x", "further": {"model": 1}}],
        [{"role": "assistant", "tool_calls": [CALLS[0] | {"model": 1}]}],
    ),
    "stream": (1, "true", []),
    "stream_options": (
        *(None, {}, {"include_usage": False}, {"include_usage": None}, {"include_usage": 1}, [], True),
        {"include_usage": True, "include_obfuscation": False},
    ),
    "user": ("rui", 3, ["ana"]),
    "max_tokens": COUNTS,
    "max_completion_tokens": COUNTS,
    "n": COUNTS,
    "max_tool_calls": COUNTS,
    "service_tier": (1, "priority@fast"),
    "reasoning_effort": (1, [], "None"),
    "tools": (
        *({}, ["f"], [None], [{"type": "function"}], [{"function": {"name": "f"}}], [{"googleSearch": {}}]),
        *([{"type": "web_search_preview", "max_uses": 2}], [{"type": "custom", "custom": {}}], [{"googleMaps": {}}]),
        *([{"type": "code_interpreter"}], [{"type": "image_generation", "function": {}}], [FUNCTION | {"x": 2}]),
        *([FUNCTION | {"environment": {"type": "container"}}], [{"type": "x", "function": {}}], [{"type": 1}]),
        [{"type": "function", "function": {"parameters": {"properties": {"model": {"type": "string"}}}}}],
    ),
    "response_format": ({"type": "text"}, "", 1, {"json_schema": {"properties": {"model": {}}}}),
    "thinking": (None, {"type": "disabled"}, {"type": "enabled", "budget_tokens": 2048}),
    "web_search_options": (None, {}, {"search_context_size": "low"}),
    "modalities": (["text"], ["text", "audio"], ["image"]),
    **dict.fromkeys(("output_format", "output_config", "text"), (None, {"type": "json_schema"})),
    **dict.fromkeys(("previous_response_id", "conversation"), (None, "r-1")),
    "input": ([{"content": [{"type": "input_image"}]}],),
    **dict.fromkeys(("num_retries", "mock_response", "_x", "extra_body"), (None, 1)),
    **dict.fromkeys(
        (*UsualChat.__struct_fields__[UsualChat.__struct_fields__.index("temperature") :], "further", "metadata"),
        (None, 0, 0.5, True, 1e30, 10**30, 10**400, "model", ["a"], [1], {"a": [1]}, {"model": {"model": 1}}),
    ),
}
"""Fields, and values that are wrong, or seldom, or not for the short way."""


def pairs(fields: dict[str, tuple[object, ...]]) -> list[tuple[str, object]]:
    return [(name, value) for name, values in fields.items() for value in values]


def body_of(fields: list[tuple[str, object]], escaped: str = "", *, ascii_only: bool = False) -> bytes:
    """A JSON object with these fields in this order, any of them more than once; in each name one letter `escaped`."""
    escape = f"\\u{ord(escaped):04x}" if escaped else ""
    return (
        b"{%b}"
        % ", ".join(
            f'"{name.replace(escaped, escape, 1) if escaped else name}": {json.dumps(value, ensure_ascii=ascii_only)}'
            for name, value in fields
        ).encode()
    )


def admitted(body: bytes) -> Call | tuple[str, dict[str, object]]:
    """The call, or its refusal."""
    try:
        return admit(event_of(1), caller("ana"), CHAT, body, PLAN, ANY_MODEL, 1, 0.0)
    except Refusal as refusal:
        return refusal.code, refusal.facts


def assert_both_ways_agree(*bodies: bytes) -> None:
    """The same is asked, held for and sent upstream, or the same is refused for the same reason."""
    found = [admitted(body) for body in bodies]
    with patch("gateway.admission.usual_chat", return_value=None):
        for body, call in zip(bodies, found, strict=True):
            assert call == admitted(body), body


def one_odd_field() -> Iterator[bytes]:
    """Usual bodies with one field more, before and behind the others, where it may be there already."""
    for model, stream in zip(MODELS, (True, False, True), strict=True):
        plain: list[tuple[str, object]] = [("model", model), ("messages", MESSAGES), ("stream", stream)]
        for odd in pairs(USUAL) + pairs(ODD):
            yield body_of([odd, *plain])
            yield body_of([*plain, odd])
            yield body_of([*(field for field in plain if field[0] != odd[0]), odd])


def test_one_odd_field_makes_no_difference() -> None:
    """Each of those that are listed above, alone."""
    assert_both_ways_agree(*one_odd_field())


SPECIAL = (
    b'{"model":"m","messages":[],"tools":[{"type":"function","function":{"model":1,"model":2}}]}',
    b'{"model":"m","messages":[],"tools":[{"type":"function","function":{"model":1,"mod\\u0065l":2}}]}',
    b'{"model":"m","messages":[],"response_format":{"mode\\u006c":1,"\\u006dodel":2}}',
    b'{"model":"m","messages":[],"tools":[{"type":"function","function":{"model":1}}]}',
    b'{"model":"m","model":"m","messages":[]}',
    b'{"model":"m","messages":[],"mod\\u0065l":"n"}',
    b'{"model":"m","messages":[],"stream_options":{"include_usage":true,"include_usage":false},"stream":true}',
    b'{"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":9}',
    b'\n {"model":"m","messages":[],"stream":true}\n',
    b'{"model":"m","messages":[],"stream":true,}',
    b'{"model":"m","messages":[],"stop":"' + b"\xff" + b'"}',
    b'{"model":"m","messages":[],"tools":[{"type":"function","function":' + b"[" * 2_000 + b"]" * 2_000 + b"}]}",
)


@pytest.mark.parametrize("body", SPECIAL, ids=range(len(SPECIAL)))
def test_what_no_list_of_fields_has_is_seen_by_both(body: bytes) -> None:
    """Fields that stand twice, also nested and spelt with escapes; two that say the same; broken, bottomless bodies."""
    assert_both_ways_agree(body)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Usual fields, now and then an odd one, or one twice; sometimes escapes in their names, or a wrong byte."""
    fields: list[tuple[str, object]] = [
        ("model", draw(st.sampled_from(MODELS))),
        ("messages", draw(st.lists(st.sampled_from(MESSAGES), max_size=4))),
    ]
    fields += draw(st.lists(st.sampled_from(pairs(USUAL)), max_size=6))
    fields += draw(st.just([]) | st.lists(st.sampled_from(pairs(ODD)), max_size=2))
    body = body_of(
        list(draw(st.permutations(fields))),
        draw(st.sampled_from(["", "", "", *"oetm"])),
        ascii_only=draw(st.booleans()),
    )
    if draw(st.integers(0, 5)) == 5:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 1)) :]
    return body


@settings(max_examples=300)
@given(bodies())
def test_any_combination_makes_no_difference(body: bytes) -> None:
    """Several of them, in any order."""
    assert_both_ways_agree(body)


def test_what_is_usual_is_admitted_without_a_look_at_the_rest() -> None:
    """Where the short way answers, the general one is not asked; it would not refuse the body for what it says."""
    usual = [body for body in one_odd_field() if usual_chat(body) is not None]
    assert len(usual) > 100
    for body in usual:
        asks.read(CHAT, parse(body))
        with patch("gateway.admission.parse", side_effect=AssertionError), contextlib.suppress(Refusal):
            admit(event_of(1), caller("ana"), CHAT, body, PLAN, ANY_MODEL, 1, 0.0)


SENT: dict[str, dict[str, Any]] = {
    "LibreChat": {"model": "m", "user": "ana", "stream": True, "messages": [{"role": "user", "content": "Oi"}]},
    "its title": {"model": "m", "user": "ana", "stream": False, "messages": [{"role": "user", "content": "Oi"}]},
    "an agent with tools": {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": MESSAGES,
        "tools": [FUNCTION],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    },
    "a user's parameters": {
        "model": "m",
        "messages": [],
        "temperature": 0.7,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.5,
        "stop": ["x"],
        "max_tokens": 100,
        "reasoning_effort": "low",
    },
}


@pytest.mark.parametrize("name", SENT)
def test_what_clients_send_is_usual(name: str) -> None:
    """The bodies that the short way is for take it."""
    assert usual_chat(json.dumps(SENT[name]).encode()) is not None


def test_no_field_that_steers_is_usual() -> None:
    """Such a field would pass unseen."""
    assert not [name for name in UsualChat.__struct_fields__ if steers(name)]
