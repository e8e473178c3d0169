"""What a usage costs by litellm's price map, in exact decimals straight from the JSON: the tests' second opinion.

Written apart from meter/price_rules and in another way: no tables, no tiers, no fallbacks of kinds; for each kind the
list of keys that may hold its price, and the first that is there counts.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

from shared.usage import Usage

_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_SUFFIX = {"fast": "priority", "priority": "priority", "flex": "flex", "balanced": "balanced", "ultrafast": "ultrafast"}
_IMAGE_MODES = ("image_generation", "image_edit")
_SECONDS = ("output_cost_per_second", "input_cost_per_second")


def exact_nano(name: str, entry: Mapping[str, Any], usage: Usage, service_tier: str) -> int:
    """Nano-USD, rounded half-even once, at the end."""
    with localcontext(_EXACT):
        cost = exact_usd(name, entry, usage, service_tier) * 1_000_000_000
        return int(cost.to_integral_value(rounding=ROUND_HALF_EVEN))


def exact_usd(name: str, entry: Mapping[str, Any], usage: Usage, service_tier: str) -> Decimal:
    with localcontext(_EXACT):
        tier, _, served = service_tier.partition("@")
        by_tokens = [
            Decimal(price) * units
            for kind, price in _token_prices(entry, usage, tier).items()
            if (units := getattr(usage, kind)) and price is not None
        ]
        cost = sum(by_tokens, Decimal(0)) if by_tokens else Decimal(_measured(name, entry, usage))
        if entry.get("mode") == "embedding":
            cost += usage.images * Decimal(entry.get("input_cost_per_image", 0))
        return cost * _uplift(entry, served) + _searched(name, entry, usage)


def _uplift(entry: Mapping[str, Any], served: str) -> Decimal:
    if not served:
        return Decimal(1)
    keys = {"regional": "regional_endpoint_uplift_multiplier"}
    key = keys.get(served, f"regional_processing_uplift_multiplier_{served}")
    return Decimal(entry.get(key) or entry["provider_specific_entry"][served])


def _sells_tokens(entry: Mapping[str, Any]) -> bool:
    keys = [key for key in entry if re.match(r"^(input|output)_cost_per_(\w+_)?token$", key)]
    if entry.get("mode") in (*_IMAGE_MODES, "audio_speech", "audio_transcription", "embedding", "rerank", "search"):
        return any(entry[key] for key in keys) or (bool(keys) and not _piece_price(entry))
    return True


def _piece_price(entry: Mapping[str, Any]) -> bool:
    return any(
        entry.get(key)
        for key in (
            *("input_cost_per_image", "output_cost_per_image", "input_cost_per_pixel"),
            *("input_cost_per_character", "input_cost_per_query", *_SECONDS),
        )
    )


def _measured(name: str, entry: Mapping[str, Any], usage: Usage) -> Decimal:
    if entry.get("mode") in _IMAGE_MODES:
        prices = (entry.get("output_cost_per_image"), entry.get("input_cost_per_image"))
        if price := next((price for price in prices if price), None):
            return usage.images * Decimal(price)
        if size := re.search(r"(\d+)-x-(\d+)", name):
            return usage.images * Decimal(size[1]) * Decimal(size[2]) * Decimal(entry.get("input_cost_per_pixel", 0))
    if entry.get("mode") == "audio_speech":
        return usage.characters * Decimal(entry.get("input_cost_per_character", 0))
    if entry.get("mode") == "audio_transcription":
        second = next((entry[key] for key in _SECONDS if entry.get(key)), 0)
        return Decimal(second) * usage.duration_ms / 1_000
    return Decimal(0)


def _searched(name: str, entry: Mapping[str, Any], usage: Usage) -> Decimal:
    if entry.get("mode") in ("rerank", "search"):
        return usage.searches * Decimal(entry.get("input_cost_per_query", 0))
    price = Decimal((entry.get("search_context_cost_per_query") or {}).get("search_context_size_medium", 0))
    provider = str(entry.get("litellm_provider"))
    google = provider == "gemini" or (provider.startswith("vertex_ai") and "claude" not in name)
    if google and entry.get("web_search_billing_unit") != "per_query":
        return price * min(usage.searches, 1)
    return price * usage.searches


def _token_prices(entry: Mapping[str, Any], usage: Usage, service_tier: str) -> dict[str, Any]:
    """USD per token by kind, None where there is none."""
    if not _sells_tokens(entry):
        return {}
    if service_tier == "batch" and _has_batch(entry):
        return _batch_prices(entry, usage.tokens_in)
    return _standard_prices(entry, usage.tokens_in, _SUFFIX.get(service_tier))


def _has_batch(entry: Mapping[str, Any]) -> bool:
    both = "output_cost_per_token_batches" in entry or not entry.get("output_cost_per_token")
    return "input_cost_per_token_batches" in entry and both


def _standard_prices(entry: Mapping[str, Any], tokens_in: int, suffix: str | None) -> dict[str, Any]:
    row = _row(entry, tokens_in)
    inclusive = entry.get("litellm_provider") == "xai"

    def chain(key: str) -> list[str]:
        """Thresholds that are crossed, dearest first, then the plain price; each in the service tier's own first."""
        numbers = {int(n) * (1000 if k else 1): f"{n}{k}" for n, k in _thresholds(entry)}
        crossed = [number for number in numbers if tokens_in > number or (inclusive and tokens_in == number)]
        bases = [*(f"{key}_above_{numbers[number]}_tokens" for number in sorted(crossed, reverse=True)), key]
        return [name for base in bases for name in ([f"{base}_{suffix}", base] if suffix else [base])]

    if row:
        input_ = row["input_cost_per_token"]
        output = _find(row, ["output_cost_per_token"], _find(entry, ["output_cost_per_token"], None))
        cached = _find(row, ["cache_read_input_token_cost"], input_)
        write = _find(row, ["cache_creation_input_token_cost"], input_)
        hour = _find(row, ["cache_creation_input_token_cost_above_1hr"], write)
        reasoning = _find(row, ["output_cost_per_reasoning_token", "output_cost_per_token"], output)
    else:
        input_ = _find(entry, chain("input_cost_per_token"), None)
        plain = chain("output_cost_per_token")
        above, flat = plain[: -2 if suffix else -1], plain[-2 if suffix else -1 :]
        output = _find(entry, flat, None) or _find(entry, ["output_cost_per_image_token"], _find(entry, flat, None))
        output = _find(entry, above, output)
        default = input_
        if entry.get("litellm_provider") == "fireworks_ai":
            default = Decimal(entry["input_cost_per_token"]) / 2
        cached = _find(entry, chain("cache_read_input_token_cost"), default)
        write = _find(entry, chain("cache_creation_input_token_cost"), input_)
        hour_keys = [
            one for one in chain("cache_creation_input_token_cost_above_1hr") if not one.endswith(f"1hr_{suffix}")
        ]
        hour = _find(entry, hour_keys, write)
        own = [f"output_cost_per_reasoning_token_{suffix}"] if suffix else []
        if suffix and entry.get(f"output_cost_per_token_{suffix}") is not None:
            reasoning = _find(entry, own, output)
        else:
            reasoning = _find(entry, [*own, "output_cost_per_reasoning_token"], output)

    def modal(key: str, default: Any) -> Any:
        return _find(entry, [f"{key}_{suffix}", key], default)

    return {
        "input": input_,
        "cached": cached,
        "cached_audio": modal("cache_read_input_audio_token_cost", cached),
        "cache_write": write,
        "cache_write_1h": hour,
        "audio_in": modal("input_cost_per_audio_token", input_),
        "image_in": modal("input_cost_per_image_token", input_),
        "output": output,
        "reasoning": reasoning,
        "audio_out": _find(entry, ["output_cost_per_audio_token"], output),
        "image_out": _find(entry, ["output_cost_per_image_token"], output),
    }


def _batch_prices(entry: Mapping[str, Any], tokens_in: int) -> dict[str, Any]:
    inclusive = entry.get("litellm_provider") == "xai"

    def batch(key: str) -> list[str]:
        crossed = []
        for one in entry:
            if found := re.fullmatch(rf"{key}_above_(\d+)(k?)_tokens_batches", one):
                number = int(found[1]) * (1000 if found[2] else 1)
                if tokens_in > number or (inclusive and tokens_in == number):
                    crossed.append((number, one))
        return [*(one for _, one in sorted(crossed, reverse=True)), f"{key}_batches"]

    input_ = _find(entry, batch("input_cost_per_token"), 0)
    standard = _standard_prices(entry, tokens_in, None)
    output = _find(entry, batch("output_cost_per_token"), _find(entry, ["output_cost_per_token"], standard["output"]))
    half = entry.get("output_cost_per_image_token")
    written = _find(entry, batch("cache_creation_input_token_cost"), input_)
    cached = _find(entry, batch("cache_read_input_token_cost"), input_)
    image = _find(entry, ["output_cost_per_image_token_batches"], output if half is None else Decimal(half) / 2)
    return {
        **dict.fromkeys(("output", "reasoning", "audio_out"), output),
        **dict.fromkeys(("cached", "cached_audio"), cached),
        **dict.fromkeys(("cache_write", "cache_write_1h"), written),
        "input": input_,
        "audio_in": _find(entry, ["input_cost_per_audio_token_batches"], input_),
        "image_in": _find(entry, ["input_cost_per_image_token_batches"], input_),
        "image_out": image,
    }


def _thresholds(entry: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {found for key in entry for found in re.findall(r"_above_(\d+)(k?)_tokens", key)}


def _row(entry: Mapping[str, Any], tokens_in: int) -> Mapping[str, Any] | None:
    rows = sorted(entry.get("tiered_pricing") or [], key=lambda row: row["range"][0])
    for row in rows:
        if tokens_in <= row["range"][1]:
            return dict(row)
    return dict(rows[-1]) if rows else None


def _find(prices: Mapping[str, Any], keys: Iterable[str], default: Any) -> Any:
    return next((prices[key] for key in keys if prices.get(key) is not None), default)
