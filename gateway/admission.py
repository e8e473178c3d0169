"""From a request's body to a call: what is asked, whether it may be, what is sent upstream. Pure.

The body is passed on as it came. Fields that the gateway adds (`stream_options`, a cap on the output) are put in front
of it; where such a field is there already the object is written anew around its values. Not even the spelling of a
number changes.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from gateway import asks
from gateway.asks import Ask
from gateway.asks.image_names import IMAGE_IN_TOKENS, priced_image
from gateway.asks.media import MODERATION_MODEL
from gateway.asks.usual import usual_chat
from gateway.bounds import Rates, priceable
from gateway.event_ids import as_text
from gateway.families import CHAT, CHAT_LIMITS, Family
from gateway.identity import Caller, check_body_user
from gateway.prices import keep
from gateway.recount.estimate import estimate_prompt, estimate_texts
from gateway.refusals import Refusal
from shared import pricing
from shared.pricing import PricedModel
from shared.projection import Catalog, Plan

if TYPE_CHECKING:
    from gateway.bodies import Upload

_TRUE: Final = msgspec.Raw(b"true")
_UNPRICED_MODERATION: Final = PricedModel(model="", mode="moderation", rates={"requests": 0})
_KINDS_IN: Final = {"audio_in": b'"input_audio"', "image_in": b"image", "cache_write_1h": b'"1h"'}
"""Kinds of input that not every call has, with what stands in the body of each call that has them."""
_USAGE: Final = b'"stream_options":{"include_usage":true},'


class Call(msgspec.Struct, frozen=True):
    """One admitted client request. `body` is what goes upstream, `request` what came."""

    event_id: UUID
    event_text: str
    """The same as text, made once."""
    caller: Caller
    family: Family
    ask: Ask
    rates: Rates
    catalog: Catalog
    """What it is priced by to its end: prices that change while it runs are for the calls after it, as its hold could
    not have been made for them."""
    request: bytes
    body: bytes
    input_tokens: int
    """Upper estimate, or the exact count where the estimate would have meant a refusal."""
    strip_usage: bool
    started_at_us: int
    started_s: float
    """Of the event loop's clock."""
    upload: "Upload | None" = None
    """The rest of a body that is passed through, and what has been seen of it."""

    def repriced(self, rates: Rates, input_tokens: int, catalog: Catalog | None = None) -> "Call":
        """The same call at other rates, of a catalog that may be newer, or with its input counted anew."""
        return msgspec.structs.replace(self, rates=rates, input_tokens=input_tokens, catalog=catalog or self.catalog)


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


def permit(ask: Ask, plan: Plan, catalog: Catalog) -> Rates:
    """The rates of what is asked. Raises Refusal `model_not_allowed`, `model_not_priced`.

    The permission is for the model asked for; the price actually paid is the answering model's. What is permitted once
    is permitted as long as the catalog stands. Of images, what they are like counts too: those are looked up each time.
    """
    if ask.sold == "images":
        return _permit(ask, plan, catalog)
    key = (plan, ask.model, ask.sold)
    rates: Rates | None = catalog.known.get(key)
    if rates is None:
        rates = _permit(ask, plan, catalog)
        keep(catalog, key, rates)
    return rates


def _permit(ask: Ask, plan: Plan, catalog: Catalog) -> Rates:
    if plan.models and not any(fnmatchcase(ask.model, pattern) for pattern in plan.models):
        raise Refusal("model_not_allowed", model=ask.model)
    model, image = pricing.resolve(catalog.models, ask.model), None
    if ask.sold == "images":
        image = priced_image(catalog.models, ask.model, ask.quality, ask.size)
        model = model or image
    elif ask.sold == "request" and model is None:
        model = catalog.models.get(MODERATION_MODEL, _UNPRICED_MODERATION)
    if model is None and ask.sold in ("text", "input"):
        model = catalog.provisional  # tokens alone: nothing else has a rate in it
    if model is None:
        raise Refusal("model_not_priced", model=ask.model)
    rates = Rates(catalog.price_version, model, plan.plan, catalog.cards[plan.card], image)
    if not priceable(ask, rates):
        raise Refusal("model_not_priced", model=ask.model)
    return rates


def with_model(ask: Ask, request: Mapping[str, Any], body: bytes) -> bytes:
    """The body, naming the model that it is priced as, where the client left the choice to the upstream."""
    if request.get("model") is not None:
        return body
    return msgspec.json.encode({**_values(body), "model": ask.model})


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
    return _prepend(body, _USAGE)


def with_cap(rates: Rates, body: bytes, tokens: int, limits: Sequence[str] = CHAT_LIMITS) -> bytes:
    """The body, telling the upstream to end each answer after `tokens`, if it is not told to do so before.

    `limits` are the names of the field that says it, the one for models that think first.
    """
    name = limits[0] if rates.model.reasoning else limits[-1]
    fields = _values(body)
    given: dict[str, int | None] = {limit: msgspec.json.decode(fields[limit]) for limit in limits if limit in fields}
    if not given:
        return _prepend(body, b'"%s":%d,' % (name.encode(), tokens))
    asked = {limit: count for limit, count in given.items() if count} or {name: tokens}
    fields |= {limit: msgspec.Raw(b"%d" % min(count, tokens)) for limit, count in asked.items()}
    return msgspec.json.encode(fields)


def _values(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """An object's fields, each value as it is written there."""
    return msgspec.json.decode(data, type=dict[str, msgspec.Raw])


def _prepend(body: bytes, field: bytes) -> bytes:
    return body.replace(b"{", b"{" + field, 1)


def admit(
    event_id: UUID,
    caller: Caller,
    family: Family,
    body: "bytes | Upload",
    plan: Plan,
    catalog: Catalog,
    started_at_us: int,
    started_s: float,
) -> Call:
    """The call that this request asks for, not yet held for. Raises Refusal."""
    if not isinstance(body, bytes):
        return _admit_upload(event_id, caller, family, body, plan, catalog, started_at_us, started_s)
    usual = usual_chat(body) if family is CHAT else None
    if usual is not None:
        ask, chat = usual
        sent = _prepend(body, _USAGE) if ask.stream and not ask.usage_asked else body
        tokens = estimate_texts(len(body), ask.model, tools=bool(chat.tools), schema=bool(chat.response_format))
    else:
        request = parse(body)
        ask = asks.read(family, request)
        sent = with_usage(ask, request, with_model(ask, request, body))
        tokens = estimate_prompt(len(body), request)
    check_body_user(caller, ask.user)
    rates = permit(ask, plan, catalog)
    return Call(
        event_id=event_id,
        event_text=as_text(event_id),
        caller=caller,
        family=family,
        ask=_with_kinds(ask, rates.model, body),
        rates=rates,
        catalog=catalog,
        request=body,
        body=sent,
        input_tokens=tokens,
        strip_usage=ask.stream and not ask.usage_asked,
        started_at_us=started_at_us,
        started_s=started_s,
    )


def _admit_upload(
    event_id: UUID,
    caller: Caller,
    family: Family,
    upload: "Upload",
    plan: Plan,
    catalog: Catalog,
    started_at_us: int,
    started_s: float,
) -> Call:
    """The same of a form, of which the fields that matter have come. Raises Refusal."""
    fields = upload.form.request()
    ask = asks.read(family, fields)
    check_body_user(caller, ask.user)
    size = sum(len(value.encode()) for value in upload.form.fields.values())
    return Call(
        event_id=event_id,
        event_text=as_text(event_id),
        caller=caller,
        family=family,
        ask=ask,
        rates=permit(ask, plan, catalog),
        catalog=catalog,
        request=b"",
        body=upload.begun,
        input_tokens=estimate_prompt(size, fields) + ask.images_in * IMAGE_IN_TOKENS,
        strip_usage=False,
        started_at_us=started_at_us,
        started_s=started_s,
        upload=upload,
    )


def _with_kinds(ask: Ask, model: PricedModel, body: bytes) -> Ask:
    """The ask, naming the kinds of input that have a price of their own and stand in the body."""
    if _KINDS_IN.keys().isdisjoint(model.rates) or ask.sold != "text":
        return ask
    further = tuple(kind for kind, mark in _KINDS_IN.items() if kind in model.rates and mark in body)
    return msgspec.structs.replace(ask, kinds_in=(*ask.kinds_in, *further)) if further else ask
