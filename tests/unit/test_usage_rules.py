"""Every provider's usage object becomes the one disjoint Usage; whatever is wrong with it is cut and flagged."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.usage import COUNT_MAX, Usage
from shared.usage_rules import SHAPES, Normalised, credible, normalise, upstream_cost_nano

CASES: dict[str, tuple[str, str, dict[str, Any], Usage]] = {
    "openai chat": (
        "chat",
        "openai",
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 20},
            "completion_tokens_details": {
                "reasoning_tokens": 10,
                "audio_tokens": 5,
                "accepted_prediction_tokens": 3,
                "rejected_prediction_tokens": 2,
            },
        },
        Usage(input=50, cached=30, audio_in=20, output=35, reasoning=10, audio_out=5),
    ),
    "openai chat without details": (
        "chat",
        "openai",
        {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        Usage(input=9, output=4),
    ),
    "openai cached audio": (
        "chat",
        "openai",
        {
            "prompt_tokens": 100,
            "completion_tokens": 0,
            "prompt_tokens_details": {
                "cached_tokens": 40,
                "audio_tokens": 50,
                "cached_tokens_details": {"audio_tokens": 30, "text_tokens": 10},
            },
        },
        Usage(input=40, cached=10, cached_audio=30, audio_in=20),
    ),
    "openai responses": (
        "responses",
        "openai",
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 40},
            "total_tokens": 150,
            "tool_usage": {"web_search": {"num_requests": 2}, "image_gen": {"total_tokens": 0}},
        },
        Usage(input=50, cached=30, cache_write=20, output=10, reasoning=40, searches=2),
    ),
    "completions": (
        "completions",
        "",
        {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        Usage(input=5, output=7),
    ),
    "embeddings": ("embeddings", "openai", {"prompt_tokens": 8, "total_tokens": 8}, Usage(input=8)),
    "voyage embeddings": ("embeddings", "", {"total_tokens": 8}, Usage(input=8)),
    "anthropic": (
        "messages",
        "anthropic",
        {
            "input_tokens": 100,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "output_tokens": 50,
            "server_tool_use": {"web_search_requests": 3},
            "service_tier": "standard",
        },
        Usage(input=100, cached=20, cache_write=10, cache_write_1h=20, output=50, searches=3),
    ),
    "anthropic without the sum of its writes": (
        "messages",
        "",
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": None,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
        Usage(input=1, cache_write=10, cache_write_1h=20, output=2),
    ),
    "anthropic in several passes": (
        "messages",
        "anthropic",
        {
            "input_tokens": 5,
            "output_tokens": 6,
            "iterations": [
                {"type": "compaction", "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 7},
                {"type": "message", "input_tokens": 5, "output_tokens": 6},
            ],
        },
        Usage(input=105, cached=7, output=26),
    ),
    "anthropic shape on an unknown family": (
        "other",
        "",
        {"input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 5},
        Usage(input=10, cached=20, output=5),
    ),
    "bedrock converse": (
        "other",
        "bedrock",
        {
            "inputTokens": 100,
            "outputTokens": 50,
            "totalTokens": 200,
            "cacheReadInputTokens": 20,
            "cacheWriteInputTokens": 30,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 25}, {"ttl": "5m", "inputTokens": 5}],
        },
        Usage(input=100, cached=20, cache_write=5, cache_write_1h=25, output=50),
    ),
    "litellm, anthropic behind it": (
        "chat",
        "anthropic",
        {
            "completion_tokens": 50,
            "prompt_tokens": 150,
            "total_tokens": 200,
            "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 50},
            "prompt_tokens_details": {
                "cache_write_tokens": 30,
                "cached_tokens": 20,
                "text_tokens": 100,
                "cache_creation_tokens": 30,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            },
            "server_tool_use": {"web_search_requests": 2},
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 20,
            "cost": 0.00123,
        },
        Usage(input=100, cached=20, cache_write=10, cache_write_1h=20, output=50, searches=2),
    ),
    "litellm, gemini behind it": (
        "chat",
        "gemini",
        {
            "completion_tokens": 50,
            "prompt_tokens": 100,
            "total_tokens": 150,
            "completion_tokens_details": {"reasoning_tokens": 30, "text_tokens": 20},
            "prompt_tokens_details": {"cached_tokens": 40, "text_tokens": 30, "image_tokens": 30},
            "cache_read_input_tokens": 40,
        },
        Usage(input=30, cached=40, image_in=30, output=20, reasoning=30),
    ),
    "litellm, gemini with tools that are not billed": (
        "chat",
        "gemini",
        {
            "completion_tokens": 5,
            "prompt_tokens": 10,
            "total_tokens": 22,
            "prompt_tokens_details": {"tool_use_tokens": 7},
        },
        Usage(input=10, output=5),
    ),
    "gemini": (
        "other",
        "gemini",
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30,
            "toolUsePromptTokenCount": 4,
            "totalTokenCount": 154,
            "cachedContentTokenCount": 40,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 70},
                {"modality": "IMAGE", "tokenCount": 30},
            ],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 15}],
        },
        Usage(input=34, cached=40, image_in=30, output=5, audio_out=15, reasoning=30),
    ),
    "gemini with thoughts among the candidates": (
        "other",
        "gemini",
        {"promptTokenCount": 10, "candidatesTokenCount": 20, "thoughtsTokenCount": 15, "totalTokenCount": 30},
        Usage(input=10, output=5, reasoning=15),
    ),
    "xai chat": (
        "chat",
        "xai",
        {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 325,
            "prompt_tokens_details": {"text_tokens": 20, "cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 300},
        },
        Usage(input=12, cached=8, output=5, reasoning=300),
    ),
    "xai chat, told by the total alone": (
        "chat",
        "",
        {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 325,
            "completion_tokens_details": {"reasoning_tokens": 300},
        },
        Usage(input=20, output=5, reasoning=300),
    ),
    "xai chat, without a total": (
        "chat",
        "xai",
        {"prompt_tokens": 20, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
        Usage(input=20, output=5, reasoning=3),
    ),
    "xai through litellm": (
        "chat",
        "xai",
        {
            "prompt_tokens": 20,
            "completion_tokens": 305,
            "total_tokens": 325,
            "completion_tokens_details": {"reasoning_tokens": 300},
        },
        Usage(input=20, output=5, reasoning=300),
    ),
    "deepseek": (
        "chat",
        "deepseek",
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input=36, cached=64, output=30, reasoning=20),
    ),
    "mistral": (
        "chat",
        "mistral",
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 2},
            "prompt_audio_seconds": 5,
        },
        Usage(input=7, cached=2, output=4, duration_ms=5000),
    ),
    "groq": (
        "chat",
        "groq",
        {"queue_time": 0.03, "prompt_tokens": 9, "prompt_time": 0.01, "completion_tokens": 4, "total_tokens": 13},
        Usage(input=9, output=4),
    ),
    "moonshot": (
        "chat",
        "",
        {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "cached_tokens": 5},
        Usage(input=4, cached=5, output=4),
    ),
    "openrouter": (
        "chat",
        "openrouter",
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "cost": 0.0015,
            "is_byok": False,
            "prompt_tokens_details": {
                "cached_tokens": 20,
                "cache_write_tokens": 30,
                "audio_tokens": 0,
                "video_tokens": 9,
            },
            "completion_tokens_details": {"reasoning_tokens": 10, "image_tokens": 15, "audio_tokens": 0},
        },
        Usage(input=50, cached=20, cache_write=30, output=25, reasoning=10, image_out=15),
    ),
    "perplexity": (
        "chat",
        "perplexity",
        {"prompt_tokens": 8, "completion_tokens": 15, "total_tokens": 23, "cost": {"total_cost": 0.00502}},
        Usage(input=8, output=15),
    ),
    "perplexity, researching": (
        "chat",
        "perplexity",
        {
            "prompt_tokens": 33,
            "completion_tokens": 7163,
            "total_tokens": 7196,
            "citation_tokens": 19028,
            "num_search_queries": 28,
            "reasoning_tokens": 193524,
        },
        Usage(input=19061, output=7163, reasoning=193524, searches=28),
    ),
    "cohere": (
        "other",
        "cohere",
        {
            "billed_units": {"input_tokens": 5.0, "output_tokens": 7.0, "search_units": 1.0},
            "tokens": {"input_tokens": 71.0, "output_tokens": 9.0},
        },
        Usage(input=5, output=7, searches=1),
    ),
    "images by tokens": (
        "images",
        "openai",
        {
            "input_tokens": 50,
            "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
            "output_tokens": 4160,
            "total_tokens": 4210,
        },
        Usage(input=10, image_in=40, image_out=4160),
    ),
    "images with text": (
        "images",
        "openai",
        {
            "input_tokens": 10,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 10},
            "output_tokens": 300,
            "output_tokens_details": {"image_tokens": 272, "text_tokens": 28},
            "total_tokens": 310,
        },
        Usage(input=10, output=28, image_out=272),
    ),
    "transcription by tokens": (
        "transcription",
        "openai",
        {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
            "output_tokens": 45,
            "total_tokens": 59,
        },
        Usage(input=4, audio_in=10, output=45),
    ),
    "transcription by time": (
        "transcription",
        "openai",
        {"type": "duration", "seconds": 8.47},
        Usage(duration_ms=8470),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_provider_shape(name: str) -> None:
    """The documented shape of each provider gives disjoint counts, without a flag."""
    family, provider, raw, usage = CASES[name]
    found = normalise(raw, family=family, provider=provider)
    assert found.usage == usage
    assert found.flags == ()
    assert credible(raw, family=family)


@pytest.mark.parametrize("name", [name for name in CASES if "alone" not in name and "without a total" not in name])
def test_the_shape_alone_decides(name: str) -> None:
    """Without the provider's name the counts are the same."""
    family, _, raw, usage = CASES[name]
    assert normalise(raw, family=family).usage == usage


def test_every_shape_of_the_table_is_met() -> None:
    """No row of the table is without a case above."""
    marks = [set(raw) for _, _, raw, _ in CASES.values()]
    assert all(any(found.intersection(shape.marks) for found in marks) for shape in SHAPES)


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
