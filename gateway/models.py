"""`GET /v1/models`, all or one: the upstream's list, less what the caller's plan does not allow or no price is known
of, with prices.

LibreChat asks for it with every page, uncached, and gives up after five seconds; it is never refused for lack of
credit, nor to a blocked account: its pages go on to be drawn, and its calls are told why they are refused. Entries
carry `pricing` (US dollars per token, as strings) and `context_length`, which LibreChat shows.
"""

import asyncio
import contextlib
import time
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import structlog
from aiohttp import web

from gateway.gate import Gate
from gateway.identity import credential, find_key, identify
from gateway.refusals import Refusal
from gateway.upstream import Upstream
from gateway.upstream_connection import UpstreamError
from gateway.whole_body import WholeBody
from shared import pricing
from shared.pricing import PricedModel
from shared.projection import Catalog, Plan

KEPT_S: Final = 10.0
"""Seconds for which the upstream's list is believed."""
LIST_S_MAX: Final = 4.0
"""Seconds that the upstream has to give its list: LibreChat waits for five."""
LIST_BYTES_MAX: Final = 4 * 1024 * 1024

log = structlog.get_logger()


class ModelList:
    """The upstream's list of models, asked for once for all who ask at the same time."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._names: list[dict[str, Any]] = []
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def get(self) -> list[dict[str, Any]]:
        """The entries, as the upstream gives them. Raises Refusal `upstream_unavailable` while none are known."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._until:
                try:
                    async with asyncio.timeout(LIST_S_MAX):
                        self._names = await self._ask()
                except (UpstreamError, TimeoutError, ValueError) as error:
                    log.warning("model_list_failed", error=f"{type(error).__name__}: {error}")
                    if not self._names:
                        raise Refusal("upstream_unavailable") from error
                self._until = loop.time() + KEPT_S
        return self._names

    async def _ask(self) -> list[dict[str, Any]]:
        async with self._upstream.send("GET", "/models", b"accept-encoding: identity\r\n", b"") as answer:
            body = WholeBody(LIST_BYTES_MAX)
            answer.listen(body)
            data = await body.whole
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
        entries = msgspec.json.decode(data).get("data")
        return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


async def models(gate: Gate, request: web.BaseRequest) -> web.Response:
    """The models that this caller may use."""
    entries = await _offered(gate, request)
    return web.Response(body=msgspec.json.encode({"object": "list", "data": entries}), content_type="application/json")


async def model(gate: Gate, request: web.BaseRequest) -> web.Response:
    """One of them. Its name is only looked up: nothing of this path goes upstream. Refusals: 404."""
    name = unquote(request.raw_path.partition("?")[0].split("/models/", 1)[1])
    for entry in await _offered(gate, request):
        if entry["id"] == name:
            return web.Response(body=msgspec.json.encode(entry), content_type="application/json")
    raise Refusal("unknown_model", model=name)


async def _offered(gate: Gate, request: web.BaseRequest) -> list[dict[str, Any]]:
    if not gate.book.loaded:
        raise Refusal("not_ready")
    key = find_key(credential(request.headers), gate.book.keys, time.time())
    # Titles, agents and the list itself may ask without a user: an unnamed caller sees the key's plan.
    plan_name = key.plan
    if "X-Sundial-User-Id" in request.headers or key.kind == "personal":
        caller = identify(key, request.headers)
        with contextlib.suppress(Refusal):  # while Redis is away the list is what is known
            await gate.budget.learn_plan(caller)
        plan_name = gate.budget.plan_of(caller)
    catalog = gate.book.catalog
    plan = catalog.plans.get(plan_name)
    if plan is None:
        raise Refusal("not_ready")  # an account or a key that is ahead of this catalog
    return offered(await gate.models.get(), catalog, plan)


def offered(entries: list[dict[str, Any]], catalog: Catalog, plan: Plan) -> list[dict[str, Any]]:
    """The entries that `plan` allows and the catalog prices, or admits without a price, each with what it costs."""
    found = []
    for entry in entries:
        name = entry["id"]
        model = pricing.resolve(catalog.models, name) or catalog.provisional
        if model is None or (plan.models and not any(fnmatchcase(name, pattern) for pattern in plan.models)):
            continue
        found.append({**entry, **_price_tag(model)})
    return found


def _price_tag(model: PricedModel) -> dict[str, Any]:
    """OpenRouter's fields, which LibreChat reads: it drops the whole list where one entry lacks them, so a model that
    is sold by the piece says 0."""
    prompt, completion = (pricing.rate_of(model.rates, kind, model.unpriced) for kind in ("input", "output"))
    scale = 10 ** (15 + model.rate_digits)
    price = {"prompt": _usd(prompt or 0, scale), "completion": _usd(completion or 0, scale)}
    return {"pricing": price, "context_length": model.input_max}


def _usd(rate: int, scale: int) -> str:
    """A rate as plain decimal US dollars per token: `0.00000015`."""
    digits = len(str(scale)) - 1
    text = f"{rate:0{digits + 1}d}"
    return f"{text[:-digits]}.{text[-digits:]}".rstrip("0").rstrip(".")
