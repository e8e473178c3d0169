"""`Caller`: an account that calls through the whole chain, each call compared with what the demo upstream served."""

import asyncio
from typing import Any, Final

import httpx

from tests.harness.up import Up
from tests.harness.waiting import until

CLIENT_S_MAX: Final = 60.0

DOUBTED: Final = "gpt-4.1-nano"
DOUBTED_CLAUDE: Final = "claude-haiku-4-5"
"""Models of which the demo is made to report what cannot be: LiteLLM's own costs of their calls are no measure."""
PRICES: Final[dict[str, dict[str, int]]] = {
    "gpt-4o-mini": {"input": 150, "cached": 75, "output": 600},
    "gpt-4.1-nano": {"input": 100, "cached": 25, "output": 400},
    "claude-haiku-4-5": {"input": 1_000, "output": 5_000},
    "o4-mini": {"input": 1_100, "cached": 275, "output": 4_400, "reasoning": 4_400},
    "gpt-3.5-turbo-instruct": {"input": 1_500, "output": 2_000},
    "text-embedding-3-small": {"input": 20},
    "claude-sonnet-4-5": {
        "input": 3_000,
        "cached": 300,
        "cache_write": 3_750,
        "cache_write_1h": 6_000,
        "output": 15_000,
    },
    "gpt-image-1": {"input": 5_000, "image_in": 10_000, "image_out": 40_000},
    "dall-e-3": {"images": 40_000_000},
    "hd/1024-x-1792/dall-e-3": {"images": 120_000_000},
    "tts-1": {"characters": 15_000},
    "gpt-4o-mini-tts": {"input": 600, "audio_out": 12_000},
    "gpt-4o-transcribe": {"input": 2_500, "audio_in": 2_500, "output": 10_000},
    "whisper-1": {"duration_ms": 100},
    "omni-moderation-latest": {"requests": 0},
}
"""Millicredits per unit: the providers' published prices, 1 credit being 1 micro-USD."""


def kinds(usage: dict[str, Any]) -> dict[str, int]:
    """What the demo served, by the kinds that have a price: all of it disjoint, nothing that is zero."""

    def inside(*path: str) -> int:
        value: Any = usage
        for name in path:
            value = (value or {}).get(name)
        return value or 0

    if "seconds" in usage:
        return {"duration_ms": usage["seconds"] * 1_000}
    beside = "cache_read_input_tokens" in usage
    cached = inside("cache_read_input_tokens") if beside else inside("prompt_tokens_details", "cached_tokens")
    cached += inside("input_tokens_details", "cached_tokens")
    audio_in = inside("input_token_details", "audio_tokens")
    image_in = inside("input_tokens_details", "image_tokens")
    reasoning = inside("completion_tokens_details", "reasoning_tokens")
    reasoning += inside("output_tokens_details", "reasoning_tokens")
    read = inside("prompt_tokens") + inside("input_tokens")
    made = inside("completion_tokens") + inside("output_tokens") - reasoning
    found = {
        "input": read - audio_in - image_in - (0 if beside else cached),
        "cached": cached,
        "cache_write": inside("cache_creation", "ephemeral_5m_input_tokens"),
        "cache_write_1h": inside("cache_creation", "ephemeral_1h_input_tokens"),
        "audio_in": audio_in,
        "image_in": image_in,
        "output": made,
        "reasoning": reasoning,
        "images": inside("images"),
        "characters": inside("characters"),
        "requests": inside("requests"),
    }
    return {kind: count for kind, count in found.items() if count}


def units_of(receipt: dict[str, Any]) -> dict[str, int]:
    """What was billed, by kind."""
    return {line["kind"]: line["units"] for line in receipt["lines"]}


class Caller:
    """One account, and what was served for it, call by call."""

    def __init__(self, up: Up, secret: str) -> None:
        self.up = up
        self.secret = secret
        self.client = up.client(secret)
        self.http = httpx.Client(
            base_url=up.env["OPENAI_BASE_URL"], headers={"x-api-key": secret}, timeout=CLIENT_S_MAX
        )
        self._served = len(up.served())

    def served(self) -> dict[str, Any]:
        """What the demo says of the call that was made since the last time: exactly one."""
        [line] = self._new(1)
        return line

    def nothing_served(self) -> None:
        assert self._new(0) == []

    def _new(self, number: int) -> list[dict[str, Any]]:
        lines = self.up.served()

        async def come() -> bool:
            nonlocal lines
            lines = self.up.served()
            return len(lines) - self._served >= number

        asyncio.run(until(come))
        new, self._served = lines[self._served :], len(lines)
        return new

    def check(self, answer: Any, family: str, *, booked_as: str = "", **expected: Any) -> dict[str, Any]:
        """The receipt of `answer`: as the demo says of this very call, as the provider's word where nothing else is
        `expected`, and at the price of the model (or of `priced_as`)."""
        served = self.served()
        assert served["family"] == family, served
        receipt = self.up.receipt(answer.headers["x-sundial-call-id"])
        units, told = units_of(receipt), kinds(served["usage"])
        if receipt["family"] == "images" and "output" in told:
            told["image_out"] = told.pop("output")
        wanted = {"evidence": "provider", "outcome": "complete", "flags": [], "priced_as": served["model"]} | expected
        assert {name: receipt[name] for name in wanted} == wanted
        assert receipt["family"] == (booked_as or family)
        assert units == told
        prices = PRICES[receipt["priced_as"]]
        assert receipt["charge"] == sum(count * prices[kind] for kind, count in units.items())
        assert receipt["charge"] == receipt["provider_cost_nano"] == receipt["recomputed"]
        if receipt["upstream_cost_nano"] and receipt["evidence"] == "provider" and family != "transcription":
            assert receipt["upstream_cost_nano"] == receipt["provider_cost_nano"]
        return receipt
