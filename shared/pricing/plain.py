"""The short way of plain calls: what one model costs under one card, looked up once, then a few multiplications a call.

A plain call uses tokens of PLAIN_IN and PLAIN_OUT alone, is served at the model's own rates, and its input stays below
the model's first token tier. This is never another arithmetic than that of `charging`: the rates come from there, what
is not plain is left to it, and a test compares the two on any usage, model and card.
"""

from math import gcd

import msgspec

from shared.pricing.charging import PLAIN_IN, PLAIN_OUT, cost_of, credits_of, hold_rates
from shared.pricing.model import OWN_TIERS, PPM, SERVICE_ALIASES, Charge, PricedModel, RateCard
from shared.units import MC_MAX, round_half_even
from shared.usage import Usage


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of one model under one card: integers over a denominator, in lowest terms. That is mostly 1, as most prices
    are whole nano-USD per token, and nothing is left to round."""

    tokens_in_max: int
    """Tokens of input up to which these rates hold."""
    tiers: frozenset[str]
    """Service tiers that are sold at the model's own rates; empty text among them, for none named."""
    # Nano-USD per token of each kind, and the denominator.
    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    cost_over: int
    by_token: bool
    """The card counts tokens; else it multiplies the cost."""
    factor: int
    """Millicredits per token, or per nano-USD with `cost_over` in it, and the denominator."""
    factor_over: int
    hold: tuple[int, int, int]
    """What hold_rates gives: per token of input, of output, and the denominator, in millicredits."""

    def charge(self, usage: Usage) -> Charge | None:
        """What charging.charge says of a call at one of `tiers`. None: it is not plain, or comes to too much."""
        read, cached, written = usage.input, usage.cached, usage.cache_write
        made, thought = usage.output, usage.reasoning
        tokens_in = read + cached + written
        if (
            tokens_in > self.tokens_in_max
            or usage != Usage(read, cached, written, output=made, reasoning=thought)  # it has other kinds too
            or read | cached | written | made | thought < 0  # one of them is negative: those count as none
        ):
            return None
        cost = read * self.input + made * self.output
        if cached or written or thought:
            cost += cached * self.cached + written * self.cache_write + thought * self.reasoning
        amount = (tokens_in + made + thought if self.by_token else cost) * self.factor
        if self.cost_over != 1:
            cost = round_half_even(cost, self.cost_over)
        if self.factor_over != 1:
            amount = round_half_even(amount, self.factor_over)
        return None if amount > MC_MAX or cost > MC_MAX else Charge(amount, cost, priced=True)


def plain_of(model: PricedModel, card: RateCard) -> Plain | None:
    """The short way for `model` under `card`; None where a kind that a text call may use unasked has no price."""
    one_of_each = [(kind, 1) for kind in (*PLAIN_IN, *PLAIN_OUT)]
    lines, _, over = cost_of(one_of_each, 0, model, "")
    rates = [rate for _, _, rate in lines if rate is not None]
    if len(rates) < len(one_of_each):
        return None
    read, cached, written, made, thought, cost_over = _lowest(*rates, over)
    if card.family == "tokens":
        _, per_token, over = credits_of(one_of_each[:1], model, card)
        factor, over = _lowest(per_token, over)
    else:
        factor, over = _lowest(card.markup_ppm, cost_over * PPM)
    hold_in, hold_out, hold_over = _lowest(*hold_rates(0, model, card))
    return Plain(
        tokens_in_max=min((tier.above for tier in model.tiers), default=MC_MAX),
        tiers=frozenset(tier for tier in OWN_TIERS if SERVICE_ALIASES.get(tier, tier) not in model.service),
        input=read,
        cached=cached,
        cache_write=written,
        output=made,
        reasoning=thought,
        cost_over=cost_over,
        by_token=card.family == "tokens",
        factor=factor,
        factor_over=over,
        hold=(hold_in, hold_out, hold_over),
    )


def _lowest(*terms: int) -> list[int]:
    """Numerators and their denominator, in lowest terms."""
    common = gcd(*terms)
    return [term // common for term in terms]
