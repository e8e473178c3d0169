"""What to hold for a call: an upper bound where what is asked has one, else a slice or a flat amount. Pure.

Cases, by what a call is sold by:
  text      input, searches of the web, and a slice of output, extended while it streams; what cannot be ended on the
            way is held for whole, or for a slice to which the upstream is then told to keep
  input     the input
  images    as many as are asked for, the dearest that they can be
  speech    the characters, or the tokens that speaking them can take at most
  sound     how long it is is not known before it has passed: a flat FLAT_SOUND_S
  request   one request
"""

from functools import cached_property
from typing import Final

import msgspec

from gateway.asks import Ask
from gateway.asks.image_names import PARTIAL_TOKENS, PARTIALS_MAX, image_tokens
from shared import pricing
from shared.events import UsageEvent
from shared.pricing import PLAIN_IN, PLAIN_OUT, TOKENS_IN, TOKENS_OUT, Plain, PricedModel, RateCard
from shared.units import MC_MAX
from shared.usage import Usage

PLAIN_SLICE_TOKENS: Final = 4096
"""Output tokens held at least for an answer that cannot be stopped on the way, where the account cannot pay the largest
one four times over: a quarter of its credit is, where that is more, and the upstream is told to stop there."""
LEAST_TOKENS: Final = 64
"""Output tokens that must be affordable for a call to begin at all."""
UNKNOWN_OUTPUT_TOKENS: Final = 16_384
"""Largest answer assumed of a model whose price entry does not say."""
FLAT_SOUND_S: Final = 600
"""Seconds of sound that are held for."""
LEAST_SOUND_S: Final = 60
"""Seconds of sound that must be affordable for a call to begin at all."""
SOUND_TOKENS_PER_S: Final = 10
"""Input tokens of a second of sound that is transcribed."""
SPEECH_TOKENS_PER_S: Final = 21
"""Output tokens of a second of speech."""
SPEECH_TOKENS_PER_CHARACTER: Final = 6
"""Output tokens of a spoken character at most: some languages say no more than four in a second."""

_IMAGES_IN: Final = (*PLAIN_IN, "image_in")
_IMAGES_OUT: Final = ("output", "image_out")
_SOUND_IN: Final = (*PLAIN_IN, "audio_in")
_SPEECH_OUT: Final = ("output", "audio_out")


class Rates(msgspec.Struct, frozen=True, dict=True):
    """What a call is priced with while it runs."""

    price_version: int
    model: PricedModel
    plan: str
    card: RateCard
    image: PricedModel | None = None
    """What one of the images that are asked for costs, where they are sold by the piece."""

    @cached_property
    def plain(self) -> Plain | None:
        """The short way to hold for most calls of text, and to charge them; None where model and card have none."""
        return pricing.plain_of(self.model, self.card)

    @cached_property
    def drafts(self) -> dict[str, UsageEvent]:
        """Of calls at these rates, by family: what the drafts of further ones are made from (gateway.settlement)."""
        return {}


class Bounds(msgspec.Struct, frozen=True):
    """What to hold, in millicredits (see shared/lua/reserve.lua), for how many output tokens."""

    full_mc: int
    slice_mc: int
    least_mc: int
    input_mc: int
    full_tokens: int
    stoppable: bool
    """The gateway can end this answer on the way: one slice is held and extended, never all, and nothing capped."""


def bound(ask: Ask, rates: Rates, input_tokens: int, slice_tokens: int) -> Bounds:
    """What to hold for a call with so much input."""
    match ask.sold:
        case "text":
            return _text(ask, rates, input_tokens, slice_tokens)
        case "sound":
            return _sound(rates, input_tokens)
        case "images":
            whole = _images_mc(ask, rates, input_tokens)
        case "speech":
            whole = _speech_mc(ask, rates, input_tokens)
        case "request":
            whole = _request_mc(rates, input_tokens)
        case _:
            whole = pricing.hold_mc(input_tokens, 0, rates.model, rates.card)
    return Bounds(whole, whole, whole, whole, 0, stoppable=False)


def affordable_tokens(bounds: Bounds, held_mc: int) -> int:
    """How many output tokens, over all choices, a hold of `held_mc` covers."""
    if held_mc >= bounds.full_mc:
        return bounds.full_tokens
    spare, price = held_mc - bounds.input_mc, bounds.full_mc - bounds.input_mc
    return max(1, spare * bounds.full_tokens // price) if spare > 0 and price > 0 else 1


def priceable(ask: Ask, rates: Rates) -> bool:
    """Whether card and model have a price for what is asked: never free by accident."""
    model, card = rates.model, rates.card
    match ask.sold:
        case "text":
            return _has_price("input", model, card) and _has_price("output", model, card)
        case "input":
            return _has_price("input", model, card)
        case "images":
            by_piece = rates.image is not None and _has_price("images", rates.image, card)
        case "speech":
            by_piece = _has_price("characters", model, card)
        case "sound":
            by_piece = _has_price("duration_ms", model, card)
        case _:
            return True
    return by_piece or sells_tokens(model)


def sells_tokens(model: PricedModel) -> bool:
    """Whether the model's tokens cost anything; a rate of 0 beside a price by the piece is none."""
    return any(model.rates.get(kind) for kind in (*TOKENS_IN, *TOKENS_OUT))


def _text(ask: Ask, rates: Rates, input_tokens: int, slice_tokens: int) -> Bounds:
    model, plain = rates.model, rates.plain
    stoppable = ask.stream and not (model.reasoning and ask.thinks)
    full = model.output_max or UNKNOWN_OUTPUT_TOKENS
    if ask.output_limit:
        full = min(full, ask.output_limit)
    first, least = slice_tokens if stoppable else PLAIN_SLICE_TOKENS, LEAST_TOKENS
    if ask.choices != 1 or ask.least_output:
        full, first, least = (max(tokens * ask.choices, ask.least_output) for tokens in (full, first, least))
    first = min(full, first)
    least = min(first, least)

    if (
        plain is not None
        and input_tokens <= plain.tokens_in_max
        and ask.kinds_in is PLAIN_IN
        and ask.kinds_out is PLAIN_OUT
        and ask.service_tier in plain.tiers
    ):
        each_in, each_out, over = plain.hold
    else:
        each_in, each_out, over = pricing.hold_rates(
            input_tokens,
            model,
            rates.card,
            service_tier=ask.service_tier,
            kinds_in=ask.kinds_in,
            kinds_out=ask.kinds_out,
        )
    input_mc = input_tokens * each_in
    full_mc, first_mc, least_mc = input_mc + full * each_out, input_mc + first * each_out, input_mc + least * each_out
    if over != 1:  # rounded up, each of them
        full_mc, first_mc, least_mc, input_mc = (-(-mc // over) for mc in (full_mc, first_mc, least_mc, input_mc))
    if full_mc > MC_MAX:  # no other one is larger
        full_mc, first_mc, least_mc, input_mc = (min(mc, MC_MAX) for mc in (full_mc, first_mc, least_mc, input_mc))
    if ask.searches:
        searches = _charge_mc(Usage(searches=ask.searches), model, rates.card)
        full_mc, first_mc, least_mc, input_mc = (mc + searches for mc in (full_mc, first_mc, least_mc, input_mc))
    return Bounds(full_mc, first_mc, least_mc, input_mc, full, stoppable)


def _images_mc(ask: Ask, rates: Rates, input_tokens: int) -> int:
    by_piece = _charge_mc(Usage(images=ask.choices), rates.image, rates.card)
    if not sells_tokens(rates.model):
        return by_piece
    each = image_tokens(ask.model, ask.quality, ask.size) + (PARTIALS_MAX * PARTIAL_TOKENS if ask.stream else 0)
    by_token = pricing.hold_mc(
        input_tokens, ask.choices * each, rates.model, rates.card, kinds_in=_IMAGES_IN, kinds_out=_IMAGES_OUT
    )
    return max(by_piece, by_token)


def _speech_mc(ask: Ask, rates: Rates, input_tokens: int) -> int:
    by_piece = _charge_mc(Usage(characters=ask.characters), rates.model, rates.card)
    if not sells_tokens(rates.model):
        return by_piece
    tokens = ask.characters * SPEECH_TOKENS_PER_CHARACTER
    return max(by_piece, pricing.hold_mc(input_tokens, tokens, rates.model, rates.card, kinds_out=_SPEECH_OUT))


def _sound(rates: Rates, input_tokens: int) -> Bounds:
    def hold(seconds: int) -> int:
        by_piece = _charge_mc(Usage(duration_ms=seconds * 1000), rates.model, rates.card)
        if not sells_tokens(rates.model):
            return by_piece
        tokens = input_tokens + seconds * SOUND_TOKENS_PER_S
        by_token = pricing.hold_mc(
            tokens, min(rates.model.output_max or tokens, tokens), rates.model, rates.card, kinds_in=_SOUND_IN
        )
        return max(by_piece, by_token)

    flat = hold(FLAT_SOUND_S)
    return Bounds(flat, flat, hold(LEAST_SOUND_S), flat, 0, stoppable=False)


def _request_mc(rates: Rates, input_tokens: int) -> int:
    by_piece = _charge_mc(Usage(requests=1), rates.model, rates.card)
    if not sells_tokens(rates.model):
        return by_piece
    return max(by_piece, pricing.hold_mc(input_tokens, 0, rates.model, rates.card))


def _charge_mc(usage: Usage, model: PricedModel | None, card: RateCard) -> int:
    return 0 if model is None else pricing.charge(usage, model, card).charge_mc


def _has_price(kind: str, model: PricedModel, card: RateCard) -> bool:
    if card.family == "tokens":
        return kind in ("input", "output") or kind in card.units
    return pricing.rate_of(model.rates, kind, model.unpriced) is not None
