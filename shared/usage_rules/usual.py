"""The usual usage object, read at once: what OpenAI's chat endpoints say of most calls, and LiteLLM for any provider.

A short cut through the rules, never another rule: whatever is not plainly usual is left to them. A test compares the
two on any object, and the names here with those of the table: a count that the rules know and this does not would be
taken for nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shared.usage import COUNT_MAX, Usage

FAMILIES: Final = ("chat", "completions")
"""Families whose usage these names are; others begin with other ones."""

Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Zero = Literal[0]
"""What the usual call has none of, and would be priced apart."""


class _Read(msgspec.Struct, frozen=True, gc=False):
    """Parts of the input."""

    cached_tokens: Count | UnsetType | None = UNSET
    audio_tokens: Zero | None = None
    image_tokens: Zero | None = None
    cache_write_tokens: Zero | None = None
    cache_creation_tokens: Zero | None = None
    web_search_requests: Zero | None = None
    tool_use_tokens: Zero | None = None
    cached_tokens_details: None = None
    cache_creation_token_details: None = None


class _Made(msgspec.Struct, frozen=True, gc=False):
    """Parts of the output. Predicted tokens, accepted or not, are billed as output."""

    reasoning_tokens: Count | None = None
    audio_tokens: Zero | None = None
    image_tokens: Zero | None = None
    text_tokens: int | UnsetType | None = UNSET
    """Beside no parts of the input they may say that LiteLLM counted (`by_proxy`)."""


class _Tools(msgspec.Struct, frozen=True, gc=False):
    web_search_requests: Zero | None = None


_NO_READ: Final = _Read()
_NO_MADE: Final = _Made()


class UsualUsage(msgspec.Struct, frozen=True, gc=False):
    """The object as it comes. Decoding raises msgspec.ValidationError where it says more than the usual one; names that
    no rule knows are passed over."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: _Read | None = None
    completion_tokens_details: _Made | None = None
    service_tier: str | None = None
    cost: float | None = None
    """What the upstream says that it cost, in US dollars: for `upstream_cost_nano`."""
    prompt_cache_hit_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cached_tokens: Count | None = None
    cache_creation_input_tokens: Zero | None = None
    server_tool_use: _Tools | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    audio_prompt_tokens: Zero | None = None
    prompt_audio_seconds: Zero | None = None
    citation_tokens: Zero | None = None
    num_search_queries: Zero | None = None
    server_side_tool_usage_details: None = None
    tool_usage: None = None
    iterations: None = None
    cost_in_usd_ticks: None = None
    speed: None = None
    inference_geo: None = None

    def counted(self) -> Usage | None:
        """The disjoint counts, where there are some, they add up and no part is larger than its whole; else None."""
        read, made, total = self.prompt_tokens, self.completion_tokens, self.total_tokens
        if not total or total != read + made:
            return None
        of_read = self.prompt_tokens_details or _NO_READ
        of_made = self.completion_tokens_details or _NO_MADE
        if of_made.text_tokens is not UNSET and of_read.cached_tokens is UNSET:
            return None
        cached, reasoning = of_read.cached_tokens or 0, of_made.reasoning_tokens or 0
        if cached > read or reasoning > made:
            return None
        # These say the same once more, and count where the parts of the input say nothing.
        if not cached and (self.prompt_cache_hit_tokens or self.cache_read_input_tokens or self.cached_tokens):
            return None
        return Usage(input=read - cached, cached=cached, output=made - reasoning, reasoning=reasoning)


def usual(raw: Mapping[str, Any]) -> Usage | None:
    """The usage, where `raw` has input, output and their sum, and beside them at most cached tokens within the input
    and reasoning within the output. None: it says more, or something is wrong."""
    try:
        return msgspec.convert(raw, UsualUsage).counted()
    except ValueError:  # msgspec's own, and that of a name with half a character in it
        return None
