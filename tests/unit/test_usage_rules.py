"""Doubtful usage objects: what the total settles, what is cut and flagged, what is no evidence at all."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.usage import COUNT_MAX, Usage
from shared.usage_rules import SHAPES, Normalised, absurd, credible, normalise, upstream_cost_nano


def test_hidden_reasoning_shows_in_the_total_at_gemini() -> None:
    """Gemini's OpenAI endpoint counts thoughts in the total only: reasoning there, a contradiction elsewhere."""
    raw = {"prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 250}
    found = normalise(raw, family="chat", provider="gemini")
    assert (found.usage, found.flags) == (Usage(input=8, output=10, reasoning=232), ("by_total",))
    found = normalise(raw, family="chat", provider="openai")
    assert (found.usage, found.flags) == (Usage(input=8, output=10), ("inconsistent",))


def test_a_cache_beside_the_input_is_told_by_the_total() -> None:
    """Where only the sum with the cached tokens gives the total, they come on top of the input."""
    raw = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45, "cache_read_input_tokens": 30}
    assert normalise(raw, family="chat").usage == Usage(input=10, cached=30, output=5)
    raw["total_tokens"] = 15
    raw["cache_read_input_tokens"] = 3
    assert normalise(raw, family="chat").usage == Usage(input=7, cached=3, output=5)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (
            {"prompt_tokens": 78, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 158}},
            Usage(cached=78, output=9),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 9}},
            Usage(input=5, reasoning=4),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "prompt_tokens_details": {"image_tokens": 6}},
            Usage(image_in=5, output=4),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 7}, Usage(input=5, output=4)),
    ],
)
def test_parts_larger_than_their_whole_are_cut(raw: dict[str, Any], usage: Usage) -> None:
    """A detail beyond its total is cut to it, so that tokens in and out stay what the provider totals; flagged."""
    assert normalise(raw, family="chat") == Normalised(usage, ("inconsistent",))


def test_cached_tokens_may_be_images() -> None:
    """Parts that can overlap are no contradiction: the cache is served first, images get what it left."""
    raw = {
        "prompt_tokens": 265,
        "completion_tokens": 52,
        "total_tokens": 317,
        "prompt_tokens_details": {"cached_tokens": 162, "text_tokens": 9, "image_tokens": 256},
    }
    found = normalise(raw, family="chat")
    assert (found.usage, found.flags) == (Usage(cached=162, image_in=103, output=52), ())


@pytest.mark.parametrize(
    ("value", "count", "right"),
    [
        (None, 0, True),
        ("12", 12, True),
        (" 12 ", 12, True),
        (12.0, 12, True),
        ("1e2", 100, True),
        (COUNT_MAX, COUNT_MAX, True),
        (COUNT_MAX + 1, COUNT_MAX, False),
        (1e30, COUNT_MAX, False),
        (10**400, COUNT_MAX, False),
        (float("inf"), COUNT_MAX, False),
        (float("-inf"), 0, False),
        (float("nan"), 0, False),
        ("nan", 0, False),
        (-1, 0, False),
        ("-7", 0, False),
        (True, 0, False),
        ("many", 0, False),
        ("9" * 10_000, 0, False),
        ([], 0, False),
        ({"a": 1}, 0, False),
    ],
)
def test_what_stands_for_a_count(value: Any, count: int, right: bool) -> None:
    """Nulls, numbers as text and whole floats are taken; all else is cut to 0 … COUNT_MAX, flagged and not credible."""
    raw = {"prompt_tokens": value, "completion_tokens": 3}
    found = normalise(raw, family="chat")
    assert found.usage == Usage(input=count, output=3)
    assert ("absurd" in found.flags) is not right
    assert credible(raw, family="chat") is right
    assert absurd({"total_tokens": 31, **raw}, family="chat") is not right


@pytest.mark.parametrize("raw", [None, {}, {"other": 1}, {"prompt_tokens": 0, "completion_tokens": 0}, [], "x", 7])
def test_nothing_counted_is_no_evidence(raw: Any) -> None:
    """No object, an unknown one and one of zeros count nothing and are not credible."""
    assert normalise(raw, family="chat").usage.is_zero
    assert not credible(raw, family="chat")


def test_unknown_objects_and_foreign_tools_are_flagged() -> None:
    """An object without a known count, and tokens of a hosted image tool, are said and not booked."""
    assert normalise({"units": 5}, family="chat").flags == ("unrecognised",)
    raw = {"input_tokens": 5, "output_tokens": 5, "tool_usage": {"image_gen": {"total_tokens": 900}}}
    assert normalise(raw, family="responses").flags == ("tool_tokens",)


def test_what_litellm_may_have_counted_is_flagged() -> None:
    """The two forms in which it reports a stream without details; what a provider gives in full, or another family."""
    told = {"completion_tokens": 5, "prompt_tokens": 15, "total_tokens": 20}
    made = {"completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 5}}
    assert normalise({**told, **made}, family="chat") == Normalised(Usage(input=15, output=5), ("by_proxy",))
    assert normalise({**told, **made, "prompt_tokens_details": {"cached_tokens": 0}}, family="chat").flags == ()
    assert normalise(told, family="chat").flags == ()
    told = {"input_tokens": 15, "output_tokens": 5, "total_tokens": 20}
    assert normalise(told, family="responses").flags == ("by_proxy",)
    assert normalise({**told, "output_tokens_details": {"reasoning_tokens": 0}}, family="responses").flags == ()
    assert normalise(told, family="transcription").flags == ()


def test_the_request_says_what_answers_do_not() -> None:
    """Images and characters come from the request, beside tokens or without them."""
    assert normalise(None, family="images", request={"n": 3}).usage == Usage(images=3)
    assert normalise({}, family="images", request={"prompt": "a"}).usage == Usage(images=1)
    assert normalise(None, family="images", request={"n": "2"}).usage == Usage(images=2)
    assert normalise(None, family="images", request={"n": -4}).usage == Usage(images=1)
    assert normalise(None, family="speech", request={"input": "olá 🌻"}).usage == Usage(characters=5)
    assert normalise(None, family="chat", request={"n": 3, "input": "a"}).usage == Usage()
    raw = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    assert normalise(raw, family="images", request={"n": 1}).usage == Usage(input=1, image_out=2, images=1)
    zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert normalise(zeros, family="images", request={"n": 1}).usage == Usage(images=1)


@pytest.mark.parametrize(
    ("raw", "nano"),
    [
        ({"cost": 0.00123}, 1_230_000),
        ({"cost": 5.85e-05}, 58_500),
        ({"cost": 0}, 0),
        ({"cost": {"total_cost": 0.00502, "currency": "USD"}}, 5_020_000),
        ({"cost": None, "cost_in_usd_ticks": 4_000_000}, 400_000),
        ({"cost_in_usd_ticks": 5}, 0),
        ({"cost": "0.5"}, 500_000_000),
        ({"cost": -1}, 0),
        ({"cost": float("nan")}, 0),
        ({"cost": float("inf")}, 0),
        ({"cost": 1e30}, 0),
        ({"cost": 10**400}, 0),
        ({"cost_in_usd_ticks": 10**400}, 0),
        ({"cost": True}, 0),
        ({"cost": "free"}, 0),
        ({"cost": []}, 0),
        ({}, 0),
        (None, 0),
    ],
)
def test_the_upstream_s_own_cost(raw: dict[str, Any] | None, nano: int) -> None:
    """The cost that LiteLLM, OpenRouter, Perplexity or xAI computed comes in nano-USD; an absurd one is none."""
    assert upstream_cost_nano(raw) == nano


keys = st.sampled_from(
    sorted(
        {
            name
            for shape in SHAPES
            for part in (*shape.marks, *shape.cached, *shape.reasoning, *shape.audio_in, *shape.total)
            for name in part.split(".")
        }
        | {"iterations", "cache_creation", "tool_usage", "cost", "prompt_tokens_details", "completion_tokens_details"}
    )
)
numbers = st.integers() | st.integers(0, 100) | st.floats() | st.text(max_size=4) | st.booleans() | st.none()
values = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(keys, values, max_size=8), st.sampled_from(["chat", "messages", "responses", "images"]))
def test_anything_gives_possible_counts(raw: dict[str, Any], family: str) -> None:
    """Whatever object comes in, no count is negative or beyond COUNT_MAX, and nothing is raised."""
    for provider in ("", "xai", "gemini"):
        usage = normalise(raw, family=family, provider=provider, request=raw).usage
        assert all(0 <= getattr(usage, name) <= COUNT_MAX for name in usage.__struct_fields__)
    assert credible(raw, family=family) in (True, False)
    assert upstream_cost_nano(raw) >= 0


counts = st.integers(0, 10_000)


@settings(max_examples=300, deadline=None)
@given(counts, counts, counts, counts, counts, counts)
def test_parts_sum_to_what_openai_reports(
    tokens_in: int, tokens_out: int, cached: int, image: int, reasoning: int, audio: int
) -> None:
    """Disjoint kinds always sum to prompt_tokens and completion_tokens, whatever the details say."""
    raw = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": cached, "image_tokens": image, "audio_tokens": audio},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": audio},
    }
    usage = normalise(raw, family="chat", provider="openai").usage
    assert (usage.tokens_in, usage.tokens_out) == (tokens_in, tokens_out)
    assert usage.cached == min(cached, tokens_in)
    assert usage.reasoning == min(reasoning, tokens_out)
