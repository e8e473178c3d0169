"""litellm's price map becomes rate tables without losing a digit or passing over a price."""

import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meter.price_keys import INERT, OBSTACLES
from meter.price_map import NANO_PER_MILLION_DIGITS, compile_map, compile_model
from meter.price_rules import OutOfTableError, bounds, service_tiers, token_rates
from meter.prices import bundled_map, read_map
from shared.pricing import PricedModel, Tier, rate_of

D = Decimal
ROOT = Path(__file__).parents[2]


def entry(**keys: Any) -> dict[str, Any]:
    """A chat model of OpenAI at 1 and 2 USD per million tokens, with `keys` on top."""
    base = {"input_cost_per_token": D("1e-6"), "output_cost_per_token": D("2e-6"), "litellm_provider": "openai"}
    return {**base, "mode": "chat", **keys}


def reason(**keys: Any) -> str:
    with pytest.raises(OutOfTableError) as refused:
        compile_model("m", entry(**keys))
    return str(refused.value)


@pytest.fixture(scope="module")
def bundled() -> dict[str, dict[str, Any]]:
    return read_map(bundled_map())


def test_prices_are_nano_usd_per_million_units() -> None:
    """A USD per million tokens is 10^9."""
    assert compile_model("m", entry()).rates == {"input": 10**9, "output": 2 * 10**9}


def test_only_what_differs_from_its_fallback_is_kept() -> None:
    """A price that says what the table says anyway takes no room in the projection."""
    model = compile_model(
        "m", entry(cache_read_input_token_cost=D("1e-6"), cache_creation_input_token_cost_above_1hr=D("3e-6"))
    )
    assert model.rates == {"input": 10**9, "cache_write_1h": 3 * 10**9, "output": 2 * 10**9}


def test_a_threshold_becomes_a_tier_of_all_that_changes_there() -> None:
    """What has no price above the threshold keeps its own, and reasoning with a fixed price is not carried along."""
    model = compile_model(
        "m",
        entry(
            input_cost_per_token_above_200k_tokens=D("3e-6"),
            output_cost_per_token_above_200k_tokens=D("4e-6"),
            output_cost_per_reasoning_token=D("2e-6"),
        ),
    )
    assert model.rates == {"input": 10**9, "output": 2 * 10**9}
    assert model.tiers == (Tier(200_000, {"input": 3 * 10**9, "output": 4 * 10**9, "reasoning": 2 * 10**9}),)


def test_xai_reaches_a_threshold_at_the_number_itself() -> None:
    """128,000 tokens are above its threshold of 128k, as litellm has it."""
    model = compile_model("m", entry(litellm_provider="xai", input_cost_per_token_above_128k_tokens=D("3e-6")))
    assert model.tiers[0].above == 127_999


def test_ranges_become_tiers() -> None:
    """`tiered_pricing` picks one row for the whole call; above the last range the last row holds."""
    rows = [
        {"range": [D("32000.0"), D("128000.0")], "input_cost_per_token": D("3e-6"), "output_cost_per_token": D("4e-6")},
        {"range": [0, D("32000.0")], "input_cost_per_token": D("1e-6"), "output_cost_per_token": D("2e-6")},
    ]
    model = compile_model("m", {"mode": "chat", "tiered_pricing": rows})
    assert model.rates == {"input": 10**9, "output": 2 * 10**9}
    assert model.tiers == (Tier(32_000, {"input": 3 * 10**9, "output": 4 * 10**9}),)


@pytest.mark.parametrize(("tokens_in", "usd"), [(199_999, "1e-6"), (200_000, "1e-6"), (200_001, "3e-6")])
def test_the_rules_cross_a_threshold_above_it(tokens_in: int, usd: str) -> None:
    """At 200k tokens the price below holds, as in litellm."""
    rates = token_rates(entry(input_cost_per_token_above_200k_tokens=D("3e-6")), "", tokens_in)
    assert rates["input"] == D(usd)


def test_a_row_without_an_hourly_price_sells_an_hour_as_a_cache_write() -> None:
    """Within a row the fallbacks are the same: an hour's entry, an entry, input."""
    row = {"range": [0, 10], "input_cost_per_token": D("1e-6"), "cache_creation_input_token_cost": D("2e-6")}
    rates = token_rates({"tiered_pricing": [row], "output_cost_per_token": D("5e-6")}, "", 1)
    assert (rates["cache_write"], rates["cache_write_1h"], rates["cached"]) == (D("2e-6"), D("2e-6"), D("1e-6"))
    assert rates["output"] == D("5e-6")


def test_ranges_with_a_gap_are_refused() -> None:
    """litellm would price the gap by the last row; nobody knows what the provider does."""
    rows = [{"range": [start, start + 10], "input_cost_per_token": D("1e-6")} for start in (0, 20)]
    assert reason(tiered_pricing=rows) == "the ranges of tiered_pricing leave gaps"


def test_a_service_tier_is_a_table_on_top() -> None:
    """Priority has its prices, and above the threshold the standard ones where it has none of its own there."""
    model = compile_model(
        "m",
        entry(
            input_cost_per_token_priority=D("2e-6"),
            input_cost_per_token_above_200k_tokens=D("5e-6"),
            output_cost_per_token_above_200k_tokens_priority=D("9e-6"),
        ),
    )
    assert model.tiers == (Tier(200_000, {"input": 5 * 10**9}),)
    assert model.service["priority"].rates == {"input": 2 * 10**9}
    assert model.service["priority"].tiers == (Tier(200_000, {"input": 5 * 10**9, "output": 9 * 10**9}),)


def test_a_batch_needs_a_price_on_both_sides() -> None:
    """Half the standard price, which litellm assumes, is a guess: without a price of its own a batch is standard."""
    assert "batch" not in compile_model("m", entry(input_cost_per_token_batches=D("5e-7"))).service
    priced = compile_model("m", entry(input_cost_per_token_batches=D("5e-7"), output_cost_per_token_batches=D("1e-6")))
    assert priced.service["batch"].rates == {"input": 5 * 10**8, "output": 10**9}


def test_fireworks_sells_cached_tokens_at_half_the_price() -> None:
    """litellm's rule for the one provider whose entries leave it out."""
    assert compile_model("m", entry(litellm_provider="fireworks_ai")).rates["cached"] == 5 * 10**8


def test_a_finer_price_makes_a_finer_unit() -> None:
    """A price with 17 decimals is kept to the last."""
    model = compile_model("m", entry(input_cost_per_token=D("1.00000000001e-6")))
    assert (model.rates["input"], model.rate_digits) == (100_000_000_001, 2)
    assert model.rates["output"] == 2 * 10**11


def test_images_are_sold_by_the_image_or_by_the_pixels_in_their_name() -> None:
    """A price by the pixel counts where the name says how many pixels there are."""
    by_image = compile_model("m", {"mode": "image_generation", "output_cost_per_image": D("0.04")})
    assert by_image.rates == {"images": 4 * 10**13}
    pixels = {"mode": "image_generation", "input_cost_per_pixel": D("1e-8"), "output_cost_per_token": 0}
    assert compile_model("azure/hd/1000-x-2000/d", pixels).rates == {"images": 2 * 10**13}
    with pytest.raises(OutOfTableError, match="size of the image"):
        compile_model("azure/d", pixels)


def test_an_image_model_with_prices_by_size_has_none_without_a_size() -> None:
    """The entry without a size holds one price of many."""
    images = {"mode": "image_generation", "litellm_provider": "fal_ai"}
    entries = {
        "fal_ai/d": {**images, "output_cost_per_image": D("0.04")},
        "fal_ai/high/1024-x-1024/d": {**images, "output_cost_per_image": D("0.2")},
    }
    assert list(compile_map(entries).models) == ["fal_ai/high/1024-x-1024/d"]


def test_seconds_and_characters_have_their_kinds() -> None:
    """A second is a thousand milliseconds; litellm takes the price of output seconds where it is not zero."""
    heard = {"mode": "audio_transcription", "input_cost_per_second": D("0.0001"), "output_cost_per_second": 0}
    assert compile_model("m", heard).rates == {"duration_ms": 10**8}
    spoken = {"mode": "audio_speech", "input_cost_per_character": D("0.000015")}
    assert compile_model("m", spoken).rates == {"characters": 15 * 10**9}


def test_searches_are_sold_by_the_query_or_once() -> None:
    """One price for all context sizes is a rate; Gemini bills it once per call unless the map says per query."""
    sizes = {f"search_context_size_{size}": D("0.01") for size in ("low", "medium", "high")}
    assert compile_model("m", entry(search_context_cost_per_query=sizes)).rates["searches"] == 10**13
    gemini = entry(search_context_cost_per_query=sizes, litellm_provider="gemini")
    assert compile_model("m", gemini).searches_once
    assert not compile_model("m", gemini | {"web_search_billing_unit": "per_query"}).searches_once
    differing = sizes | {"search_context_size_low": D("0.005")}
    assert compile_model("m", entry(search_context_cost_per_query=differing)).unpriced == ("searches",)


def test_uplifts_are_parts_per_million() -> None:
    """Where and how fast a call is served multiplies its cost."""
    model = compile_model(
        "m",
        entry(regional_processing_uplift_multiplier_eu=D("1.1"), provider_specific_entry={"fast": 2, "schema": "x"}),
    )
    assert model.uplifts == {"eu": 1_100_000, "fast": 2_000_000}
    assert "not understood" in reason(provider_specific_entry={"moon": D("3.5")})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"new_cost_per_thought": D("1e-6")}, "the price new_cost_per_thought is not understood"),
        ({"input_cost_per_token": D("-1e-6")}, "input_cost_per_token is -0.000001"),
        ({"input_cost_per_token": "1e-6"}, "input_cost_per_token is no number"),
        ({"off_peak_pricing": {"hours_utc": "00:00-01:00"}}, "the price depends on the hour"),
        ({"input_cost_per_request": D("0.005")}, "a fee per call stands beside the tokens"),
        ({"input_cost_per_video_token": D("1e-6")}, "video has a price of its own, and no usage tells it apart"),
        ({"mode": "video_generation"}, "video_generation is not metered"),
        ({"input_cost_per_token_cache_hit": D("1e-7")}, "two prices of cached tokens differ"),
        ({"output_cost_per_token": None}, "output_cost_per_token is no number"),
    ],
)
def test_what_a_table_cannot_say_is_refused_with_its_reason(keys: dict[str, Any], says: str) -> None:
    """No approximation: the model has no price, and the import says why."""
    assert reason(**keys) == says


def test_a_price_of_zero_that_a_table_cannot_say_does_not_matter() -> None:
    """Free video costs nothing, however it is counted."""
    assert compile_model("m", entry(input_cost_per_video_token=0)).rates["input"] == 10**9


def test_a_model_that_only_seems_free_is_refused() -> None:
    """Tokens at zero beside a price by the piece: sold by the piece, and free by accident."""
    nothing = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    assert "does not belong to the mode chat" in reason(**nothing, output_cost_per_image=D("0.08"))
    assert compile_model("m", entry(**nothing)).rates == {"input": 0, "output": 0}


def test_a_part_of_a_kind_with_another_price_takes_the_kind_out() -> None:
    """Cached images cost twice what cached text does, and a usage counts them together."""
    model = compile_model("m", entry(cache_read_input_image_token_cost=D("2e-6")))
    assert model.unpriced == ("cached",)


def test_no_price_of_the_bundled_map_loses_a_digit(bundled: dict[str, dict[str, Any]]) -> None:
    """Every rate of every model, service tier and token tier is the exact decimal that litellm's rules give."""
    compiled = compile_map(bundled).models
    assert len(compiled) > 3_000
    for name, model in compiled.items():
        if not any(kind in model.rates for kind in ("input", "output")):
            continue
        for service_tier in ("", *service_tiers(bundled[name])):
            for tokens_in in (0, *(bound + 1 for bound in bounds(bundled[name], service_tier))):
                table = table_at(model, service_tier, tokens_in)
                unit = D(10) ** -(NANO_PER_MILLION_DIGITS + model.rate_digits)
                for kind, usd in token_rates(bundled[name], service_tier, tokens_in).items():
                    rate = rate_of(table, kind)
                    assert rate is not None, (name, service_tier, kind)
                    assert rate * unit == usd, (name, service_tier, tokens_in, kind)


def table_at(model: PricedModel, service_tier: str, tokens_in: int) -> dict[str, int]:
    table = model.service.get(service_tier)
    rates = model.rates if table is None else model.rates | table.rates
    tiers = model.tiers if table is None else table.tiers
    return next((rates | tier.rates for tier in reversed(tiers) if tokens_in > tier.above), rates)


def test_every_price_of_the_bundled_map_is_understood(bundled: dict[str, dict[str, Any]]) -> None:
    """A litellm with a key that nobody has studied fails here before it prices anything."""
    reasons = Counter(compile_map(bundled).unpriceable.values())
    assert not [text for text in reasons if "understood" in text or "number" in text]
    assert {
        "the price depends on the hour",
        "the map has no price",
        "video_generation is not metered",
    } <= reasons.keys()
    assert sum(reasons.values()) < 400


def test_the_table_of_reasons_names_no_key_that_the_map_has_lost(bundled: dict[str, dict[str, Any]]) -> None:
    """Each row of INERT and OBSTACLES stands for prices that exist."""
    keys = {key for one in bundled.values() for key in one}
    assert INERT.keys() <= keys
    for pattern, _ in OBSTACLES:
        assert any(pattern.search(key) for key in keys), pattern.pattern


def test_prices_are_read_without_litellm() -> None:
    """Neither the arithmetic nor the import of the map loads litellm, and the arithmetic not even a database driver."""
    pure = "import sys, shared.pricing; assert not {'litellm', 'asyncpg', 'meter'} & sys.modules.keys()"
    file = "import sys, meter.prices as p; p.read_map(p.bundled_map()); assert 'litellm' not in sys.modules"
    for program in (pure, file):
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_priced_model_survives_json(bundled: dict[str, dict[str, Any]]) -> None:
    """The projection carries every definition as it is, and each rate fits into 64 bits."""
    compiled = compile_map(bundled).models
    assert max(rate for model in compiled.values() for rate in model.rates.values()) < 2**63
    assert msgspec.json.decode(msgspec.json.encode(compiled), type=dict[str, PricedModel]) == compiled
