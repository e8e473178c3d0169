"""litellm's rules for the token rates of one entry of its price map, in exact decimals. Pure.

Follows `generic_cost_per_token` and `batch_cost_calculator` of litellm 1.106, which the tests hold it against:

- Above a threshold of input tokens (`…_above_200k_tokens`) a rate that has a price there takes it; the others stay.
- A service tier (`…_priority`) that lacks a price takes the standard one, also above a threshold.
- `tiered_pricing` picks one row by the input tokens; what the row lacks is sold at its input or output rate.
- Audio and image tokens of the input have no thresholds. Reasoning has a price of its own unless the service tier has
  another price for output.
- Fireworks sells cached tokens at half the price of input where the map says nothing.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

Entry = Mapping[str, Any]
"""One entry of the map, read with `parse_float=Decimal`."""
Rates = dict[str, Decimal]
"""USD per token, by kind."""

BATCH: Final = "batch"
_SUFFIXES: Final = ("flex", "balanced", "priority", "ultrafast")
_INPUT: Final = "input_cost_per_token"
_OUTPUT: Final = "output_cost_per_token"
_READ: Final = "cache_read_input_token_cost"
_WRITE: Final = "cache_creation_input_token_cost"
_WRITE_1H: Final = "cache_creation_input_token_cost_above_1hr"
_REASONING: Final = "output_cost_per_reasoning_token"
_THRESHOLD: Final = re.compile(
    rf"^(?:{_INPUT}|{_OUTPUT}|{_READ}|{_WRITE}|{_WRITE_1H})_above_(\d+)(k?)_tokens(?:_([a-z]+))?$"
)
_FIREWORKS_CACHE_READ: Final = Decimal("0.5")
_INCLUSIVE: Final = frozenset({"xai"})
"""Providers whose threshold is reached at the number itself, not above it."""


class OutOfTableError(ValueError):
    """The entry's prices do not form a table; the text says why."""


def service_tiers(entry: Entry) -> list[str]:
    """The service tiers for which the entry has prices. `batch` only where it has one for each side that costs."""
    found = [suffix for suffix in _SUFFIXES if any(key.endswith(f"_{suffix}") for key in entry)]
    if f"{_INPUT}_batches" in entry and (f"{_OUTPUT}_batches" in entry or not entry.get(_OUTPUT)):
        found.append(BATCH)
    return found


def bounds(entry: Entry, tier: str) -> list[int]:
    """Rising numbers of input tokens above which the rates of a service tier change."""
    rows = _rows(entry)
    if rows and tier != BATCH:
        return [int(row["range"][0]) for row in rows[1:]]
    inclusive = entry.get("litellm_provider") in _INCLUSIVE
    suffix = "batches" if tier == BATCH else tier
    own = ("batches",) if tier == BATCH else (None, suffix)
    found = {number for key in entry for number, of in _threshold(key) if of in own}
    return sorted(number - 1 if inclusive else number for number in found)


def token_rates(entry: Entry, tier: str, tokens_in: int) -> Rates:
    """The rates of a call with so many tokens of input. A kind that is missing has none, not even a borrowed one."""
    if tier == BATCH:
        return _batch(entry, tokens_in)
    input_, output, read, write, write_1h = _base(entry, tier, tokens_in)
    audio_read = _price(entry, "cache_read_input_audio_token_cost", tier)
    rates = {
        "input": input_,
        "cached": read,
        "cached_audio": read if audio_read is None else audio_read,
        "cache_write": write,
        "cache_write_1h": write_1h,
        "audio_in": _first(_price(entry, "input_cost_per_audio_token", tier), input_),
        "image_in": _first(_price(entry, "input_cost_per_image_token", tier), input_),
        "output": output,
        "reasoning": _reasoning(entry, tier, tokens_in, output),
        "audio_out": _first(entry.get("output_cost_per_audio_token"), output),
        "image_out": _first(entry.get("output_cost_per_image_token"), output),
    }
    return {kind: Decimal(rate) for kind, rate in rates.items() if rate is not None}


def _base(entry: Entry, tier: str, tokens_in: int) -> tuple[Decimal | None, ...]:
    """Rates of input, output, cache read, cache write and cache write for an hour."""
    if row := _row(entry, tokens_in):
        write = row.get(_WRITE, row[_INPUT])
        write_1h = row.get(_WRITE_1H, row.get(_WRITE)) or write
        return row[_INPUT], _first(row.get(_OUTPUT), entry.get(_OUTPUT)), row.get(_READ, row[_INPUT]), write, write_1h

    input_, output = _price(entry, _INPUT, tier), _price(entry, _OUTPUT, tier)
    if not output:
        output = _first(entry.get("output_cost_per_image_token"), output)
    read, write, write_1h = _cache_read(entry, tier), _price(entry, _WRITE, tier), entry.get(_WRITE_1H)
    for bound in bounds(entry, tier):
        if tokens_in <= bound:
            break
        for above in _spellings(entry, bound):
            input_ = _first(_price(entry, f"{_INPUT}{above}", tier), input_)
            output = _first(_price(entry, f"{_OUTPUT}{above}", tier), output)
            read = _first(_price(entry, f"{_READ}{above}", tier), read)
            write = _first(_price(entry, f"{_WRITE}{above}", tier), write)
            write_1h = _first(_price(entry, f"{_WRITE_1H}{above}", tier), write_1h)
    write = _first(write, input_)
    return input_, output, _first(read, input_), write, _first(write_1h, write)


def _reasoning(entry: Entry, tier: str, tokens_in: int, output: Decimal | None) -> Decimal | None:
    row = _row(entry, tokens_in)
    if row and (_REASONING in row or _OUTPUT in row):
        return _first(row.get(_REASONING), row.get(_OUTPUT))
    if tier:
        if (own := entry.get(f"{_REASONING}_{tier}")) is not None:
            return Decimal(own)
        if entry.get(f"{_OUTPUT}_{tier}") is not None:
            return output
    return _first(entry.get(_REASONING), output)


def _batch(entry: Entry, tokens_in: int) -> Rates:
    """All input that has no batch price of its own at that of input; all output but images at that of output."""
    input_ = _batch_price(entry, _INPUT, tokens_in)
    read = _first(_batch_price(entry, _READ, tokens_in), input_)
    write = _first(_batch_price(entry, _WRITE, tokens_in), input_)
    output = _first(_batch_price(entry, _OUTPUT, tokens_in), entry.get(_OUTPUT))
    image_out = entry.get("output_cost_per_image_token_batches")
    if image_out is None and (standard := entry.get("output_cost_per_image_token")) is not None:
        image_out = Decimal(standard) / 2
    rates = {
        "input": input_,
        "cached": read,
        "cached_audio": read,
        "cache_write": write,
        "cache_write_1h": write,
        "audio_in": _first(entry.get("input_cost_per_audio_token_batches"), input_),
        "image_in": _first(entry.get("input_cost_per_image_token_batches"), input_),
        "output": output,
        "reasoning": output,
        "audio_out": output,
        "image_out": _first(image_out, output),
    }
    return {kind: Decimal(rate) for kind, rate in rates.items() if rate is not None}


def _batch_price(entry: Entry, key: str, tokens_in: int) -> Decimal | None:
    flat = entry.get(f"{key}_batches")
    crossed = [bound for bound in bounds(entry, BATCH) if tokens_in > bound]
    for bound in reversed(crossed):
        for above in _spellings(entry, bound):
            if (price := entry.get(f"{key}{above}_batches")) is not None:
                return Decimal(price)
    return flat


def _cache_read(entry: Entry, tier: str) -> Decimal | None:
    read = _price(entry, _READ, tier)
    if read is None and entry.get("litellm_provider") == "fireworks_ai" and entry.get(_INPUT) is not None:
        return Decimal(entry[_INPUT]) * _FIREWORKS_CACHE_READ
    return read


def _price(entry: Entry, key: str, tier: str) -> Decimal | None:
    """The price of a service tier, else the standard one."""
    own = entry.get(f"{key}_{tier}") if tier else None
    return entry.get(key) if own is None else own


def _first(*prices: Decimal | None) -> Decimal | None:
    return next((price for price in prices if price is not None), None)


def _threshold(key: str) -> list[tuple[int, str | None]]:
    """The number of tokens in a key and the suffix behind it; empty for a key without a threshold."""
    found = _THRESHOLD.match(key)
    return [(int(found[1]) * (1_000 if found[2] else 1), found[3])] if found else []


def _spellings(entry: Entry, bound: int) -> list[str]:
    """How the keys of a threshold are written: 200000 as `_above_200k_tokens`, or as `_above_200000_tokens`."""
    number = bound + 1 if entry.get("litellm_provider") in _INCLUSIVE else bound
    short = [f"_above_{number // 1_000}k_tokens"] if number % 1_000 == 0 else []
    return [*short, f"_above_{number}_tokens"]


def _rows(entry: Entry) -> list[Mapping[str, Any]]:
    """The rows of `tiered_pricing` by rising range. Raises OutOfTableError where they leave gaps."""
    rows = entry.get("tiered_pricing")
    if not rows:
        return []
    if not all(len(row.get("range", ())) == 2 and _INPUT in row for row in rows):
        raise OutOfTableError("the price depends on something other than tokens (tiered_pricing)")
    rows = sorted(rows, key=lambda row: row["range"][0])
    ends = [0, *(row["range"][1] for row in rows[:-1])]
    if [row["range"][0] for row in rows] != ends:
        raise OutOfTableError("the ranges of tiered_pricing leave gaps")
    return rows


def _row(entry: Entry, tokens_in: int) -> Mapping[str, Any] | None:
    """The row of `tiered_pricing` for so many tokens of input: the last one whose range begins below them."""
    rows = _rows(entry)
    if not rows:
        return None
    return next((row for row in reversed(rows) if tokens_in > row["range"][0]), rows[0])
