"""Cost, three ways over the whole price map: our integers, exact decimals, and litellm's own arithmetic.

`measure` is what `make precision` calls; the test suite runs a sample of it.
"""

import json
import math
import os
import random
import re
from collections import Counter
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

from meter.price_map import compile_map
from meter.prices import bundled_map, read_map
from shared.pricing import EXTRAS, MEASURES, TOKENS_IN, TOKENS_OUT, PricedModel, RateCard, charge
from shared.units import MC_MAX, NANO_PER_USD, quantise_nano
from shared.usage import Usage
from tests.precision.exact_cost import exact_nano, exact_usd
from tests.precision.rows import Row

COST_CARD = RateCard(card="cost", family="cost")
IMAGES_MAX = 100
"""litellm counts images in a list of so many."""
DECIMAL = "exact decimals"
LITELLM = "litellm"
UNEXPLAINED = "unexplained"
WRONG_SHOWN = 10
FLOAT_TERMS = 16
"""Products and sums in litellm's float of one call, at most: so many half units in the last place it may be off."""

_EDGES = (0, 0, 0, 1, 1, 2, 999, 1_000, 2**31 - 1, 2**31, 2**40)


def measure(calls: int, seed: int = 1) -> dict[str, Any]:
    """Price `calls` random usages, going round all priced models.

    Returns `rows` by the models' mode, in nano-USD, against the exact decimals and against litellm where it has
    arithmetic for the case; counts of `models` and `unpriceable` ones; `differences` from litellm by reason; `wrong`.
    """
    entries = read_map(bundled_map())
    floats = json.loads(bundled_map().read_text(encoding="utf-8"))
    compiled = compile_map(entries)
    oracle = Oracle()
    dice = random.Random(seed)
    names = list(compiled.models)
    dice.shuffle(names)
    rows: dict[tuple[str, str], Row] = {}
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(calls):
        name = names[number % len(names)]
        model = compiled.models[name]
        tier = dice.choice(("", "", "default", "fast", *model.service))
        if model.uplifts and dice.random() < 0.3:
            tier += "@" + dice.choice(list(model.uplifts))
        usage = random_usage(dice, model)
        charged = charge(usage, model, COST_CARD, tier)
        exact = exact_nano(name, entries[name], usage, tier)
        right = charged.charge_mc == charged.cost_nano
        rows.setdefault((model.mode, DECIMAL), Row()).add(charged.cost_nano, min(exact, MC_MAX), exact=right)
        if not right or charged.cost_nano != min(exact, MC_MAX):
            wrong.append(f"{name} {tier!r} {usage}: {charged.cost_nano} is not {exact}")
        theirs = oracle.usd(name, floats[name], usage, tier)
        if theirs is None:
            reasons["litellm has no arithmetic for it"] += 1
            continue
        rows.setdefault((model.mode, LITELLM), Row()).add(exact, quantise_nano(theirs))
        if quantise_nano(theirs) != exact:
            reason = _reason(theirs, exact_usd(name, entries[name], usage, tier), model, usage, tier)
            reasons[reason] += 1
            if reason == UNEXPLAINED:
                wrong.append(f"{name} {tier!r} {usage}: litellm has {theirs!r}")
    return {
        "models": len(names),
        "unpriceable": len(compiled.unpriceable),
        "rows": [row.shown(mode, truth, "nano_usd") for (mode, truth), row in sorted(rows.items())],
        "differences": dict(reasons.most_common()),
        "wrong": wrong[:WRONG_SHOWN],
    }


def random_usage(dice: random.Random, model: PricedModel) -> Usage:
    """Counts at the edges and between, of kinds that the model prices; sometimes all kinds, sometimes one."""
    bounds = {tier.above for tiers in (model.tiers, *(t.tiers for t in model.service.values())) for tier in tiers}
    edges = [*_EDGES, *(bound + step for bound in bounds for step in (-1, 0, 1))]
    share = dice.choice((0.15, 0.4, 0.9))

    def count() -> int:
        draw = dice.random()
        if draw < 0.3:
            return dice.choice(edges)
        return int(math.pow(10, dice.uniform(0, 6 if draw < 0.95 else 12)))

    kinds = [kind for kind in (*TOKENS_IN, *TOKENS_OUT) if kind not in model.unpriced]
    if "cached" in model.unpriced and "cached_audio" not in model.rates:
        kinds.remove("cached_audio")
    if "cache_write" in model.unpriced:
        kinds.remove("cache_write_1h")
    counts = {kind: count() for kind in kinds if dice.random() < share}
    if bounds and dice.random() < 0.5:
        counts = {kind: 0 if kind in TOKENS_IN else units for kind, units in counts.items()}
        counts["input"] = dice.choice(edges[len(_EDGES) :])
    measures = [kind for kind in (*MEASURES, *EXTRAS) if kind in model.rates]
    if measures and dice.random() < 0.5:
        if dice.random() < 0.7 and any(kind in MEASURES for kind in measures):
            counts = {}
        counts |= {kind: min(count(), 10**6) for kind in measures}
    return Usage(**counts)


def _reason(theirs: float, exact: Decimal, model: PricedModel, usage: Usage, tier: str) -> str:
    if quantise_nano(theirs) == _rounded_twice(exact):
        return "rounded twice: to pico-USD first"
    if abs(Decimal(theirs) - exact) <= FLOAT_TERMS * Decimal(math.ulp(max(theirs, float(exact)))):
        return "litellm's float has too few digits"
    if usage.tokens_in == 0 and model.tiers and usage.tokens_out:
        return "litellm takes no row of tiered_pricing without input"
    if tier == "batch" and model.mode == "image_generation":
        return "litellm gives text of an image model away in a batch"
    if model.beside and usage.images and usage.image_in:
        return "litellm leaves image tokens out beside a count of images"
    return UNEXPLAINED


def _rounded_twice(exact: Decimal) -> int:
    """As quantise_nano does with a float, where it must tell noise from a tie."""
    with localcontext(Context(prec=120, rounding=ROUND_HALF_EVEN)):
        return int((exact.quantize(Decimal("1e-12")) * NANO_PER_USD).to_integral_value())


class Oracle:
    """litellm's arithmetic, on floats as it reads them from its map."""

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        os.environ["LITELLM_MODE"] = "PRODUCTION"
        import litellm
        from litellm.cost_calculator import batch_cost_calculator, default_image_cost_calculator
        from litellm.litellm_core_utils.llm_cost_calc.tool_call_cost_tracking import StandardBuiltInToolCostTracking
        from litellm.litellm_core_utils.llm_cost_calc.utils import (
            CostCalculatorUtils,
            generic_cost_per_character,
            generic_cost_per_token,
        )
        from litellm.llms import get_cost_for_web_search_request
        from litellm.llms.anthropic.cost_calculation import cost_per_token as anthropic_cost_per_token
        from litellm.llms.openai.cost_calculation import cost_per_second
        from litellm.types import utils as types

        litellm.disable_hf_tokenizer_download = True
        self._types = types
        self._generic = generic_cost_per_token
        self._anthropic = anthropic_cost_per_token
        self._batch = batch_cost_calculator
        self._search = get_cost_for_web_search_request
        self._default_search = StandardBuiltInToolCostTracking.get_cost_for_web_search
        self._second = cost_per_second
        self._character = generic_cost_per_character
        self._sized_image = default_image_cost_calculator
        self._image = CostCalculatorUtils.route_image_generation_cost_calculator

    def usd(self, name: str, entry: dict[str, Any], usage: Usage, tier: str) -> float | None:
        """None where litellm has no function from the counts of this usage to a price."""
        provider = str(entry.get("litellm_provider", ""))
        mode = entry.get("mode")
        tier, _, served = tier.partition("@")
        if usage.characters or usage.duration_ms or (usage.images and mode != "embedding"):
            alone = not (usage.tokens_in or usage.tokens_out or usage.searches or served)
            return self._measured(name, provider.partition("-")[0], usage) if alone else None
        raw = self._usage(usage)
        raw.prompt_tokens_details.image_count = usage.images
        if mode in ("rerank", "search"):
            raw.prompt_tokens_details.query_count = usage.searches
            return float(sum(self._generic(name, raw, provider, model_info=entry)))
        where = {"data_residency": served or None, "vertex_location": "us-east5" if served == "regional" else None}
        if tier == "batch":
            if provider == "anthropic" and served:
                return None
            sides = self._batch(raw, name, custom_llm_provider=provider, model_info=entry, **where)
        elif provider == "anthropic":
            raw.speed = "fast" if served == "fast" else None
            raw.inference_geo = "us" if served == "us" else None
            sides = self._anthropic(name, raw, service_tier=tier or None, model_info=entry)
        else:
            sides = self._generic(name, raw, provider, service_tier=tier or None, model_info=entry, **where)
        return float(sum(sides)) + self._searches(name, provider, entry, raw, usage.searches)

    def _measured(self, name: str, provider: str, usage: Usage) -> float | None:
        """One measure of a model that litellm finds in its own copy of the map."""
        try:
            if usage.characters:
                return float(self._character(name, provider, usage.characters, 0, None, 0)[0])
            if usage.duration_ms:
                return float(sum(self._second(name, provider, usage.duration_ms / 1_000)))
            if sized := re.fullmatch(r"(?:(.*?)/)??(?:([a-z]+)/)?(\d+-x-\d+)/(.*)", name):
                prefix, quality, size, model = sized.groups()
                model = f"{prefix}/{model}" if prefix else model
                return float(self._sized_image(model, prefix, quality, usage.images, size))
            if usage.images > IMAGES_MAX:
                return None
            images = self._types.ImageResponse(data=[self._types.ImageObject(url="")] * usage.images)
            return float(self._image(model=name, completion_response=images, custom_llm_provider=provider))
        except Exception:  # noqa: BLE001 - litellm raises bare ones for what it does not find
            return None

    def _searches(self, name: str, provider: str, entry: dict[str, Any], raw: Any, searches: int) -> float:
        if not searches:
            return 0.0
        info = {**entry, "key": name}
        found = self._search(custom_llm_provider=provider, usage=raw, model_info=info)
        return float(self._default_search(None, info) * searches if found is None else found)

    def _usage(self, usage: Usage) -> Any:
        types = self._types
        written = usage.cache_write + usage.cache_write_1h
        prompt = types.PromptTokensDetailsWrapper(
            text_tokens=usage.input,
            cached_tokens=usage.cached + usage.cached_audio,
            audio_tokens=usage.audio_in + usage.cached_audio,
            image_tokens=usage.image_in,
            cache_creation_tokens=written,
            cache_creation_token_details=types.CacheCreationTokenDetails(
                ephemeral_5m_input_tokens=usage.cache_write, ephemeral_1h_input_tokens=usage.cache_write_1h
            ),
            cached_tokens_details={"audio_tokens": usage.cached_audio},
            web_search_requests=usage.searches,
        )
        completion = types.CompletionTokensDetailsWrapper(
            text_tokens=usage.output,
            reasoning_tokens=usage.reasoning,
            audio_tokens=usage.audio_out,
            image_tokens=usage.image_out,
        )
        return types.Usage(
            prompt_tokens=usage.tokens_in,
            completion_tokens=usage.tokens_out,
            total_tokens=usage.tokens_in + usage.tokens_out,
            prompt_tokens_details=prompt,
            completion_tokens_details=completion,
            server_tool_use=types.ServerToolUse(web_search_requests=usage.searches),
            server_side_tool_usage_details={"web_search_calls": usage.searches},
        )
