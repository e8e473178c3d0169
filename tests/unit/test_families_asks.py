"""What requests of each family ask for: fields that permit, price and bound a call, and wrong ones that are named."""

import json
from typing import Any, Final

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gateway import asks
from gateway.admission import admit
from gateway.asks.searches import SEARCHES_MAX
from gateway.asks.steering import PREFIXES, STEERING
from gateway.asks.text import PROMPTS_MAX
from gateway.families import BASE_PATH, FAMILIES, Family, find
from gateway.headers import to_upstream
from gateway.refusals import Refusal
from shared.pricing import PLAIN_IN, PricedModel
from tests.harness.calls import CATALOG, PLAN, call, caller, event_of

READABLE: Final = [family for family in FAMILIES if family.treatment in ("metered", "flat")]


def family(path: str) -> Family:
    return find("POST", BASE_PATH + path)


def read(path: str, **fields: Any) -> asks.Ask:
    return asks.read(family(path), {"model": "m", "input": "x"} | fields)


def field_of(path: str, **fields: Any) -> str:
    """The field that a refusal names."""
    with pytest.raises(Refusal) as caught:
        read(path, **fields)
    assert caught.value.code == "invalid_field"
    return str(caught.value.facts["field"])


@pytest.mark.parametrize("one", READABLE, ids=lambda one: one.path)
def test_every_metered_family_has_a_reader(one: Family) -> None:
    """A model, how it is sold, and at least one answer."""
    ask = asks.read(one, {"model": "m", "input": "x"})
    assert (ask.model, ask.sold, ask.choices) == ("m", one.sold, 1)


@pytest.mark.parametrize("one", READABLE, ids=lambda one: one.path)
def test_nobody_steers_the_proxy_behind_us(one: Family) -> None:
    """A field that LiteLLM would take for its own is refused in every family, whatever it says; null says nothing."""
    for name in (*STEERING, *(prefix + "x" for prefix in PREFIXES)):
        for value in ({"model": "dearer"}, ["dearer"], "dearer", 0, False, ""):
            assert field_of(one.path, **{name: value}) == name
        assert read(one.path, **{name: None}).model == "m"


@pytest.mark.parametrize(
    "name",
    ["extra_body", "fallbacks", "router_settings_override", "api_key", "timeout", "silent_model", "mock_response"],
)
def test_what_was_seen_to_steer_is_refused(name: str) -> None:
    """By name, so that none of them can leave the list unseen."""
    assert field_of("/chat/completions", **{name: "x"}) == name


@pytest.mark.parametrize("given", [b'{"input":"x"}', b'{ "model" : null, "input":"x" }', b'{"input":"x","n":1e2}'])
def test_what_is_checked_is_told_which_model_was_priced(given: bytes) -> None:
    """A moderation may leave its model out: then the one that it is priced as is sent, with all that came."""
    made = admit(event_of(1), caller(), family("/moderations"), given, PLAN, CATALOG, 0, 0.0)
    assert made.ask.model == "omni-moderation-latest"
    assert json.loads(made.body) == {**json.loads(given), "model": "omni-moderation-latest"}
    named = b'{"model":"m","input":"x"}'
    assert admit(event_of(1), caller(), family("/moderations"), named, PLAN, CATALOG, 0, 0.0).body == named


@pytest.mark.parametrize("one", READABLE, ids=lambda one: one.path)
def test_a_model_must_be_named(one: Family) -> None:
    """But for moderation, which has a usual one."""
    for wrong in (None, "", " ", 5, ["m"], "a\nb", "x" * 300, "m,dearer", "m, m"):
        if one.name == "moderations" and wrong is None:
            assert asks.read(one, {"input": "x"}).model == "omni-moderation-latest"
        else:
            assert field_of(one.path, model=wrong) == "model"


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        ("/responses", "stream", [1, "true"]),
        ("/responses", "max_output_tokens", [0, -1, 1.5, "9", True]),
        ("/responses", "background", [True, 1, "no"]),
        ("/responses", "prompt", [{"id": "pmpt_1"}, {}, "pmpt_1"]),
        ("/completions", "n", [0, 129, "2"]),
        ("/completions", "best_of", [0, 129, 2.0]),
        ("/completions", "max_tokens", [0, "9"]),
        ("/completions", "stream_options", [[], "x"]),
        ("/completions", "prompt", [["x"] * (PROMPTS_MAX + 1)]),
        ("/messages", "max_tokens", [0, "9"]),
        ("/messages", "stream", ["yes"]),
        ("/images/generations", "n", [0, 11, "2"]),
        ("/audio/speech", "input", [None, 5, ["a"]]),
    ],
)
def test_a_field_of_a_wrong_type_is_named(path: str, field: str, values: list[Any]) -> None:
    """What the gateway would read otherwise than the upstream is refused."""
    for value in values:
        assert field_of(path, **{field: value}) == field, value


def test_a_stream_of_images_has_one() -> None:
    """As at OpenAI: the first whole image ends it."""
    assert field_of("/images/generations", n=2, stream=True) == "n"
    assert read("/images/generations", n=1, stream=True).stream


def test_every_answer_that_is_made_is_counted() -> None:
    """`best_of` answers are made where fewer are shown, and each prompt has its own."""
    for fields, choices in (
        ({"prompt": "a"}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4),
        ({"prompt": [1, 2, 3], "n": 2}, 2),
        ({"prompt": "a", "n": 2, "best_of": 5}, 5),
        ({"prompt": []}, 1),
    ):
        assert read("/completions", **fields).choices == choices, fields


@pytest.mark.parametrize("path", ["/responses", "/chat/completions", "/messages"])
def test_tools_that_are_billed_apart_are_refused(path: str) -> None:
    """Images, sessions, shells and searches of files that a provider runs itself would be free; those of the web are
    counted, and functions run at the client's. What is no list of tools is the upstream's to refuse."""
    counted: Any = [
        {"type": "web_search"},
        {"type": "function", "name": "image_generation"},
        {"type": "shell"},
        {"type": "shell", "environment": {"type": "local"}},
        {"type": "shell", "environment": {"type": ["x"]}},
        {"type": ["x"]},
        "x",
        None,
    ]
    other: Any = (counted, None, [], {}, "image_generation", {"type": "image_generation"})
    for tools in other:
        assert read(path, tools=tools).model == "m"
    for kind in ("image_generation", "code_interpreter", "file_search", "code_execution_20250825"):
        assert field_of(path, tools=[*counted, {"type": kind, "model": "gpt-image-1"}]) == "tools"
    for maps in ("googleMaps", "google_maps"):
        assert field_of(path, tools=[*counted, {maps: {}}]) == "tools"
    for hosted in ("container_auto", "container_reference"):
        assert field_of(path, tools=[{"type": "shell", "environment": {"type": hosted}}]) == "tools"


@pytest.mark.parametrize("path", ["/messages", "/chat/completions"])
def test_claude_thinks_where_it_is_told_to(path: str) -> None:
    """Other models may think untold. A budget of thought must fit into what is held."""
    assert read(path).thinks
    assert not read(path, model="claude-sonnet-4-5").thinks
    assert not read(path, model="anthropic/claude-opus-4-1", thinking={"type": "disabled"}).thinks
    budgeted = read(path, model="claude-opus-4-1", thinking={"type": "enabled", "budget_tokens": 2_000})
    assert (budgeted.thinks, budgeted.least_output) == (True, 2_001)
    assert field_of(path, thinking={"type": "enabled", "budget_tokens": "x"}) == "budget_tokens"


def test_claude_thinks_in_a_chat_as_hard_as_it_is_told_to() -> None:
    """LiteLLM makes a budget of the effort."""
    assert read("/chat/completions", model="claude-sonnet-4-5", reasoning_effort="low").thinks
    assert not read("/chat/completions", model="claude-sonnet-4-5", reasoning_effort="none").thinks


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, ""),
        ({"speed": "fast"}, "@fast"),
        ({"inference_geo": "us"}, "@us"),
        ({"speed": "fast", "inference_geo": "us"}, "@fast,us"),
        ({"speed": "standard", "inference_geo": "global", "service_tier": "auto"}, ""),
        ({"speed": 1, "inference_geo": ["us"]}, ""),
    ],
)
def test_what_is_dearer_at_anthropic_is_a_tier(fields: dict[str, Any], tier: str) -> None:
    """Fast, and within the United States; its service tiers by name are priced alike."""
    assert read("/messages", **fields).service_tier == tier


@pytest.mark.parametrize(
    ("path", "fields", "allowed"),
    [
        ("/chat/completions", {}, 0),
        ("/chat/completions", {"tools": [{"type": "function", "function": {"name": "web_search"}}, "x", None]}, 0),
        ("/chat/completions", {"model": "gpt-4o-search-preview"}, 1),
        ("/chat/completions", {"model": "gpt-4o-search-preview", "web_search_options": {}}, 1),
        ("/chat/completions", {"web_search_options": {}}, 5),
        ("/chat/completions", {"web_search_options": {"search_context_size": "low"}}, 1),
        ("/chat/completions", {"web_search_options": {"search_context_size": "high"}}, 10),
        ("/chat/completions", {"web_search_options": {"search_context_size": ["high"]}}, 5),
        ("/chat/completions", {"web_search_options": None}, 0),
        ("/chat/completions", {"tools": [{"googleSearch": {}}]}, 5),
        ("/responses", {"tools": [{"type": "web_search_preview"}]}, 5),
        ("/responses", {"tools": [{"type": "web_search"}], "max_tool_calls": 3}, 3),
        ("/responses", {"tools": [{"type": "web_search"}], "max_tool_calls": 30}, 5),
        ("/responses", {"tools": "web_search"}, 0),
        ("/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}, 8),
        ("/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 5),
        ("/completions", {"prompt": "x"}, 0),
    ],
)
def test_searches_that_a_request_allows(path: str, fields: dict[str, Any], allowed: int) -> None:
    """As it says, else as many as are usual; functions of that name are the client's own."""
    assert read(path, **fields).searches == allowed


def test_a_number_of_searches_must_be_one() -> None:
    """A wrong one is named; where nothing is searched it is the upstream's to refuse."""
    for wrong in (0, -1, "3", 1.5, True, SEARCHES_MAX + 1):
        tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": wrong}
        assert field_of("/messages", tools=[tool]) == "max_uses"
        assert field_of("/responses", tools=[{"type": "web_search"}], max_tool_calls=wrong) == "max_tool_calls"
        assert read("/responses", max_tool_calls=wrong).searches == 0


def test_modalities_name_further_kinds() -> None:
    """Sound and images in an answer have rates of their own."""
    assert read("/chat/completions", modalities=["text", "audio"]).kinds_out == ("output", "reasoning", "audio_out")
    assert read("/chat/completions", modalities=["image"]).kinds_out == ("output", "reasoning", "image_out")
    assert read("/chat/completions", modalities="audio").kinds_out == ("output", "reasoning")


def test_kinds_of_input_are_held_for_where_the_body_has_them() -> None:
    """Sound in a message, a cache of an hour: only where the model has a rate for them."""
    rates = {"input": 1, "output": 1, "audio_in": 9, "cache_write_1h": 3}
    catalog = CATALOG.__class__(
        version=1,
        price_version=1,
        models={"m": PricedModel(model="m", rates=rates), "n": PricedModel(model="n", rates={"input": 1, "output": 1})},
        cards=CATALOG.cards,
        plans=CATALOG.plans,
    )
    for model, more, kinds in (
        ("m", b'"messages":[{"type":"input_audio"}]', (*PLAIN_IN, "audio_in")),
        ("m", b'"cache_control":{"type":"ephemeral","ttl":"1h"}', (*PLAIN_IN, "cache_write_1h")),
        ("m", b'"messages":[]', PLAIN_IN),
        ("n", b'"messages":[{"type":"input_audio"}]', PLAIN_IN),
    ):
        body = b'{"model":"%b",%b}' % (model.encode(), more)
        made = admit(event_of(1), caller("ana"), family("/chat/completions"), body, PLAN, catalog, 1, 0.0)
        assert made.ask.kinds_in == kinds, more


def test_only_chats_ask_for_usage() -> None:
    """Other families report it unasked: their bodies go on as they came."""
    for path in ("/responses", "/messages"):
        body = b'{ "model":"gpt-mini", "stream":true, "max_tokens": 5 }'
        made = admit(event_of(1), caller("ana"), family(path), body, PLAN, CATALOG, 1, 0.0)
        assert made.body is body
        assert not made.strip_usage


@pytest.mark.parametrize(
    "given", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"]
)
def test_the_type_of_a_body_is_what_it_was_read_as(given: str) -> None:
    """JSON that is called a form could mean another model to the upstream; of two types one is left."""
    headers = CIMultiDict([("Content-Type", given), ("X-Kept", "1"), ("content-type", "application/json")])
    request = make_mocked_request("POST", "/v1/chat/completions", headers=headers)
    sent = to_upstream(request, call())
    assert [line for line in sent.split(b"\r\n") if line.lower().startswith(b"content-type")] == [
        b"Content-Type: application/json"
    ]
    assert b"\r\nX-Kept: 1\r\n" in sent
