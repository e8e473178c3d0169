"""What is held for families other than chat, what has a price at all, and under which names images stand."""

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import permit
from gateway.asks.image_names import IMAGE_TOKENS_MAX, image_tokens, priced_image, priced_names
from gateway.bounds import FLAT_SOUND_S, LEAST_SOUND_S, PLAIN_SLICE_TOKENS, Rates, bound
from shared import pricing
from shared.pricing import RateCard
from shared.projection import Catalog
from shared.usage import Usage
from tests.harness.calls import COST, MINI, PLAN, THINKER, TOKENS, ask, refused
from tests.harness.media import (
    EMBEDDER,
    GPT_IMAGE,
    MODELS,
    MODERATOR,
    PRICED,
    SCRIBE,
    TALKER,
    TTS,
    WHISPER,
    image,
    rates,
)

BY_TOKEN: Final = msgspec.structs.replace(PLAN, card="tokens@1")
BY_COST: Final = msgspec.structs.replace(PLAN, card="cost@1")


def whole(asked: dict[str, Any], of: Rates, tokens: int = 0) -> int:
    """What is held where nothing is left open: all bounds are one."""
    bounds = bound(ask(**asked), of, tokens, 1_024)
    assert bounds.full_mc == bounds.slice_mc == bounds.least_mc == bounds.input_mc
    assert not bounds.stoppable
    return bounds.full_mc


def test_images_are_held_for_one_by_one() -> None:
    """At their price by the piece, to the unit; by tokens as many as the dearest look has."""
    assert whole({"sold": "images", "choices": 3}, rates(image("dall"), image=image("dall"))) == 120_000_000
    unknown = {"sold": "images", "stream": False, "choices": 1, "model": "gpt-image-1"}
    known = {**unknown, "choices": 2, "quality": "low", "size": "1024x1024"}
    assert whole(known, rates(GPT_IMAGE), 100) == 100 * 10_000 + 2 * 272 * 40_000
    assert whole(unknown, rates(GPT_IMAGE)) == 6_240 * 40_000
    assert whole({**unknown, "stream": True}, rates(GPT_IMAGE)) == (6_240 + 300) * 40_000
    assert whole({**unknown, "model": "gpt-image-9"}, rates(GPT_IMAGE)) == IMAGE_TOKENS_MAX * 40_000


def test_speech_is_held_for_by_its_characters() -> None:
    """Exactly where characters are sold, at the most tokens that they can take where tokens are."""
    assert whole({"sold": "speech", "characters": 1_000}, rates(TTS)) == 15_000_000
    assert whole({"sold": "speech", "characters": 1_000}, rates(TALKER), 250) == 250 * 600 + 6_000 * 12_000


def test_sound_is_held_for_by_a_flat_time() -> None:
    """Ten minutes, of which one must be affordable; the upstream cannot be told to stop."""
    bounds = bound(ask(sold="sound", stream=False), rates(WHISPER), 0, 1_024)
    assert (bounds.full_mc, bounds.slice_mc) == (FLAT_SOUND_S * 100_000, FLAT_SOUND_S * 100_000)
    assert bounds.least_mc == LEAST_SOUND_S * 100_000
    tokens = bound(ask(sold="sound"), rates(SCRIBE), 20, 1_024)
    assert tokens.full_mc == (20 + FLAT_SOUND_S * 10) * 2_500 + 2_000 * 10_000


def test_what_reads_alone_is_held_for_whole() -> None:
    """Embeddings: the input, exactly; a moderation: nothing."""
    assert whole({"sold": "input"}, rates(EMBEDDER), 5_000) == 100_000
    assert whole({"sold": "request"}, rates(MODERATOR), 5_000) == 0
    assert whole({"sold": "request"}, rates(MINI, COST), 1_000) == 150_000


def test_a_model_that_is_not_told_to_think_can_be_stopped() -> None:
    """Anthropic's: a stream without thought is extended slice by slice, one with thought is capped and must pay for its
    budget."""
    assert bound(ask(thinks=False), rates(THINKER), 0, 1_024).stoppable
    thinking = bound(ask(thinks=True, least_output=20_001), rates(THINKER), 0, 1_024)
    assert not thinking.stoppable
    assert thinking.least_mc == thinking.slice_mc == 20_001 * 4_400
    assert bound(ask(thinks=True, least_output=2), rates(THINKER), 0, 1_024).slice_mc == PLAIN_SLICE_TOKENS * 4_400


@pytest.mark.parametrize(
    ("asked", "plan", "priced"),
    [
        ({"model": "gpt-image-1", "sold": "images"}, BY_COST, "gpt-image-1"),
        ({"model": "gpt-image-1", "sold": "images"}, BY_TOKEN, "gpt-image-1"),
        ({"model": "azure/dall-e-3", "sold": "images"}, BY_COST, "azure/standard/1024-x-1024/dall-e-3"),
        ({"model": "azure/dall-e-3", "sold": "images"}, BY_TOKEN, None),
        ({"model": "dall-e-3", "sold": "images"}, BY_COST, None),
        ({"model": "tts-1", "sold": "speech"}, BY_COST, "tts-1"),
        ({"model": "tts-1", "sold": "speech"}, BY_TOKEN, None),
        ({"model": "talker", "sold": "speech"}, BY_TOKEN, "talker"),
        ({"model": "whisper-1", "sold": "sound"}, BY_COST, "whisper-1"),
        ({"model": "whisper-1", "sold": "sound"}, BY_TOKEN, None),
        ({"model": "scribe", "sold": "sound"}, BY_COST, "scribe"),
        ({"model": "imagen", "sold": "text"}, BY_COST, None),
        ({"model": "tts-1", "sold": "input"}, BY_COST, None),
        ({"model": "gpt-mini", "sold": "images"}, BY_COST, "gpt-mini"),
        ({"model": "gpt-mini", "sold": "speech"}, BY_COST, "gpt-mini"),
        ({"model": "text-moderation-stable", "sold": "request"}, BY_COST, "omni-moderation-latest"),
    ],
)
def test_what_model_and_card_cannot_price_is_refused(asked: dict[str, Any], plan: Any, priced: str | None) -> None:
    """Pieces without a price under this card would be free by accident; tokens always have one."""
    if priced is None:
        with refused("model_not_priced"):
            permit(ask(**asked), plan, PRICED)
    else:
        assert permit(ask(**asked), plan, PRICED).model.model == priced


def test_a_card_with_units_prices_pieces() -> None:
    """Millicredits per image, character and second under the family `tokens`."""
    card = msgspec.structs.replace(TOKENS, units={"images": 5_000_000, "characters": 10, "duration_ms": 100_000})
    catalog: Catalog = msgspec.structs.replace(PRICED, cards={"tokens@1": card})
    for model, sold, expected in (
        ("azure/dall-e-3", "images", 5_000_000),
        ("tts-1", "speech", 7_000),
        ("whisper-1", "sound", 100_000 * FLAT_SOUND_S),
    ):
        asked = ask(model=model, sold=sold, characters=700)
        assert bound(asked, permit(asked, BY_TOKEN, catalog), 0, 1_024).full_mc == expected


@pytest.mark.parametrize(
    ("model", "quality", "size", "names"),
    [
        (
            "gpt-image-1",
            "low",
            "1024x1024",
            ("low/1024-x-1024/gpt-image-1", "1024-x-1024/gpt-image-1"),
        ),
        ("gpt-image-1", "", "1024x1024", ("1024-x-1024/gpt-image-1",)),
        ("gpt-image-1", "low", "", ()),
        ("dall-e-3", "", "", ("standard/1024-x-1024/dall-e-3", "1024-x-1024/dall-e-3")),
        (
            "azure/dall-e-3",
            "hd",
            "1024x1792",
            (
                "azure/hd/1024-x-1792/dall-e-3",
                "azure/1024-x-1792/dall-e-3",
                "hd/1024-x-1792/azure/dall-e-3",
                "1024-x-1792/azure/dall-e-3",
            ),
        ),
    ],
)
def test_the_names_of_an_image_by_quality_and_size(model: str, quality: str, size: str, names: tuple[str, ...]) -> None:
    """The more exact name first, a provider's prefix in front."""
    assert priced_names(model, quality, size) == names


@pytest.mark.parametrize(
    ("model", "quality", "size", "priced"),
    [
        ("gpt-image-1", "low", "1024x1024", "low/1024-x-1024/gpt-image-1"),
        ("openai/gpt-image-1", "low", "1024x1024", "low/1024-x-1024/gpt-image-1"),
        ("gpt-image-1", "", "", "high/1024-x-1536/gpt-image-1"),
        ("openai/gpt-image-1", "", "", "high/1024-x-1536/gpt-image-1"),
        ("azure/dall-e-3", "hd", "1024x1792", "azure/hd/1024-x-1792/dall-e-3"),
        ("azure/dall-e-3", "hd", "9x9", "azure/hd/1024-x-1792/dall-e-3"),
        ("azure/dall-e-3", "", "", "azure/standard/1024-x-1024/dall-e-3"),
        ("fal_ai/openai/gpt-image-2", "", "", "fal_ai/high/3840-x-2160/openai/gpt-image-2"),
        ("dall-e-3", "", "", ""),
        ("imagen", "hd", "1x1", "imagen"),
        ("gpt-image-2", "", "", ""),
        ("e-3", "", "", ""),
    ],
)
def test_an_image_costs_what_it_is_or_the_dearest_that_it_may_be(
    model: str, quality: str, size: str, priced: str
) -> None:
    """Another provider's price is nobody else's."""
    found = priced_image(MODELS, model, quality, size)
    assert (found.model if found else "") == priced


def test_an_operators_own_price_is_for_all_images_that_have_none() -> None:
    """Beside prices for single sizes: those count where they fit."""
    own = {**MODELS, "d": image("d", 40), "hd/1024-x-1792/d": image("hd/1024-x-1792/d", 120)}
    for quality, size, priced in (("hd", "1024x1792", 120), ("hd", "1024x1024", 40), ("", "", 40)):
        found = priced_image(own, "d", quality, size)
        assert found is not None
        assert found.rates["images"] == priced


_SIZES = st.sampled_from(["", "1024x1024", "1024x1536", "1536x1024", "7x7"])
_QUALITIES = st.sampled_from(["", "low", "medium", "high", "hd"])


@given(st.sampled_from(["gpt-image-1", "gpt-image-1-mini", "gpt-image-2", "dall"]), _QUALITIES, _SIZES)
def test_knowing_more_never_means_more_tokens(model: str, quality: str, size: str) -> None:
    """An image of unknown look is held for as the largest."""
    assert 0 < image_tokens(model, quality, size) <= image_tokens(model, "", "") <= IMAGE_TOKENS_MAX


@given(st.integers(0, 5_000), st.integers(1, 10), st.sampled_from([COST, TOKENS]))
def test_no_usage_within_what_was_asked_costs_more_than_its_hold(characters: int, images: int, card: RateCard) -> None:
    """Tokens up to the bound, by either card."""
    held = bound(ask(sold="images", choices=images, model="gpt-image-1"), rates(GPT_IMAGE, card), 50, 1_024).full_mc
    made = pricing.charge(Usage(input=20, image_in=30, image_out=images * 6_240), GPT_IMAGE, card)
    assert made.charge_mc <= held
    held = bound(ask(sold="speech", characters=characters), rates(TALKER, card), 50, 1_024).full_mc
    spoken = pricing.charge(Usage(input=50, audio_out=characters * 6), TALKER, card)
    assert spoken.charge_mc <= held
