"""One usage object by its shape, made disjoint; and whether to believe it."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from shared.units import quantise_nano
from shared.usage import COUNT_MAX, Usage
from shared.usage_rules.counts import ABSURD, Counts, Whole, count, number
from shared.usage_rules.shapes import Place, Shape, shape_of
from shared.usage_rules.usual import FAMILIES, usual

UPSTREAM_COST_USD_MAX: Final = 100_000.0
"""Largest credible cost of one call, in US dollars; beyond it the upstream's own figure is ignored."""

_XAI_TICKS_PER_USD: Final = 10_000_000_000
_MAIN: Final = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
_PASSES: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""Counts that Anthropic gives for each pass of a call in `iterations`."""
_REASONING_BESIDE: Final = ("xai",)
"""Providers (prefixes of LiteLLM's names) that count reasoning beside the output where no total settles it."""
_REASONING_IN_TOTAL: Final = ("gemini", "vertex_ai", "google")
"""Providers whose OpenAI endpoint shows hidden reasoning in the total alone."""
_WAYS: Final[tuple[tuple[Place, Place], ...]] = (
    ("inside", "inside"),
    ("inside", "beside"),
    ("beside", "inside"),
    ("beside", "beside"),
)
"""The places of cache and reasoning, in the order in which a total is tried against them."""


_NO_USAGE: Final = Usage()


class Normalised(msgspec.Struct, frozen=True):
    usage: Usage
    flags: tuple[str, ...] = ()
    """Sorted; their meaning stands in the package's docstring."""


def normalise(
    raw: Mapping[str, Any] | None,
    *,
    family: str,
    provider: str = "",
    request: Mapping[str, Any] | None = None,
) -> Normalised:
    """The usage that `raw`, a provider's usage object as parsed, stands for. Never raises.

    `family` is the endpoint family, `provider` LiteLLM's name of the provider where it is known. `request` supplies
    what an answer without counts is sold by: `n` images, the characters of `input`.
    """
    if request is None and family in FAMILIES and type(raw) is dict:
        found = usual(raw)
        if found is not None:
            return Normalised(found)
    return by_shape(raw, family=family, provider=provider, request=request)


def by_shape(
    raw: Mapping[str, Any] | None, *, family: str, provider: str = "", request: Mapping[str, Any] | None = None
) -> Normalised:
    """As `normalise`, always by the table of shapes."""
    measured = _measured(family, request)
    if not isinstance(raw, Mapping) or not raw:
        return Normalised(measured)
    shape = shape_of(raw, family)
    if shape is None:
        return Normalised(measured, ("unrecognised",))
    flags: set[str] = set()
    counts = Counts(_by_path(raw), flags)
    usage = _disjoint(shape, counts, family, provider.lower(), flags)
    if counts.of(("tool_usage.image_gen.total_tokens",)):
        flags.add("tool_tokens")
    if _may_be_litellms(shape, raw, family):
        flags.add("by_proxy")
    if not measured.is_zero:
        usage = msgspec.structs.replace(usage, images=measured.images, characters=measured.characters)
    return Normalised(usage, tuple(sorted(flags)))


def credible(raw: Mapping[str, Any] | None, *, family: str) -> bool:
    """Whether `raw` may be booked as the provider's word: it counts something, and its main counts are possible.

    A usage that is not credible is no evidence: such a call is recounted.
    """
    if type(raw) is not dict and not isinstance(raw, Mapping):  # asking an abstract class is slow
        return False
    some = False
    for key in _MAIN:
        found, right = count(raw.get(key))
        if not right:
            return False
        some = some or found > 0
    if some:
        return True
    normalised = normalise(raw, family=family)
    return not normalised.usage.is_zero and ABSURD not in normalised.flags


def absurd(raw: Mapping[str, Any] | None, *, family: str) -> bool:
    """Whether `raw` has counts that cannot be, its main ones or others: it says something, and wrongly."""
    if not isinstance(raw, Mapping):
        return False
    return not all(count(raw.get(key))[1] for key in _MAIN) or ABSURD in normalise(raw, family=family).flags


def counts(value: Any) -> bool:
    """Whether `value` is a count of at least one."""
    found, right = count(value)
    return right and found > 0


def upstream_cost_nano(raw: Mapping[str, Any] | None) -> int:
    """The cost that the upstream itself computed, in nano-USD; 0 where it says none or nothing credible.

    LiteLLM and OpenRouter: `cost`, a number of dollars; Perplexity: `cost.total_cost`; xAI: `cost_in_usd_ticks`.
    """
    if type(raw) is not dict and not isinstance(raw, Mapping):
        return 0
    cost = raw.get("cost")
    if cost is None and "cost_in_usd_ticks" not in raw:
        return 0
    usd = number(cost.get("total_cost") if isinstance(cost, Mapping) else cost)
    if usd is None:
        ticks = number(raw.get("cost_in_usd_ticks"))
        if ticks is None or not 0 < ticks <= UPSTREAM_COST_USD_MAX * _XAI_TICKS_PER_USD:
            return 0
        usd = ticks / _XAI_TICKS_PER_USD
    return quantise_nano(float(usd)) if 0 < usd <= UPSTREAM_COST_USD_MAX else 0


def _measured(family: str, request: Mapping[str, Any] | None) -> Usage:
    """What a call is sold by where no tokens are counted."""
    if not isinstance(request, Mapping):
        return _NO_USAGE
    if family == "images":
        images, right = count(request.get("n"))
        return Usage(images=images if right and images else 1)
    text = request.get("input")
    if family == "speech" and isinstance(text, str):
        return Usage(characters=min(len(text), COUNT_MAX))
    return _NO_USAGE


def _may_be_litellms(shape: Shape, raw: Mapping[str, Any], family: str) -> bool:
    """Whether it has the form in which LiteLLM (1.106) reports a stream of which the provider gave totals alone, or
    nothing: then it counts by its own tokenizer. The two look alike."""
    if shape.name == "chat":
        made = raw.get("completion_tokens_details")
        return isinstance(made, Mapping) and "text_tokens" in made and not raw.get("prompt_tokens_details")
    details = raw.get("input_tokens_details") or raw.get("output_tokens_details")
    return shape.name == family == "responses" and "total_tokens" in raw and not details


def _disjoint(shape: Shape, counts: Counts, family: str, provider: str, flags: set[str]) -> Usage:
    """Each kind for itself: parts are taken out of their wholes, in the order in which they may overlap."""
    tokens_in = counts.of(shape.input) + sum(counts.of((path,)) for path in shape.input_beside)
    tokens_out = counts.of(shape.output)
    cached, cached_audio = counts.of(shape.cached), counts.of(shape.cached_audio)
    write_1h = counts.of(shape.cache_write_1h)
    write = counts.of(shape.cache_write) or counts.of(shape.cache_write_5m) + write_1h
    reasoning = counts.of(shape.reasoning)

    cache, thinking = shape.cache, shape.thinking
    total = counts.of(shape.total)
    if not total and shape.name == "chat" and provider.startswith(_REASONING_BESIDE):
        thinking = "beside"
    if total:
        plain = tokens_in + tokens_out
        surplus = total - plain - counts.of(shape.unbilled)
        way = _adds_up(total, plain, cached + write, reasoning, (cache, thinking))
        if way is not None:
            cache, thinking = way
        elif surplus > 0 and not reasoning and (provider.startswith(_REASONING_IN_TOTAL) or shape.name == "gemini"):
            reasoning, thinking = surplus, "beside"
            flags.add("by_total")
        elif surplus:
            flags.add("inconsistent")

    read = Whole(tokens_in + (cached + write if cache == "beside" else 0), flags)
    made = Whole(tokens_out + (reasoning if thinking == "beside" else 0), flags)
    cached, write = read.part(cached), read.part(write)
    write_1h = Whole(write, flags).part(write_1h)
    cached_audio = Whole(cached, flags).part(cached_audio)
    # Cached tokens may be audio or images too; then those have only what the cache left of the input.
    audio_in = read.share(max(counts.of(shape.audio_in) - cached_audio, 0))
    image_in = read.share(counts.of(shape.image_in))
    reasoning = made.part(reasoning)
    audio_out, image_out = made.part(counts.of(shape.audio_out)), made.part(counts.of(shape.image_out))
    if family == "images" and not image_out and not counts.of(shape.text_out):
        image_out = made.part(made.left)
    if family == "speech" and not audio_out and not counts.of(shape.text_out):
        audio_out = made.part(made.left)
    return Usage(
        input=read.left,
        cached=cached - cached_audio,
        cached_audio=cached_audio,
        cache_write=write - write_1h,
        cache_write_1h=write_1h,
        audio_in=audio_in,
        image_in=image_in,
        output=made.left,
        reasoning=reasoning,
        audio_out=audio_out,
        image_out=image_out,
        searches=counts.of(shape.searches),
        duration_ms=counts.milliseconds(shape.seconds),
    )


def _adds_up(
    total: int, plain: int, cache: int, reasoning: int, usual: tuple[Place, Place]
) -> tuple[Place, Place] | None:
    """The places of cache and reasoning with which the sum is the total: the shape's usual ones, else the first."""
    for way in (usual, *_WAYS):
        if plain + cache * (way[0] == "beside") + reasoning * (way[1] == "beside") == total:
            return way
    return None


def _by_path(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """`raw` with its lists as objects, so that a path leads to each count.

    Lists by modality (Gemini) or lifetime (Bedrock) become objects by that name. `iterations` (Anthropic, a call of
    several passes) are summed: the counts beside them leave passes out, and the sum is what is billed.
    """
    lists = {key: value for key, value in raw.items() if type(value) is list}
    if not lists:
        return raw
    steps = [step for step in lists.pop("iterations", ()) if isinstance(step, Mapping)]
    named = {
        key: {str(item.get("modality") or item.get("ttl")): item for item in value if isinstance(item, Mapping)}
        for key, value in lists.items()
    }
    summed = {key: sum(count(step.get(key))[0] for step in steps) for key in _PASSES} if steps else {}
    return {**raw, **named, **summed}
