"""What the recorded calls cost: by the product's code, by exact decimals, and by litellm from the provider's own words.

The product reads the answer, finds the price and multiplies. The exact decimals are of the same counts, straight from
the price map. litellm gets the usage as the provider wrote it, or the whole answer, and knows nothing of ours.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.answer import Answer, read_answer
from gateway.settlement import served_tier
from gateway.sse import SseTap
from meter.price_map import compile_map
from meter.prices import bundled_map, read_map
from shared.pricing import PricedModel, charge, resolve
from shared.units import quantise_nano
from shared.usage import Usage
from shared.usage_rules import normalise
from tests.precision.cost import COST_CARD
from tests.precision.exact_cost import exact_nano
from tests.precision.extraction import expectation, family_of, recorded, wire
from tests.precision.recorded import DEMANDS, demand_of
from tests.precision.rows import Row

UNIT: Final = "nano_usd"
_PREFIXES: Final[Mapping[str, str]] = {
    "api.x.ai": "xai/",
    "azure": "azure/",
    "deepseek": "deepseek/",
    "googleapis": "gemini/",
    "groq": "groq/",
    "mistral": "mistral/",
    "ollama": "ollama/",
    "openrouter": "openrouter/",
    "perplexity": "perplexity/",
    "together": "together_ai/",
    "voyage": "voyage/",
}
"""Part of a host → how LiteLLM begins the names of its models, as it tells them in `x-litellm-model-name`."""


class Priced(NamedTuple):
    """One recorded call that has a price."""

    call: Mapping[str, Any]
    answer: Answer | SseTap
    model: PricedModel
    usage: Usage
    tier: str


def measure(path: Path) -> dict[str, Any]:
    """The recorded calls at `path`: `decimal` and `litellm`, rows against the one and the other truth in nano-USD;
    `unpriced`, how many calls each model without a price has; and `wrong`, each call where the three are not one."""
    entries = read_map(bundled_map())
    models = compile_map(entries).models
    oracle = Oracle()
    tables: dict[str, dict[tuple[str, int], Row]] = {"decimal": {}, "litellm": {}}
    unpriced: Counter[str] = Counter()
    wrong: list[str] = []
    for line, found in enumerate(_priced(path, models, unpriced), 1):
        ours = charge(found.usage, found.model, COST_CARD, found.tier).cost_nano
        name = found.model.model
        truths = {"decimal": exact_nano(name, entries[name], found.usage, found.tier), "litellm": oracle.nano(found)}
        key = family_of(dict(found.call)), DEMANDS.index(demand_of(found.call["request"]))
        for truth, nano in truths.items():
            tables[truth].setdefault(key, Row()).add(ours, nano)
            if ours != nano:
                wrong.append(f"call {line} of {name}: {ours} is not {nano}, by {truth}")
    shown = {
        truth: [row.shown(family, DEMANDS[demand], UNIT) for (family, demand), row in sorted(rows.items())]
        for truth, rows in tables.items()
    }
    return {**shown, "unpriced": dict(unpriced.most_common()), "wrong": wrong}


def _priced(path: Path, models: Mapping[str, PricedModel], unpriced: Counter[str]) -> Iterator[Priced]:
    """The calls that carry usage and have a price, by the model that answered, else by the one that was asked for."""
    for call in recorded(path):
        if expectation(call) is None:
            continue
        family = family_of(call)
        answer = _read(family, call)
        prefix = next((prefix for part, prefix in _PREFIXES.items() if part in call["host"]), "")
        names = [prefix + name for name in (answer.model, call["request"].get("model")) if name]
        model = next((found for name in names if (found := resolve(models, name)) is not None), None)
        if model is None:
            unpriced[names[0]] += 1
            continue
        usage = normalise(answer.usage_raw, family=family, provider=model.provider).usage
        yield Priced(call, answer, model, usage, served_tier(answer.service_tier, answer.usage_raw, ""))


def _read(family: str, call: dict[str, Any]) -> Answer | SseTap:
    if call["chunks"] is None:
        return read_answer(family, json.dumps(call["response"]).encode())
    tap = SseTap(family, strip_usage=True)
    tap.feed(wire(call))
    tap.finish()
    return tap


class Oracle:
    """litellm's arithmetic on what the provider said."""

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        os.environ["LITELLM_MODE"] = "PRODUCTION"
        import litellm
        from litellm.llms.anthropic.chat.transformation import AnthropicConfig
        from litellm.types.llms.openai import ResponsesAPIResponse
        from litellm.types.utils import Usage as TheirUsage

        self._litellm = litellm
        self._anthropic = AnthropicConfig()
        self._response = ResponsesAPIResponse
        self._usage = TheirUsage

    def nano(self, found: Priced) -> int:
        """Of Responses the whole answer is priced: it has the searches that the usage may leave out."""
        call, model = found.call, found.model
        named = {"model": model.model, "custom_llm_provider": model.provider}
        family = family_of(dict(call))
        if family == "responses":
            said = call["response"] or next(one["response"] for one in reversed(call["chunks"]) if one.get("response"))
            whole = self._response(**{"id": "", "created_at": 0, **said})
            usd = self._litellm.completion_cost(completion_response=whole, call_type="responses", **named)
            return quantise_nano(usd)
        raw = found.answer.usage_raw or {}
        if (
            family == "embeddings"
        ):  # Voyage says a total alone, which litellm's reader of its answers takes for the prompt
            raw = {"prompt_tokens": raw["total_tokens"], **raw}
        usage = self._anthropic.calculate_usage(raw, None) if family == "messages" else self._usage(**raw)
        kind = "embedding" if family == "embeddings" else "completion"
        tier = found.answer.service_tier or None
        sides = self._litellm.cost_per_token(usage_object=usage, call_type=kind, service_tier=tier, **named)
        return quantise_nano(sum(sides))
