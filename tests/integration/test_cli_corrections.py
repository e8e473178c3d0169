"""Price corrections and cost differences as people and programs read them."""

from datetime import UTC, datetime

import pytest

from shared import ids
from shared.pricing import provisional, provisional_flags
from shared.usage import Usage
from tests.harness.books import until_quiet
from tests.harness.command import Office
from tests.harness.messages import MODEL, seen, used
from tests.harness.office_fixtures import busy, idle

__all__ = ["busy", "idle"]

pytestmark = pytest.mark.integration

USAGE = Usage(input=1_000, output=1_000)
STAND_IN = provisional(2_500_000_000, 2_000_000_000)
OURS_NANO = 750_000
"""What USAGE costs of MODEL: 0.15 and 0.60 US dollars per million tokens."""


async def test_a_correction_stands_on_statement_and_receipt(busy: Office) -> None:
    """The entry names its call and its price; both pages show what was booked, what is due, and the link."""
    more = {"model_asked": "new-model", "model_answered": "", "priced_as": "", "flags": ("provisional",)}
    event = used("maria", usage=USAGE, card="cost@1", charge_mc=900_000, cost_nano=900_000, **more)  # type: ignore[arg-type]
    await busy.bench.say(seen("maria", 10_000_000), event)
    await until_quiet(busy.redis_url)
    receipt = await busy.ask("charge", str(event.event_id))
    assert (receipt["charge"], receipt["due"], receipt["recomputed"], receipt["lines"]) == (900_000, 900_000, None, [])
    assert (await busy.ask("statement", "maria"))["provider_cost_nano"] == 900_000

    version = (await busy.ask("price", "set", "new-model", "--input", "0.5", "--output", "1"))["price_version"]
    while await busy.bench.corrections.correct():
        pass
    statement = await busy.ask("statement", "maria")
    assert (statement["usage"], statement["adjustments"], statement["closing"]) == (900_000, -600_000, 8_500_000)
    assert statement["provider_cost_nano"] == 1_500_000
    entry = statement["entries"][-1]
    assert (entry["corrects"], entry["link_id"]) == (str(event.event_id), str(event.event_id))
    assert (entry["price_version"], entry["priced_as"], entry["provider_cost_nano"]) == (version, "new-model", 600_000)

    receipt = await busy.ask("charge", str(event.event_id))
    assert (receipt["charge"], receipt["due"], receipt["recomputed"]) == (900_000, 1_500_000, 1_500_000)
    assert [(one["amount"], one["charge"], one["price_version"]) for one in receipt["corrections"]] == [
        (-600_000, 1_500_000, version)
    ]
    page = (await busy.run("charge", str(event.event_id), "--lang", "en")).out
    assert "Corrected total: 1,500 credits · US$ 0.0015" in page
    texts = ("output", "Corrected total: 1,500 credits", "First booked: 900 credits", "adjustment: −600")
    places = [page.index(text) for text in texts]
    assert places == sorted(places)  # the total under the lines is theirs
    assert "\nTotal" not in page
    assert "audit" not in page
    page = (await busy.run("statement", "maria", COLUMNS="200")).out
    assert f"corrige {event.event_id}" in page


async def test_a_provisional_charge_is_explained_by_the_rates_it_says(busy: Office) -> None:
    """Line by line before its price comes; the page names the price for what it is, and the audit proves the charge."""
    more = {"model_asked": "new-model", "model_answered": "", "priced_as": "", "flags": provisional_flags(STAND_IN)}
    event = used("maria", usage=USAGE, card="cost@1", charge_mc=4_500_000, cost_nano=4_500_000, **more)  # type: ignore[arg-type]
    await busy.bench.say(seen("maria", 10_000_000), event)
    await until_quiet(busy.redis_url)
    receipt = await busy.ask("charge", str(event.event_id))
    assert (receipt["charge"], receipt["recomputed"], receipt["price_source"]) == (4_500_000, 4_500_000, "provisional")
    assert [(line["kind"], line["amount_mc"]) for line in receipt["lines"]] == [
        ("input", "2500000"), ("output", "2000000")
    ]  # fmt: skip
    page = (await busy.run("charge", str(event.event_id))).out
    assert "provisório, até que o modelo tenha preço" in page
    assert "provisional_rates" not in page
    assert (await busy.ask("audit"))["ok"]


async def test_costs_that_differ_are_listed(busy: Office) -> None:
    """Only what differs by more than 1 % is listed, summed by models; a month is that of the calls' beginning."""
    told = (OURS_NANO, OURS_NANO * 1_005 // 1_000, 2 * OURS_NANO, 4 * OURS_NANO, 0)
    dearer = used("maria", usage=USAGE, model_answered="gpt-4o-mini-2024-07-18", upstream_cost_nano=OURS_NANO // 2)
    recounted = used("maria", usage=USAGE, evidence="recounted", upstream_cost_nano=9 * OURS_NANO)
    calls = [used("maria", usage=USAGE, upstream_cost_nano=theirs) for theirs in told]
    await busy.bench.say(seen("maria", 10**9), *calls, dearer, recounted)
    await until_quiet(busy.redis_url)
    month = f"{datetime.fromtimestamp(ids.uuid7_ms(dearer.event_id) / 1000, UTC):%Y-%m}"
    report = await busy.ask("price", "differences", "--month", month, SUNDIAL_TIMEZONE="UTC")
    assert (report["month"], report["calls_compared"]) == (month, 5)
    keys = ("model_asked", "model_answered", "calls", "calls_compared", "ours", "theirs", "ratio")
    assert [tuple(one[key] for key in keys) for one in report["differences"]] == [
        (MODEL, MODEL, 2, 4, 2 * OURS_NANO, 6 * OURS_NANO, 0.333333),
        (MODEL, "gpt-4o-mini-2024-07-18", 1, 1, OURS_NANO, OURS_NANO // 2, 2.0),
    ]
    other = await busy.ask("price", "differences", "--month", "2025-01")
    assert (other["calls_compared"], other["differences"]) == (0, [])
    page = (await busy.run("price", "differences")).out
    assert "3 of 5 calls" in page
    assert "0.3333" in page


async def test_a_corrected_call_is_compared_at_its_true_cost(busy: Office) -> None:
    """A provisional price differs; the price that came does not."""
    more = {"model_asked": "new-model", "model_answered": "", "priced_as": "", "flags": ("provisional",)}
    event = used("maria", usage=USAGE, card="cost@1", cost_nano=9_000_000, upstream_cost_nano=1_500_000, **more)  # type: ignore[arg-type]
    await busy.bench.say(seen("maria", 10_000_000), event)
    await until_quiet(busy.redis_url)
    [found] = (await busy.ask("price", "differences"))["differences"]
    assert (found["model_asked"], found["ratio"]) == ("new-model", 6.0)
    await busy.ask("price", "set", "new-model", "--input", "0.5", "--output", "1")
    while await busy.bench.corrections.correct():
        pass
    assert (await busy.ask("price", "differences"))["differences"] == []


async def test_a_month_that_is_none_is_wrong_usage(busy: Office) -> None:
    """Said at once, with 2."""
    assert "2026-13" in await busy.refused("price", "differences", "--month", "2026-13", code=2)
