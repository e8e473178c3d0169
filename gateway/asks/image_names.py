"""Under which names single images are priced, and how many tokens one may have. Pure.

A price list sells an image by quality and size: `hd/1024-x-1792/dall-e-3`, with a provider's prefix in front of both:
`azure/hd/1024-x-1792/dall-e-3`. Where an answer does not say what it has, and the request did not ask for anything, the
dearest of a model's images counts, unless the operator gave the model a price of its own.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from shared import pricing
from shared.pricing import PricedModel

IMAGE_TOKENS_MAX: Final = 16_384
"""Output tokens of the largest image of a model whose sizes are not in IMAGE_TOKENS."""
PARTIAL_TOKENS: Final = 100
"""Output tokens of an unfinished image in a stream."""
PARTIALS_MAX: Final = 3
"""Unfinished images in a stream."""
IMAGE_IN_TOKENS: Final = 6_500
"""Input tokens of the largest image that is sent along to be edited, at high fidelity."""

IMAGE_TOKENS: Final[Mapping[str, Mapping[str, int]]] = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1_056, "1024x1536": 1_584, "1536x1024": 1_568},
    "high": {"1024x1024": 4_160, "1024x1536": 6_240, "1536x1024": 6_208},
}
"""Output tokens of an image by gpt-image-1 and its kin, as OpenAI documents them."""
_DOCUMENTED: Final = re.compile(r"gpt-image-1(?![0-9])")

_DEFAULTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("dall-e-3", "standard", "1024x1024"),
    ("dall-e-2", "standard", "1024x1024"),
)
"""What a model makes where a request does not say: part of its name, quality, size."""
_SIZED: Final = re.compile(r"(?:[a-z]+/)?\d+-x-\d+/")


def priced_names(model: str, quality: str, size: str) -> tuple[str, ...]:
    """The names under which an image of this quality and size has a price, the more exact one first."""
    for part, usual, usual_size in _DEFAULTS:
        if part in model:
            quality, size = quality or usual, size or usual_size
    if not size:
        return ()
    wide = size.replace("x", "-x-")
    kinds = (f"{quality}/{wide}", wide) if quality else (wide,)
    provider, slash, rest = model.partition("/")
    prefixed = [f"{provider}/{kind}/{rest}" for kind in kinds] if slash else []
    return (*prefixed, *(f"{kind}/{model}" for kind in kinds))


def priced_image(models: Mapping[str, PricedModel], model: str, quality: str, size: str) -> PricedModel | None:
    """The price of one image: of that quality and size, else the model's own, else the dearest of its sizes.

    A model that has prices for sizes has one of its own only where an operator set it: for all other images."""
    for name in priced_names(model, quality, size):
        found = pricing.resolve(models, name)
        if found is not None and "images" in found.rates:
            return found
    plain = pricing.resolve(models, model)
    if plain is not None and "images" in plain.rates:
        return plain
    return max(_all_sized(models, model), key=lambda one: one.rates["images"], default=None)


def image_tokens(model: str, quality: str, size: str) -> int:
    """Output tokens of one image; at most so many where it is not known what it will be."""
    if not _DOCUMENTED.search(model):
        return IMAGE_TOKENS_MAX
    rows = [IMAGE_TOKENS[quality]] if quality in IMAGE_TOKENS else list(IMAGE_TOKENS.values())
    return max(row[size] if size in row else max(row.values()) for row in rows)


def _all_sized(models: Mapping[str, PricedModel], model: str) -> Iterator[PricedModel]:
    """The images of a model in all qualities and sizes; a few hundred microseconds for the whole map."""
    provider, slash, rest = model.partition("/")
    ends = {model, rest} if slash else {model}
    for name, priced in models.items():
        if "-x-" not in name or "images" not in priced.rates:
            continue
        found = _SIZED.search(name)
        if found is None or name[found.end() :] not in ends:
            continue
        prefix = name[: found.start()]
        own = not prefix and (not slash or priced.provider == provider or name.endswith("/" + model))
        if own or (slash and prefix == provider + "/" and name[found.end() :] == rest):
            yield priced
