"""A call that was booked as lost and corrected by its own record, as people and programs read it."""

from typing import Any

import pytest

from shared.usage import Usage
from sundial.database import connect, statements
from tests.harness.books import until_quiet
from tests.harness.command import Office
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.office_fixtures import busy, idle

__all__ = ["busy", "idle"]

pytestmark = pytest.mark.integration

NOTED = Usage(input=1_000, output=200)
TRULY = Usage(input=1_000, output=1_000, cached=500)


async def test_the_truth_stands_on_statement_and_receipt(busy: Office) -> None:
    """Both pages show what the call truly was, what had been booked of it, and the entry between; the month's evidence
    and cost are those of the truth."""
    event_id = fresh_event_id()
    noted: Any = {"outcome": "lost", "evidence": "checkpoint", "flags": ("estimated",)}
    lost = used("maria", usage=NOTED, event_id=event_id, charge_mc=1_200_000, **noted)
    await busy.bench.say(seen("maria", 10_000_000), lost)
    await until_quiet(busy.redis_url)
    receipt = await busy.ask("charge", str(event_id))
    assert (receipt["outcome"], receipt["evidence"], receipt["booked_first"]) == ("lost", "checkpoint", None)
    assert (receipt["charge"], receipt["due"], receipt["recomputed"]) == (1_200_000, 1_200_000, 1_200_000)
    assert list((await busy.ask("statement", "maria"))["evidence"]) == ["checkpoint"]

    await busy.bench.say(used("maria", usage=TRULY, event_id=event_id, charge_mc=2_500_000, upstream_cost_nano=787_500))
    await until_quiet(busy.redis_url)
    receipt = await busy.ask("charge", str(event_id))
    assert (receipt["outcome"], receipt["evidence"], receipt["flags"]) == ("complete", "provider", [])
    assert (receipt["tokens_in"], receipt["tokens_out"]) == (1_500, 1_000)
    assert (receipt["charge"], receipt["due"], receipt["recomputed"]) == (1_200_000, 2_500_000, 2_500_000)
    first = receipt["booked_first"]
    assert (first["outcome"], first["evidence"], first["flags"]) == ("lost", "checkpoint", ["estimated"])
    assert (first["charge"], first["tokens_out"], first["usage"]) == (1_200_000, 200, {"input": 1_000, "output": 200})
    [correction] = receipt["corrections"]
    assert (correction["corrected_by"], correction["amount"], correction["charge"]) == ("record", -1_300_000, 2_500_000)
    page = (await busy.run("charge", str(event_id))).out
    assert "Lançada primeiro como" in page
    assert "o registro verdadeiro da chamada chegou depois" in page
    assert "Total corrigido: 2.500 créditos" in page
    assert "audit" not in page

    statement = await busy.ask("statement", "maria")
    assert (statement["usage"], statement["adjustments"], statement["closing"]) == (1_200_000, -1_300_000, 7_500_000)
    assert statement["provider_cost_nano"] == 1_000 * 150 + 500 * 75 + 1_000 * 600
    assert statement["evidence"] == {
        "provider": {"events": 1, "charge": 1_200_000, "share": 1.0, "tokens_in": 1_500, "tokens_out": 1_000}
    }
    entry = statement["entries"][-1]
    assert (entry["corrects"], entry["corrected_by"], entry["link_id"]) == (str(event_id), "record", str(event_id))
    assert (entry["evidence"], entry["outcome"], entry["tokens_out"]) == ("provider", "complete", 1_000)
    assert entry["provider_cost_nano"] == 787_500 - (1_000 * 150 + 200 * 600)
    page = (await busy.run("statement", "maria", "--lang", "en", COLUMNS="220")).out
    for part in ("the call's own record", str(event_id), "1,500 → 1,000"):
        assert part in page

    compared = await busy.ask("price", "differences")
    assert (compared["calls_compared"], compared["differences"]) == (1, [])


async def test_a_month_that_is_over_stays_as_it_was(busy: Office) -> None:
    """A true record that comes after a statement's end changes nothing on it: evidence, tokens and sums stay."""
    lost = used("maria", usage=NOTED, outcome="lost", evidence="checkpoint")
    await busy.bench.say(seen("maria", 10_000_000), lost)
    await until_quiet(busy.redis_url)
    before = await busy.ask("statement", "maria")
    await busy.bench.say(used("maria", usage=TRULY, event_id=lost.event_id))
    await until_quiet(busy.redis_url)
    async with connect(busy.database.console_url) as db:
        window = account_of("maria"), 0, before["last_seq"]
        [grade] = await db.fetch(statements()["sums_by_evidence"], *window)
        assert (grade["evidence"], grade["tokens_out"], grade["charge_mc"]) == ("checkpoint", 200, 1_200_000)
        assert await db.fetchval(statements()["corrected_cost"], *window) == 0
