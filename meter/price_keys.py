"""Every key of litellm's price map that looks like a price, and what becomes of it. Pure.

A key is one of
  a price of tokens                    → TOKEN_KEY, read by price_rules
  a price of what a mode sells         → MODES, read by price_map
  another measure of what tokens count → MODES, left out where the tokens have a price
  an uplift                            → UPLIFT_KEYS and SERVED_UPLIFTS
  one that cannot change a cost        → INERT, with the reason
  one that takes a kind out of the table, for its count does not decide its price    → BLOCKING
  one that no rate table can express   → OBSTACLES: its model is unpriceable
  none of these                        → its model is unpriceable: what is not understood is never passed over
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from meter.price_rules import Entry, OutOfTableError, Rates

_PRICE_LIKE: Final = re.compile("cost|price|pricing|uplift|multiplier|fee|surcharge|discount|free|billing")
_TIER: Final = "(?:_(?:flex|balanced|priority|ultrafast|batches))?"
TOKEN_KEY: Final = re.compile(
    "^(?:(?:input_cost_per_token|output_cost_per_token|cache_read_input_token_cost|cache_creation_input_token_cost"
    rf"|cache_creation_input_token_cost_above_1hr)(?:_above_\d+k?_tokens)?{_TIER}"
    "|(?:input_cost_per_audio_token|input_cost_per_image_token|output_cost_per_reasoning_token"
    f"|cache_read_input_audio_token_cost){_TIER}"
    "|output_cost_per_audio_token|output_cost_per_image_token(?:_batches)?|tiered_pricing)$"
)
SEARCH_KEY: Final = "search_context_cost_per_query"
UPLIFT_KEYS: Final[Mapping[str, str]] = {
    "regional_processing_uplift_multiplier_eu": "eu",
    "regional_processing_uplift_multiplier_us": "us",
    "regional_endpoint_uplift_multiplier": "regional",
}
SERVED_UPLIFTS: Final = ("us", "fast")
"""Numbers in `provider_specific_entry` that multiply a call's cost: where, and how fast, Anthropic served it."""

INERT: Final[Mapping[str, str]] = {
    "input_cost_per_token_cache_hit": "another name of cache_read_input_token_cost (checked to be equal)",
    "input_dbu_cost_per_token": "the same price in Databricks' own unit",
    "output_dbu_cost_per_token": "the same price in Databricks' own unit",
    "google_maps_grounding_cost_per_query": "no usage counts Maps queries",
    "search_free_requests": "an allowance of the provider's account: the list price is booked, as litellm does",
    "web_search_billing_unit": "read together with search_context_cost_per_query",
}
"""Keys that cannot change what a usage costs, and why."""
_INERT_SUFFIX: Final = "_decisions"
"""Prices of an API (decisions) that is no metered family."""

BLOCKING: Final[Mapping[str, str]] = {
    "cache_read_input_image_token_cost": "cached",
    "explicit_cache_read_input_token_cost": "cached",
    "cache_creation_input_audio_token_cost": "cache_write",
}
"""Another price for a part of a kind that no usage tells apart → the kind. litellm reads none of these keys."""

OBSTACLES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        ("^off_peak_pricing$", "the price depends on the hour"),
        ("^cost_per_second$", "sold by the second of reserved capacity, not by usage"),
        ("^input_cost_per_request$", "a fee per call stands beside the tokens"),
        ("^input_cost_per_text_message$", "sold by the message"),
        ("^citation_cost_per_token$", "citation tokens have a price of their own, and no usage tells them apart"),
        ("video", "video has a price of its own, and no usage tells it apart"),
        ("audio_per_second", "audio is sold by its length beside other input"),
        (r"^output_cost_per_(?:second|image)_\w", "the price depends on the resolution"),
        ("^(?:ocr|annotation)_cost_per_", "sold by the page"),
        ("^guardrail_cost_per_unit$|^code_interpreter_cost_per_session$", "no model"),
        (r"_above_\d+k_tokens$", "the price of images, seconds or characters depends on the tokens"),
    )
)
"""Prices that no rate table can express; where they are 0 they do not matter."""


class Mode(msgspec.Struct, frozen=True):
    """Prices per unit of one mode: those that its usages are measured in, and other measures of what tokens measure."""

    sold: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


_PIECES: Final = (
    *("input_cost_per_image", "output_cost_per_image"),
    *("input_cost_per_character", "output_cost_per_character"),
)
TEXT: Final = Mode(other=_PIECES)
IMAGES: Final = Mode(sold=("output_cost_per_image", "input_cost_per_image", "input_cost_per_pixel"))
QUERIES: Final = Mode(sold=("input_cost_per_query",))
MODES: Final[Mapping[str, Mode]] = {
    **dict.fromkeys(("chat", "completion", "responses", "realtime", "moderation", "evaluation", "extraction"), TEXT),
    **dict.fromkeys(("image_generation", "image_edit"), IMAGES),
    **dict.fromkeys(("rerank", "search"), QUERIES),
    "embedding": Mode(sold=("input_cost_per_image",), other=("input_cost_per_character",)),
    "audio_speech": Mode(sold=("input_cost_per_character",), other=("output_cost_per_second",)),
    "audio_transcription": Mode(sold=("output_cost_per_second", "input_cost_per_second")),
}
"""The modes whose calls can be priced."""
_UNIT_KEYS: Final = frozenset(
    {
        *_PIECES,
        *("input_cost_per_pixel", "output_cost_per_pixel", "input_cost_per_query"),
        *("input_cost_per_second", "output_cost_per_second"),
    }
)
_ROUTER: Final = re.compile("model[-_]router")


def refuse_obstacles(name: str, entry: Entry) -> None:
    """Raises OutOfTableError for an entry with a key that no rate table can express, or that is not understood."""
    if _ROUTER.search(name):
        raise OutOfTableError("only the router's fee is known; the model that it picks costs on top")
    if mode_of(entry) not in MODES:
        raise OutOfTableError(f"{mode_of(entry)} is not metered")
    for key, value in entry.items():
        if _PRICE_LIKE.search(key) and key not in INERT and key not in UPLIFT_KEYS and key != SEARCH_KEY:
            _refuse_key(key, value)
    cached = entry.get("cache_read_input_token_cost")
    if entry.get("input_cost_per_token_cache_hit", cached) != cached:
        raise OutOfTableError("two prices of cached tokens differ")


def refuse_unsellable(entry: Entry, tokens: Rates, units: Rates) -> None:
    """Raises OutOfTableError for an entry without a price, for a text model with a price for one side only, and for one
    that has a price which its mode does not sell: it would be free by accident."""
    if not tokens and not units:
        raise OutOfTableError("the map has no price")
    mode = MODES[mode_of(entry)]
    if mode is TEXT and not {"input", "output"} <= tokens.keys():
        raise OutOfTableError("the map has no price for input or for output")
    for key in sorted(_UNIT_KEYS & entry.keys()):
        if entry[key] and key not in mode.sold and not (key in mode.other and any(tokens.values())):
            raise OutOfTableError(f"the price {key} does not belong to the mode {mode_of(entry)}")


def mode_of(entry: Entry) -> str:
    return entry.get("mode") or "chat"


def _refuse_key(key: str, value: object) -> None:
    expected = TOKEN_KEY.match(key) or key in _UNIT_KEYS or key in BLOCKING
    if isinstance(value, int | Decimal):
        if not (Decimal(value).is_finite() and value >= 0):
            raise OutOfTableError(f"{key} is {value}")
        if value == 0 and not expected:
            return
    if not expected:
        for pattern, reason in OBSTACLES:
            if pattern.search(key):
                raise OutOfTableError(reason)
        if not key.endswith(_INERT_SUFFIX):
            raise OutOfTableError(f"the price {key} is not understood")
    if key != "tiered_pricing" and not isinstance(value, int | Decimal):
        raise OutOfTableError(f"{key} is no number")
