"""Which priced model a name means. A name is as somebody asked for it or as an upstream answered with it.

Rules, tried in this order; the first that finds a model of the map counts, and there is no guessing by likeness:

1. the name as it stands                          azure/gpt-4o, gpt-4o-mini-2024-07-18, an operator's own name
2. without a date at its end                      azure/gpt-4o-2031-01-01   → azure/gpt-4o
3. models/x is Gemini's way to say gemini/x       models/gemini-2.5-pro     → gemini/gemini-2.5-pro
4. without the provider before the first slash, where the model that is found is that provider's own
                                                  openai/gpt-4o → gpt-4o,  but foo/gpt-4o → nothing
5. a fine-tuned model is priced as fine-tuned, never as its base
                                                  ft:gpt-4o-mini-2024-07-18:org::id → ft:gpt-4o-mini-2024-07-18
   and where its base has no date, as the only dated one that there is
                                                  ft:gpt-4o-mini:org::id            → ft:gpt-4o-mini-2024-07-18

A date is taken off where the map lacks the dated name: a snapshot of which it knows nothing costs what its family
costs; and where an operator has priced the family and not the snapshot: upstreams answer with the snapshot's name, and
the price that was set is to be paid. Else a name in the map is never shortened.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from shared.pricing.model import PricedModel

NAME_LENGTH_MAX: Final = 256
"""Characters of a name that is looked up; a longer one is no model's."""

_DATE: Final = re.compile(
    r"[-@](?:20\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])|20\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))$"
)
_FINE_TUNED: Final = "ft:"
_GEMINI_API: Final = "models/"

_KINDRED: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("anthropic",),
    "azure": ("azure", "azure_text"),
    "bedrock": ("bedrock", "bedrock_converse"),
    "codestral": ("codestral", "text-completion-codestral"),
    "cohere": ("cohere", "cohere_chat"),
    "cohere_chat": ("cohere", "cohere_chat"),
    "openai": ("openai", "text-completion-openai"),
    "text-completion-openai": ("openai", "text-completion-openai"),
}
"""Prefix of a name → providers whose models it may mean, where it is not the provider's name alone."""


def resolve(models: Mapping[str, PricedModel], name: str) -> PricedModel | None:
    """The model whose price a name has, by the rules above; None where they find none."""
    if len(name) > NAME_LENGTH_MAX:
        return None
    found = next(_as_written(models, name), None)
    if found is not None:
        return found
    if name.startswith(_GEMINI_API):
        return resolve(models, f"gemini/{name.removeprefix(_GEMINI_API)}")
    provider, slash, bare = name.partition("/")
    if slash and bare:
        fine_tuned = _fine_tuned(models, bare)
        candidates = _as_written(models, bare) if fine_tuned is None else (fine_tuned,)
        return next((one for one in candidates if _is_of(one, provider)), None)
    return _fine_tuned(models, name)


def covered(models: Mapping[str, PricedModel], family: str) -> tuple[str, ...]:
    """The dated names of the map that cost what an operator has set for their family."""
    names = (name for name, model in models.items() if name.startswith(family) and not model.override)
    return tuple(sorted(name for name in names if name != family and _DATE.sub("", name) == family))


def _as_written(models: Mapping[str, PricedModel], name: str) -> Iterator[PricedModel]:
    """Rules 1 and 2: the models that a name may mean, the first one first."""
    exact = models.get(name)
    undated = _DATE.sub("", name) if name[-1:].isdigit() else name
    family = models.get(undated) if undated != name else None
    if family is not None and (exact is None or (family.override and not exact.override)):
        yield family
    if exact is not None:
        yield exact


def _fine_tuned(models: Mapping[str, PricedModel], name: str) -> PricedModel | None:
    """`ft:BASE:organisation:suffix:id`, or without what follows the base."""
    if not name.startswith(_FINE_TUNED):
        return None
    base = _FINE_TUNED + name.removeprefix(_FINE_TUNED).partition(":")[0]
    found = next(_as_written(models, base), None)
    if found is not None:
        return found
    dated = [one for one in models if one.startswith(base) and _DATE.sub("", one) == base]
    return models[dated[0]] if len(dated) == 1 else None


def _is_of(model: PricedModel, provider: str) -> bool:
    """Whether a model without a prefix is one of the provider that a prefix names."""
    if model.provider in _KINDRED.get(provider, (provider,)):
        return True
    return provider == "vertex_ai" and model.provider.startswith("vertex_ai-")
