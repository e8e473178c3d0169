"""From a request's body to a call: what is asked, what it may cost at most, what is sent upstream. Pure.

The body is passed on as it came. Fields that the gateway adds (`stream_options`, a cap on the output) are put in front
of it; where such a field is there already the object is written anew around its values. Not even the spelling of a
number changes.
"""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final
from uuid import UUID

import msgspec

from gateway.families import Family
from gateway.identity import Caller, check_body_user
from gateway.recount.estimate import estimate_prompt
from gateway.refusals import Refusal
from shared import pricing
from shared.pricing import PricedModel, RateCard
from shared.projection import Catalog, Plan

MODEL_LENGTH_MAX: Final = 256
"""Characters of a model's name."""
CHOICES_MAX: Final = 128
"""Answers that one call may ask for (`n`)."""
PLAIN_SLICE_TOKENS: Final = 4096
"""Output tokens held for an answer that cannot be stopped on the way, where the account cannot pay the largest one four
times over: the upstream is then told to stop there."""
LEAST_TOKENS: Final = 64
"""Output tokens that must be affordable for a call to begin at all."""
UNKNOWN_OUTPUT_TOKENS: Final = 16_384
"""Largest answer assumed of a model whose price entry does not say."""
TOKENS_ASKED_MAX: Final = 2**31
OUTPUT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
"""The two names of the same limit, the one that counts first."""
_TRUE: Final = msgspec.Raw(b"true")


class Ask(msgspec.Struct, frozen=True):
    """The fields of a request that the gateway acts on."""

    model: str
    stream: bool
    usage_asked: bool
    output_limit: int
    """Tokens of one answer that the client asked for at most; 0: it did not say."""
    choices: int
    service_tier: str
    user: object


class Rates(msgspec.Struct, frozen=True):
    """What a call is priced with while it runs."""

    price_version: int
    model: PricedModel
    plan: str
    card: RateCard


class Bounds(msgspec.Struct, frozen=True):
    """What to hold, in millicredits (see shared/lua/reserve.lua), for how many output tokens."""

    full_mc: int
    slice_mc: int
    least_mc: int
    input_mc: int
    full_tokens: int
    stoppable: bool
    """The gateway can end this answer on the way: a hold that does not cover it all is extended, not capped."""


class Call(msgspec.Struct, frozen=True):
    """One admitted client request. `body` is what goes upstream, `request` what came."""

    event_id: UUID
    caller: Caller
    family: Family
    ask: Ask
    rates: Rates
    request: bytes
    body: bytes
    input_tokens: int
    """Upper estimate, or the exact count where the estimate would have meant a refusal."""
    strip_usage: bool
    started_at_us: int
    started_s: float
    """Of the event loop's clock."""

    def repriced(self, rates: Rates, input_tokens: int) -> "Call":
        """The same call at other rates, or with its input counted anew."""
        return msgspec.structs.replace(self, rates=rates, input_tokens=input_tokens)


def parse(body: bytes) -> dict[str, Any]:
    """The request's JSON object. Raises Refusal `invalid_json`, and `invalid_field` where `model` stands twice."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("invalid_json") from None
    if not isinstance(request, dict):
        raise Refusal("invalid_json")
    # Parsers differ in which of two equal keys counts: a call must not be priced as one model and run as another. The
    # second one may be spelt with escapes: the letters of `model` are \u0064 to \u006f.
    if body.count(b'"model"') > 1 or b"\\u006" in body:
        try:
            json.loads(body, object_pairs_hook=_refuse_second_model)
        except (ValueError, RecursionError):
            raise Refusal("invalid_json") from None
    return request


def _refuse_second_model(pairs: list[tuple[str, Any]]) -> None:
    if sum(name == "model" for name, _ in pairs) > 1:
        raise Refusal("invalid_field", field="model", reason="it stands there twice")


def read(request: Mapping[str, Any]) -> Ask:
    """The fields that matter. Raises Refusal `invalid_field` naming the first one of a wrong type."""
    model = request.get("model")
    if not isinstance(model, str) or not model.strip() or len(model) > MODEL_LENGTH_MAX or not model.isprintable():
        raise Refusal("invalid_field", field="model", reason="a model's name is needed")
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Refusal("invalid_field", field="stream_options", reason="an object is needed")
    tier = request.get("service_tier")
    limits = [_count(request, name, TOKENS_ASKED_MAX) for name in OUTPUT_LIMITS]
    return Ask(
        model=model,
        stream=_flag(request, "stream"),
        usage_asked=bool(options and options.get("include_usage") is True),
        output_limit=limits[0] or limits[1],
        choices=_count(request, "n", CHOICES_MAX) or 1,
        service_tier=tier if isinstance(tier, str) else "",
        user=request.get("user"),
    )


def _flag(request: Mapping[str, Any], field: str) -> bool:
    value = request.get(field)
    if value is not None and not isinstance(value, bool):
        raise Refusal("invalid_field", field=field, reason="true or false is needed")
    return bool(value)


def _count(request: Mapping[str, Any], field: str, most: int) -> int:
    value = request.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise Refusal("invalid_field", field=field, reason=f"a whole number from 1 to {most} is needed")
    return value


def permit(ask: Ask, plan: Plan, catalog: Catalog) -> Rates:
    """The rates of what is asked. Raises Refusal `model_not_allowed`, `model_not_priced`.

    The permission is for the model asked for; the price actually paid is the answering model's.
    """
    if plan.models and not any(fnmatchcase(ask.model, pattern) for pattern in plan.models):
        raise Refusal("model_not_allowed", model=ask.model)
    model = pricing.resolve(catalog.models, ask.model)
    if model is None:
        raise Refusal("model_not_priced", model=ask.model)
    return Rates(catalog.price_version, model, plan.plan, catalog.cards[plan.card])


def bound(ask: Ask, rates: Rates, input_tokens: int, slice_tokens: int) -> Bounds:
    """What to hold for a call with so much input."""
    largest = rates.model.output_max or UNKNOWN_OUTPUT_TOKENS
    full = (min(ask.output_limit, largest) if ask.output_limit else largest) * ask.choices
    stoppable = ask.stream and not rates.model.reasoning
    if stoppable:
        full = first = min(full, slice_tokens * ask.choices)
    else:
        first = min(full, PLAIN_SLICE_TOKENS * ask.choices)
    least = min(first, LEAST_TOKENS * ask.choices)

    def hold(output_tokens: int) -> int:
        return pricing.hold_mc(input_tokens, output_tokens, rates.model, rates.card, service_tier=ask.service_tier)

    return Bounds(hold(full), hold(first), hold(least), hold(0), full, stoppable)


def affordable_tokens(bounds: Bounds, held_mc: int) -> int:
    """How many output tokens, over all choices, a hold of `held_mc` covers."""
    if held_mc >= bounds.full_mc:
        return bounds.full_tokens
    spare, price = held_mc - bounds.input_mc, bounds.full_mc - bounds.input_mc
    return max(1, spare * bounds.full_tokens // price) if spare > 0 and price > 0 else 1


def with_usage(ask: Ask, request: Mapping[str, Any], body: bytes) -> bytes:
    """The body, asking for the usage of a stream."""
    if not ask.stream or ask.usage_asked:
        return body
    if "stream_options" in request:
        fields = _values(body)
        options = _values(fields["stream_options"]) if request["stream_options"] else {}
        options["include_usage"] = _TRUE
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        return msgspec.json.encode(fields)
    return _prepend(body, b'"stream_options":{"include_usage":true},')


def with_cap(rates: Rates, body: bytes, tokens: int) -> bytes:
    """The body, telling the upstream to end each answer after `tokens`, if it is not told to do so before."""
    name = OUTPUT_LIMITS[0] if rates.model.reasoning else OUTPUT_LIMITS[1]
    fields = _values(body)
    given: dict[str, int | None] = {
        limit: msgspec.json.decode(fields[limit]) for limit in OUTPUT_LIMITS if limit in fields
    }
    if not given:
        return _prepend(body, b'"%s":%d,' % (name.encode(), tokens))
    asked = {limit: count for limit, count in given.items() if count} or {name: tokens}
    fields |= {limit: msgspec.Raw(b"%d" % min(count, tokens)) for limit, count in asked.items()}
    return msgspec.json.encode(fields)


def _values(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """An object's fields, each value as it is written there."""
    return msgspec.json.decode(data, type=dict[str, msgspec.Raw])


def _prepend(body: bytes, field: bytes) -> bytes:
    start = body.index(b"{") + 1
    return body[:start] + field + body[start:]


def admit(
    event_id: UUID,
    caller: Caller,
    family: Family,
    body: bytes,
    plan: Plan,
    catalog: Catalog,
    started_at_us: int,
    started_s: float,
) -> Call:
    """The call that this request asks for, not yet held for. Raises Refusal."""
    request = parse(body)
    ask = read(request)
    check_body_user(caller, ask.user)
    rates = permit(ask, plan, catalog)
    return Call(
        event_id=event_id,
        caller=caller,
        family=family,
        ask=ask,
        rates=rates,
        request=body,
        body=with_usage(ask, request, body),
        input_tokens=estimate_prompt(len(body), request),
        strip_usage=ask.stream and not ask.usage_asked,
        started_at_us=started_at_us,
        started_s=started_s,
    )
