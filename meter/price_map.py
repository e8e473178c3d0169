"""litellm's price map → priced models, or the reason why an entry has none. Pure; litellm itself is not imported.

The map is a JSON object of entries by model name; a price is USD per unit. What a rate table cannot express is
unpriceable and never approximated; price_keys has the reasons.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from meter.price_keys import (
    BLOCKING,
    IMAGES,
    MODES,
    QUERIES,
    SEARCH_KEY,
    SERVED_UPLIFTS,
    UPLIFT_KEYS,
    mode_of,
    refuse_obstacles,
    refuse_unsellable,
)
from meter.price_rules import Entry, OutOfTableError, Rates, bounds, service_tiers, token_rates
from shared.pricing import KINDS, PPM, PricedModel, Table, Tier, rate_of

NANO_PER_MILLION_DIGITS: Final = 15
"""A price in USD per unit times 10^15 is in nano-USD per million units."""
RATE_DIGITS_MAX: Final = 20
"""Digits beyond those that a price may have; the finest in the map has 9."""

_PROSE: Final = frozenset({"sample_spec", "fallback_generalizations"})
"""Entries that are no models."""
_PLAIN: Final = {"cached": "cache_read_input_token_cost", "cache_write": "cache_creation_input_token_cost"}
_SIZE: Final = re.compile(r"(\d+)-x-(\d+)")
"""Width and height of an image in a model's name."""

_Steps = list[tuple[int, Rates]]
"""Complete rates, from each bound of input tokens on; the first bound is -1."""


class Compiled(msgspec.Struct, frozen=True):
    """A whole map: its priced models, and the others with the reason."""

    models: dict[str, PricedModel]
    unpriceable: dict[str, str]


def compile_map(entries: Mapping[str, Entry]) -> Compiled:
    models: dict[str, PricedModel] = {}
    unpriceable: dict[str, str] = {}
    for name, entry in entries.items():
        if name not in _PROSE:
            try:
                models[name] = compile_model(name, entry)
            except OutOfTableError as reason:
                unpriceable[name] = str(reason)
    for name in _sold_by_size(models):
        del models[name]
        unpriceable[name] = "the price depends on the size of the image; entries with a size in their name have it"
    return Compiled(models, unpriceable)


def compile_model(name: str, entry: Entry) -> PricedModel:
    """Raises OutOfTableError with the reason why the entry is unpriceable."""
    refuse_obstacles(name, entry)
    units = _units(name, entry)
    tables = {
        tier: [(bound, token_rates(entry, tier, bound + 1)) for bound in (-1, *bounds(entry, tier))]
        for tier in ("", *service_tiers(entry))
    }
    refuse_unsellable(entry, tables[""][0][1], units)
    if MODES[mode_of(entry)].sold and any(units.values()) and not any(_token_prices(tables)):
        tables = {"": [(-1, {})]}  # a token price of 0 beside a price by the piece: not what is sold
    digits = _digits([*units.values(), *_token_prices(tables)])
    base, tiers = _table({}, tables.pop(""), digits)
    service = {tier: Table(*_table(base, steps, digits)) for tier, steps in tables.items()}
    return PricedModel(
        model=name,
        provider=str(entry.get("litellm_provider", "")),
        mode=mode_of(entry),
        rates=base | {kind: _scaled(price, digits) for kind, price in units.items()},
        tiers=tiers,
        service={tier: table for tier, table in service.items() if table.rates or table.tiers != tiers},
        uplifts=_uplifts(entry),
        rate_digits=digits,
        unpriced=_unpriced(entry),
        beside=("images",) if mode_of(entry) == "embedding" and "images" in units else (),
        searches_once=bool(_search_prices(entry)) and _per_prompt(name, entry),
        input_max=_count(entry.get("max_input_tokens")),
        output_max=_count(entry.get("max_output_tokens")),
        reasoning=bool(entry.get("supports_reasoning")),
    )


def _units(name: str, entry: Entry) -> Rates:
    """Prices of what is not tokens."""
    units: Rates = {}
    mode, sold = mode_of(entry), MODES[mode_of(entry)].sold
    if MODES[mode] is IMAGES and (price := _image(name, entry)) is not None:
        units["images"] = price
    elif mode == "embedding" and "input_cost_per_image" in entry:
        units["images"] = Decimal(entry["input_cost_per_image"])
    elif mode == "audio_speech" and "input_cost_per_character" in entry:
        units["characters"] = Decimal(entry["input_cost_per_character"])
    elif mode == "audio_transcription" and any(key in entry for key in sold):
        second = entry.get("output_cost_per_second") or entry.get("input_cost_per_second") or 0
        units["duration_ms"] = Decimal(second).scaleb(-3)
    elif MODES[mode] is QUERIES and "input_cost_per_query" in entry:
        units["searches"] = Decimal(entry["input_cost_per_query"])
    elif mode == "moderation" and not any(token_rates(entry, "", 0).values()):
        units["requests"] = Decimal()
    searches = _search_prices(entry)
    if len(searches) == 1:
        units["searches"] = Decimal(searches.pop())
    elif searches and entry.get("litellm_provider") == "perplexity":
        raise OutOfTableError("a fee per call that depends on the size of the search context")
    return units


def _unpriced(entry: Entry) -> tuple[str, ...]:
    """Kinds for which the map has prices that their count alone does not decide."""
    kinds = {kind for key, kind in BLOCKING.items() if key in entry and entry[key] != entry.get(_PLAIN[kind])}
    if len(_search_prices(entry)) > 1:
        kinds.add("searches")
    return tuple(sorted(kinds))


def _search_prices(entry: Entry) -> set[Any]:
    """The prices of one search by the size of its context: mostly one and the same."""
    return set((entry.get(SEARCH_KEY) or {}).values())


def _image(name: str, entry: Entry) -> Decimal | None:
    """The price of one image. One by the pixel counts only where the name says how many there are."""
    for key in ("output_cost_per_image", "input_cost_per_image"):
        if entry.get(key):
            if entry.get("output_cost_per_pixel"):
                raise OutOfTableError("the price depends on the size of the image")
            return Decimal(entry[key])
    if entry.get("input_cost_per_pixel") or entry.get("output_cost_per_pixel"):
        size = _SIZE.search(name)
        if size is None or not entry.get("input_cost_per_pixel"):
            raise OutOfTableError("the price depends on the size of the image")
        return Decimal(entry["input_cost_per_pixel"]) * int(size[1]) * int(size[2])
    free = next((entry[key] for key in IMAGES.sold if key in entry), None)
    return None if free is None else Decimal(free)


def _sold_by_size(models: Mapping[str, PricedModel]) -> list[str]:
    """Models sold by the image at one price, where the map has others for their sizes, as `high/1024-x-1024/NAME`."""
    sized = {
        (model.provider, name[size.end() :].lstrip("/"))
        for name, model in models.items()
        if (size := _SIZE.search(name))
    }
    return [
        name
        for name, model in models.items()
        if "images" in model.rates and not _SIZE.search(name)
        for tail in {name, name.partition("/")[2]}
        if (model.provider, tail) in sized
    ]


def _per_prompt(name: str, entry: Entry) -> bool:
    """Gemini's searches cost the same however many there are, unless the map says `per_query`."""
    provider = str(entry.get("litellm_provider", ""))
    google = provider == "gemini" or (provider.startswith("vertex_ai") and "claude" not in name.lower())
    return google and entry.get("web_search_billing_unit", "per_prompt") == "per_prompt"


def _uplifts(entry: Entry) -> dict[str, int]:
    found = {name: entry[key] for key, name in UPLIFT_KEYS.items() if key in entry}
    for name, value in (entry.get("provider_specific_entry") or {}).items():
        if isinstance(value, int | Decimal):
            if name not in SERVED_UPLIFTS:
                raise OutOfTableError(f"the number {name} of provider_specific_entry is not understood")
            found[name] = value
    for name, factor in found.items():
        if factor * PPM != int(factor * PPM):
            raise OutOfTableError(f"the uplift {name} has more than six decimals")
    return {name: int(factor * PPM) for name, factor in found.items()}


def _token_prices(tables: Mapping[str, _Steps]) -> list[Decimal]:
    return [price for steps in tables.values() for _, full in steps for price in full.values()]


def _table(above: Mapping[str, int], steps: _Steps, digits: int) -> tuple[dict[str, int], tuple[Tier, ...]]:
    """A table on top of `above`, from its complete rates at each bound: only what differs is kept."""
    (_, first), *rest = steps
    rates = _overlay(above, first, digits)
    tiers: list[Tier] = []
    base = {**above, **rates}
    for bound, full in rest:
        tier = _overlay(base, full, digits)
        if tier != (tiers[-1].rates if tiers else {}):
            tiers.append(Tier(bound, tier))
    return rates, tuple(tiers)


def _overlay(above: Mapping[str, int], full: Rates, digits: int) -> dict[str, int]:
    """The smallest rates which on top of `above` give all of `full`, by the fallbacks of shared.pricing."""
    kept: dict[str, int] = {}
    for kind in KINDS:  # a kind stands behind the one that it falls back to
        if kind in full:
            rate = _scaled(full[kind], digits)
            if rate_of({**above, **kept}, kind) != rate:
                kept[kind] = rate
    return kept


def _digits(prices: Iterable[Decimal]) -> int:
    """How many digits the finest price has beyond nano-USD per million units."""
    exponents = [-int(price.normalize().as_tuple().exponent) for price in prices if price]
    digits = max(0, max(exponents, default=0) - NANO_PER_MILLION_DIGITS)
    if digits > RATE_DIGITS_MAX:
        raise OutOfTableError("a price has too many digits")
    return digits


def _scaled(price: Decimal, digits: int) -> int:
    scaled = price.scaleb(NANO_PER_MILLION_DIGITS + digits)
    assert scaled == scaled.to_integral_value()
    return int(scaled)


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | Decimal) and value > 0 else 0
