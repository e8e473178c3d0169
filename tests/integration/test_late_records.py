"""True records of calls that were booked as lost, on real servers: one correction, whatever the order, and books that
close; also where either record had to wait for its price."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from meter.audit import audit
from meter.posting import LATE_MEMO
from meter.prices import set_price
from shared import ids
from shared.events import UsageEvent
from shared.usage import Usage
from tests.harness.books import assert_books, until
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database

pytestmark = pytest.mark.integration

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)
START_MC = 100_000
RATES = {"input": 1_000_000_000, "output": 1_000_000_000}
"""1,000 millicredits a token under the card cost@1."""


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        await made.ledger.post(SHARD, entries([seen("ana", START_MC)]))
        await made.projection.apply_by_id([ANA])
        yield made


def lost(tokens: int, event_id: UUID | None = None, user: str = "ana", **more: Any) -> UsageEvent:
    """What had been noted of a call; of one that had not begun to answer, with 0 tokens, nothing."""
    evidence = "checkpoint" if tokens else "none"
    return used(user, tokens, event_id=event_id or fresh_event_id(), outcome="lost", evidence=evidence, **more)


def true(of: UsageEvent, tokens: int, **more: Any) -> UsageEvent:
    """The record of the same call that its gateway wrote."""
    return used(of.external_id, tokens, **({"event_id": of.event_id} | more))


UNPRICED: dict[str, Any] = {"model_asked": "new-model", "model_answered": "", "priced_as": "", "card": "cost@1"}


def unpriced(event: UsageEvent, charge_mc: int) -> UsageEvent:
    """The same record, of a model without a price: charged the gateway's provisional one."""
    return msgspec.structs.replace(event, **UNPRICED, flags=("provisional",), charge_mc=charge_mc, cost_nano=charge_mc)


ORPHANED = """
    INSERT INTO sundial.price_corrections
    SELECT account_id, event_id, transfer_id, 1, 'x', 0, 0, now(), true FROM sundial.event_corrections;
    DELETE FROM sundial.event_corrections
"""
"""A price correction of a late record that is not there."""


async def post(meter: Bench, *batches: Sequence[UsageEvent]) -> None:
    for batch in batches:
        await meter.ledger.post(SHARD, entries(batch))


async def correct(meter: Bench) -> None:
    while await meter.corrections.correct():
        pass


async def corrections(meter: Bench) -> list[tuple[Any, ...]]:
    rows = await meter.pool.fetch(
        "SELECT amount_mc, balance_after_mc, link_id FROM sundial.transfers WHERE kind = 'adjustment' "
        "ORDER BY recorded_at, seq"
    )
    return [tuple(row) for row in rows]


async def close(meter: Bench, database: Database, redis_url: str) -> None:
    """The books close, once Redis has been told how the account stands."""
    await meter.projection.apply_by_id([ANA])
    await assert_books(database.url, redis_url)


@pytest.mark.parametrize("batches", ["lt", "l t", "tl", "t l", "llt tl", "l l t t", "t lll", "lll ttt", "ltltlt"])
async def test_whichever_comes_first_the_truth_is_booked_once(
    meter: Bench, database: Database, redis_url: str, batches: str
) -> None:
    """One usage row; one linked correction of the difference, of either sign, where the lost one was first; below the
    floor too."""
    await meter.ledger.post(SHARD, entries([seen("bia", START_MC)]))
    for user, noted, tokens in (("ana", 30, 20), ("ana", 0, 20), ("ana", 5, 9), ("bia", 80, 0), ("bia", 5, 90)):
        first = lost(noted, user=user)
        records = {"l": first, "t": true(first, tokens)}
        before = await corrections(meter)
        await post(meter, *([records[one] for one in batch] for batch in batches.split()))
        new = [(row[0], row[2]) for row in (await corrections(meter))[len(before) :]]
        assert new == ([(2_000 * (noted - tokens), first.event_id)] if batches[0] == "l" else [])
        find = "SELECT charge_mc, outcome, evidence, tokens_in FROM sundial.standing_events WHERE event_id = $1"
        stands = await meter.pool.fetchrow(find, first.event_id)
        assert tuple(stands) == (2_000 * tokens, "complete", "provider", tokens)
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.usage_events") == 5
    balances = await meter.pool.fetch("SELECT balance_mc FROM sundial.balances ORDER BY balance_mc DESC")
    assert [row["balance_mc"] for row in balances] == [START_MC - 98_000, START_MC - 180_000]
    await meter.projection.apply_by_id([account_of("bia")])
    await close(meter, database, redis_url)


async def test_sent_and_never_answered_is_a_true_record_too(meter: Bench, database: Database, redis_url: str) -> None:
    """A gateway that comes back to say that no answer came gives everything back."""
    first = lost(30)
    await post(meter, [first], [true(first, 0, usage=Usage(), evidence="none", outcome="timeout")])
    assert await corrections(meter) == [(60_000, START_MC, first.event_id)]
    row = await meter.pool.fetchrow("SELECT memo FROM sundial.transfers WHERE kind = 'adjustment'")
    assert row["memo"] == LATE_MEMO
    await close(meter, database, redis_url)


async def test_every_record_up_to_three_times_in_any_order(meter: Bench, database: Database, redis_url: str) -> None:
    """M3: shuffled by streams, batches and two meters, the balances are those of the truths, to the millicredit."""
    shuffle = random.Random(11)
    users = [f"user-{number}" for number in range(6)]
    due = dict.fromkeys(users, 10**9)
    deliveries: list[Any] = [seen(user, 10**9) for user in users]
    for number in range(120):
        user = users[number % len(users)]
        first = lost(shuffle.randrange(30), user=user)
        tokens = shuffle.randrange(30)
        truly = shuffle.random() < 0.8
        due[user] -= 2_000 * (tokens if truly else first.usage.input)
        deliveries += [first] * shuffle.randint(0 if truly else 1, 3)
        deliveries += [true(first, tokens)] * (shuffle.randint(1, 3) if truly else 0)
    shuffle.shuffle(deliveries)
    async with meter.reading("one"), meter.reading("two"):
        for low in range(0, len(deliveries), 40):
            await meter.say(*deliveries[low : low + 40])
        await assert_books(database.url, redis_url)
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.usage_events") == 120
    balances = "SELECT a.external_id, b.balance_mc FROM sundial.balances b JOIN sundial.accounts a USING (account_id)"
    found = {row["external_id"]: row["balance_mc"] for row in await meter.pool.fetch(balances)}
    assert {user: found[user] for user in users} == due


@pytest.mark.parametrize(
    "steps", ["l t p", "l p t p", "l t p p", "lt p", "t l p", "tl p", "p l t", "p t l", "l p l t t"]
)
async def test_both_records_may_have_to_wait_for_their_price(
    meter: Bench, owner: Any, database: Database, redis_url: str, steps: str
) -> None:
    """Whenever the price comes, the event ends at that price of its true usage; what waits is the record that stands,
    and each is corrected by a price once."""
    first = lost(3)
    records = {"l": unpriced(first, 9_000), "t": unpriced(true(first, 20), 50_000)}
    for step in steps.split():
        if step == "p":
            await set_price(owner, "new-model", RATES, "test")
        else:
            await post(meter, [records[one] for one in step])
        await correct(meter)
        await close(meter, database, redis_url)
    assert await owner.fetchval("SELECT charge_mc FROM sundial.standing_events") == 40_000
    assert await owner.fetchval("SELECT balance_mc FROM sundial.balances") == START_MC - 40_000
    assert await owner.fetchval("SELECT count(*) FROM sundial.unpriced_events") == 0
    assert await owner.fetchval("SELECT sum(charge_mc - was_mc) FROM sundial.corrections") == 40_000 - (
        9_000 if steps.replace("p", "").strip()[0] == "l" else 50_000
    )


@pytest.mark.parametrize("steps", ["l t", "lt", "l t p", "l p t"])
async def test_a_true_record_with_a_price_ends_the_waiting_of_what_was_lost(
    meter: Bench, owner: Any, database: Database, redis_url: str, steps: str
) -> None:
    """Only the note had no price: what it waited for, or was corrected by, changes nothing in the end."""
    first = lost(3)
    records = {"l": unpriced(first, 9_000), "t": true(first, 20)}
    for step in steps.split():
        if step == "p":
            await set_price(owner, "new-model", RATES, "test")
        else:
            await post(meter, [records[one] for one in step])
        await correct(meter)
    assert await owner.fetchval("SELECT count(*) FROM sundial.unpriced_events") == 0
    assert await owner.fetchval("SELECT balance_mc FROM sundial.balances") == START_MC - 40_000
    await close(meter, database, redis_url)


async def test_a_price_that_meets_the_true_record_halfway_corrects_no_ghost(
    meter: Bench, owner: Any, database: Database, redis_url: str
) -> None:
    """Both wait for the account's lock, the price correction with what it read before: the late record is first, so
    what was lost is corrected by no price any more, and its successor's place in the queue stays."""
    first = lost(3)
    await post(meter, [unpriced(first, 9_000)])
    await set_price(owner, "new-model", RATES, "test")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'meter' AND wait_event_type = 'Lock'"

    async def blocked(number: int) -> None:
        async def enough() -> bool:
            return bool(await owner.fetchval(waiting) == number)

        await until(enough)

    lock: Any = await asyncpg.connect(database.url)
    async with asyncio.TaskGroup() as tasks, lock.transaction():
        await lock.execute("SELECT FROM sundial.balances FOR UPDATE")
        tasks.create_task(post(meter, [unpriced(true(first, 20), 50_000)]))
        await blocked(1)
        tasks.create_task(correct(meter))
        await blocked(2)
    await lock.close()
    assert await owner.fetchval("SELECT count(*) FROM sundial.price_corrections WHERE NOT late") == 0
    await correct(meter)
    assert [row[:2] for row in await corrections(meter)] == [(9_000 - 50_000, 50_000), (10_000, 60_000)]
    await close(meter, database, redis_url)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("UPDATE sundial.event_corrections SET charge_mc = charge_mc + 1", "corrections"),
        ("UPDATE sundial.event_corrections SET cost_nano = cost_nano + 1", "charges"),
        ("UPDATE sundial.event_corrections SET gateway_charge_mc = 1", "charges"),
        ("DELETE FROM sundial.event_corrections", "corrections"),
        ("UPDATE sundial.usage_events SET outcome = 'complete'", "late_records"),
        ("UPDATE sundial.transfers SET link_id = transfer_id WHERE kind = 'adjustment'", "corrections"),
        ("INSERT INTO sundial.unpriced_events SELECT account_id, event_id, 1 FROM sundial.usage_events", "charges"),
        (ORPHANED, "late_records"),
    ],
)
async def test_the_audit_finds_a_wrong_late_record(
    meter: Bench, owner: Any, database: Database, redis_url: str, damage: str, rule: str
) -> None:
    """A sound late record passes; each kind of damage is found by the rule that it breaks."""
    first = lost(5)
    await post(meter, [first], [true(first, 20)])
    await meter.projection.apply_by_id([ANA])
    assert await audit(database.url, redis_url) == []
    await owner.execute(f"SET session_replication_role = replica; {damage}")
    assert rule in {one.rule for one in await audit(database.url, redis_url)}


async def test_the_audit_finds_corrections_out_of_order(
    meter: Bench, owner: Any, database: Database, redis_url: str
) -> None:
    """A price correction that says of itself to be the late record's, and stands before it."""
    first = lost(3)
    await post(meter, [unpriced(first, 9_000)])
    await set_price(owner, "new-model", RATES, "test")
    await correct(meter)
    await post(meter, [unpriced(true(first, 20), 50_000)])
    await correct(meter)
    await meter.projection.apply_by_id([ANA])
    assert await audit(database.url, redis_url) == []
    await owner.execute("SET session_replication_role = replica; DELETE FROM sundial.price_corrections WHERE late")
    await owner.execute("UPDATE sundial.price_corrections SET late = true")
    assert "late_records" in {one.rule for one in await audit(database.url, redis_url)}
