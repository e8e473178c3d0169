"""What one call used, in one shape for every provider.

The kinds of tokens are *disjoint*: their sum is what was processed, and a price is a plain sum of kind times rate.
OpenAI and Gemini count cached tokens inside the input and reasoning inside the output; Anthropic and Bedrock count
cached tokens beside it. The rules that bring each shape here are one table in `shared/usage_rules.py`.
"""

from typing import Final, Literal

import msgspec

Evidence = Literal["provider", "recounted", "checkpoint", "none"]
"""How a usage was counted: the upstream's usage object; our tokenizer over the exact text; the last checkpoint of a
gateway that died; or not at all (sent, never answered)."""

Outcome = Literal["complete", "client_gone", "upstream_error", "timeout", "drained", "exhausted", "lost"]
"""How a call ended. `exhausted`: the credit ran out in mid-stream and the stream was ended well. `lost`: nobody knows,
its gateway was not heard of any more; should its own record come after all, it corrects this one."""

COUNT_MAX: Final = 2**27
"""Largest credible count of any kind in one call; beyond it a usage is clamped and flagged `absurd`. It is some hundred
times the longest context there is, and in ms a day and a half of sound."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Disjoint counts. Tokens: `input` to `image_out`, and `cached_audio`. Other units: `images` to `requests`; seconds
    are kept as ms."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_in: int = 0
    image_in: int = 0
    output: int = 0
    reasoning: int = 0
    audio_out: int = 0
    image_out: int = 0
    images: int = 0
    characters: int = 0
    duration_ms: int = 0
    searches: int = 0
    requests: int = 0
    cached_audio: int = 0
    """Cached tokens that are audio, where the provider tells them apart: not in `cached`."""

    @property
    def tokens_in(self) -> int:
        """All tokens read: what OpenAI calls prompt_tokens."""
        read = self.input + self.cached + self.cached_audio + self.audio_in + self.image_in
        return read + self.cache_write + self.cache_write_1h

    @property
    def tokens_out(self) -> int:
        """All tokens produced: what OpenAI calls completion_tokens."""
        return self.output + self.reasoning + self.audio_out + self.image_out

    @property
    def is_zero(self) -> bool:
        return self == _NOTHING


_NOTHING = Usage()
