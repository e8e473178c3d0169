"""The table: where each provider's usage object keeps its counts, and how to tell the objects apart."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from shared.usage_rules.counts import count

Place = Literal["inside", "beside"]
"""Whether a part is counted in its whole too, or comes on top of it."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Where one shape keeps each count. Dotted paths; the first that has a value wins. Empty: this shape has none."""

    name: str
    marks: tuple[str, ...]
    """Top-level keys of which at least one is there."""
    input: tuple[str, ...] = ()
    input_beside: tuple[str, ...] = ()
    """Further tokens read, each added to the input."""
    output: tuple[str, ...] = ()
    total: tuple[str, ...] = ()
    unbilled: tuple[str, ...] = ()
    """Tokens that only the total contains and that are not billed."""
    cache: Place = "inside"
    cached: tuple[str, ...] = ()
    cached_audio: tuple[str, ...] = ()
    """Part of `cached` and of `audio_in`."""
    cache_write: tuple[str, ...] = ()
    cache_write_5m: tuple[str, ...] = ()
    cache_write_1h: tuple[str, ...] = ()
    audio_in: tuple[str, ...] = ()
    image_in: tuple[str, ...] = ()
    thinking: Place = "inside"
    reasoning: tuple[str, ...] = ()
    audio_out: tuple[str, ...] = ()
    image_out: tuple[str, ...] = ()
    text_out: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    seconds: tuple[str, ...] = ()


_SEARCHES: Final = (
    "server_tool_use.web_search_requests",
    "tool_usage.web_search.num_requests",
    "server_side_tool_usage_details.web_search_calls",
)

_CHAT: Final = Shape(
    name="chat",
    marks=("prompt_tokens", "completion_tokens"),
    input=("prompt_tokens",),
    output=("completion_tokens",),
    total=("total_tokens",),
    unbilled=("prompt_tokens_details.tool_use_tokens",),
    cached=(
        "prompt_tokens_details.cached_tokens",
        "prompt_cache_hit_tokens",
        "cache_read_input_tokens",
        "cached_tokens",
    ),
    cached_audio=("prompt_tokens_details.cached_tokens_details.audio_tokens",),
    cache_write=(
        "prompt_tokens_details.cache_write_tokens",
        "prompt_tokens_details.cache_creation_tokens",
        "cache_creation_input_tokens",
    ),
    cache_write_5m=("prompt_tokens_details.cache_creation_token_details.ephemeral_5m_input_tokens",),
    cache_write_1h=("prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens",),
    audio_in=("prompt_tokens_details.audio_tokens", "audio_prompt_tokens"),
    image_in=("prompt_tokens_details.image_tokens",),
    reasoning=("completion_tokens_details.reasoning_tokens",),
    audio_out=("completion_tokens_details.audio_tokens",),
    image_out=("completion_tokens_details.image_tokens",),
    searches=(*_SEARCHES, "prompt_tokens_details.web_search_requests"),
    seconds=("prompt_audio_seconds",),
)
"""OpenAI, Azure, Mistral, Groq, Together, OpenRouter, Cohere's and Gemini's OpenAI endpoints, Ollama; DeepSeek
(prompt_cache_…); xAI, whose total shows that reasoning is beside; LiteLLM for every provider (cache_… at the top)."""

_RESPONSES: Final = Shape(
    name="responses",
    marks=("input_tokens", "output_tokens"),
    input=("input_tokens",),
    output=("output_tokens",),
    total=("total_tokens",),
    cached=("input_tokens_details.cached_tokens", "cache_read_input_tokens"),
    cached_audio=("input_tokens_details.cached_tokens_details.audio_tokens",),
    cache_write=("input_tokens_details.cache_write_tokens", "cache_creation_input_tokens"),
    audio_in=("input_tokens_details.audio_tokens", "input_token_details.audio_tokens"),
    image_in=("input_tokens_details.image_tokens", "input_token_details.image_tokens"),
    reasoning=("output_tokens_details.reasoning_tokens", "output_tokens_details.thinking_tokens"),
    audio_out=("output_tokens_details.audio_tokens",),
    image_out=("output_tokens_details.image_tokens",),
    text_out=("output_tokens_details.text_tokens",),
    searches=(*_SEARCHES, "input_tokens_details.web_search_requests"),
)
"""OpenAI's later endpoints (responses, images, transcription by tokens), and whoever copies them."""

_ANTHROPIC: Final = Shape(
    name="anthropic",
    marks=("input_tokens", "output_tokens"),
    input=("input_tokens",),
    output=("output_tokens",),
    cache="beside",
    cached=("cache_read_input_tokens",),
    cache_write=("cache_creation_input_tokens",),
    cache_write_5m=("cache_creation.ephemeral_5m_input_tokens",),
    cache_write_1h=("cache_creation.ephemeral_1h_input_tokens",),
    reasoning=("output_tokens_details.thinking_tokens",),
    searches=_SEARCHES,
)
"""Anthropic's own, and what LiteLLM's /v1/messages makes of every provider. It has no total."""

_CONVERSE: Final = Shape(
    name="converse",
    marks=("inputTokens", "outputTokens"),
    input=("inputTokens",),
    output=("outputTokens",),
    total=("totalTokens",),
    cache="beside",
    cached=("cacheReadInputTokens", "cacheReadInputTokenCount"),
    cache_write=("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
    cache_write_1h=("cacheDetails.1h.inputTokens",),
)
"""Bedrock's Converse."""

_GEMINI: Final = Shape(
    name="gemini",
    marks=("promptTokenCount", "candidatesTokenCount"),
    input=("promptTokenCount",),
    input_beside=("toolUsePromptTokenCount",),
    output=("candidatesTokenCount",),
    total=("totalTokenCount",),
    cached=("cachedContentTokenCount",),
    cached_audio=("cacheTokensDetails.AUDIO.tokenCount",),
    audio_in=("promptTokensDetails.AUDIO.tokenCount",),
    image_in=("promptTokensDetails.IMAGE.tokenCount",),
    thinking="beside",
    reasoning=("thoughtsTokenCount",),
    audio_out=("candidatesTokensDetails.AUDIO.tokenCount",),
    image_out=("candidatesTokensDetails.IMAGE.tokenCount",),
)
"""Gemini's own; some of its models count thoughts inside the candidates, which the total shows."""

_PERPLEXITY: Final = Shape(
    name="perplexity",
    marks=("citation_tokens", "num_search_queries"),
    input=("prompt_tokens",),
    input_beside=("citation_tokens",),
    output=("completion_tokens",),
    thinking="beside",
    reasoning=("reasoning_tokens",),
    searches=("num_search_queries",),
)
"""Perplexity's researching models: what they read and thought is billed and in no total."""

_COHERE: Final = Shape(
    name="cohere",
    marks=("billed_units", "tokens"),
    input=("billed_units.input_tokens", "tokens.input_tokens"),
    output=("billed_units.output_tokens", "tokens.output_tokens"),
    searches=("billed_units.search_units",),
)
"""Cohere's own: what it bills, where it says so."""

_DURATION: Final = Shape(name="duration", marks=("seconds",), seconds=("seconds",))
"""Transcription that is sold by time."""

_TOTAL: Final = Shape(name="total", marks=("total_tokens",), input=("total_tokens",))
"""Embeddings of Voyage and others, where all tokens are input."""

SHAPES: Final = (
    _PERPLEXITY,
    _CHAT,
    _RESPONSES,
    _ANTHROPIC,
    _CONVERSE,
    _GEMINI,
    _COHERE,
    _DURATION,
    _TOTAL,
)

_INPUT_FIRST: Final = frozenset({"responses", "messages", "images", "transcription", "speech"})
"""Families whose endpoints say input_tokens: decides where an object carries both sets of names."""
_OPENAI_MARKS: Final = frozenset({"total_tokens", "input_tokens_details", "input_token_details"})
_ANTHROPIC_MARKS: Final = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"})


def shape_of(raw: Mapping[str, Any], family: str) -> Shape | None:
    """The first fitting shape that counts anything; else the first that fits at all."""
    fallback = None
    for shape in _candidates(raw, family):
        fits = False
        for mark in shape.marks:
            value = raw.get(mark)
            if (type(value) is int and value > 0) or isinstance(value, Mapping) or count(value)[0] > 0:
                return shape
            fits = fits or mark in raw
        if fits and fallback is None:
            fallback = shape
    return fallback


def _candidates(raw: Mapping[str, Any], family: str) -> Iterator[Shape]:
    """`input_tokens` is OpenAI's or Anthropic's name: cache counts beside it, and no total, make it Anthropic's."""
    native = not _OPENAI_MARKS.intersection(raw) and bool(_ANTHROPIC_MARKS.intersection(raw))
    named, other = (_ANTHROPIC, _RESPONSES) if native or family == "messages" else (_RESPONSES, _ANTHROPIC)
    if family in _INPUT_FIRST:
        yield named
    for shape in SHAPES:
        if shape is not other:
            yield shape
