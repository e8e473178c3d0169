"""Each provider's usage object, as documented or as LiteLLM renders it, becomes disjoint counts."""

from typing import Any

import pytest

from shared.usage import Usage
from shared.usage_rules import SHAPES, credible, normalise

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
