"""Price corrections on real servers: once for each event, both ways, whatever crashes, and the books close."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.ports import free_port
from meter import corrections as module
from meter.audit import audit
from meter.corrections import Corrections
from meter.migrate import migrate, read
from meter.prices import PriceBook, set_price
from meter.seeds import seed_masters
from meter.tariffs import Tariffs
from shared import ids, redis_keys
from shared.events import UsageEvent
from shared.usage import Usage
from tests.harness.books import assert_books, until
from tests.harness.messages import DIRECTORY, account_of, fresh_event_id, seen, used
from tests.harness.metering import ALL_SHARDS, Bench, bench, entries
from tests.harness.servers import Database, Servers
from tests.harness.stack import Program

pytestmark = pytest.mark.integration

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)
RATES = {"input": 1_000_000_000, "output": 1_000_000_000}
"""USD 1 per million tokens: 1,000 millicredits a token under the card cost@1."""
EVENTS = 900
KILLS = 4


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        await made.ledger.post(SHARD, entries([seen("ana", 100_000)]))
        await made.projection.apply_by_id([ANA])
        yield made


def provisional(charge_mc: int, user: str = "ana", tokens: int = 20, **more: Any) -> UsageEvent:
    """A call of a model without a price, whose price will make it `tokens` × 2,000 mc."""
    usage = Usage(input=tokens, output=tokens)
    fields: dict[str, Any] = {"model_asked": "new-model", "model_answered": "", "priced_as": "", "card": "cost@1"}
    fields |= {"usage": usage, "cost_nano": charge_mc, "flags": ("provisional",)}
    return msgspec.structs.replace(used(user, **(fields | more)), charge_mc=charge_mc)


async def correct(meter: Bench) -> None:
    """What the meter's rounds do, until nothing is left."""
    while await meter.corrections.correct():
        pass
    await meter.settle_orders()


async def adjustments(meter: Bench) -> list[Any]:
    rows = await meter.pool.fetch(
        "SELECT amount_mc, balance_after_mc, link_id, memo FROM sundial.transfers "
        "WHERE kind = 'adjustment' ORDER BY seq"
    )
    return [tuple(row) for row in rows]


async def waiting(meter: Bench) -> int:
    return int(await meter.pool.fetchval("SELECT count(*) FROM sundial.unpriced_events"))


async def told_balance(meter: Bench) -> int:
    return int(await meter.client.hget(redis_keys.account(SHARD, ANA), "balance"))


@pytest.mark.parametrize(
    ("charge_mc", "amount_mc"),
    [
        (1_000, -39_000),  # dearer: drawn from the grant
        (90_000, 50_000),  # cheaper: given back
        (40_000, 0),
        (0, -40_000),
        (130_000, 90_000),  # cheaper, and the account was below its floor: the debt is paid, the rest is a grant
    ],
)
async def test_an_event_is_corrected_when_its_price_comes(
    meter: Bench, owner: Any, database: Database, redis_url: str, charge_mc: int, amount_mc: int
) -> None:
    """Dearer, cheaper or the same, with a grant drawn or overdrawn: one linked entry makes it what the price says."""
    event = provisional(charge_mc)
    await meter.ledger.post(SHARD, entries([event]))
    await correct(meter)
    assert await adjustments(meter) == []
    assert await waiting(meter) == 1
    version = await set_price(owner, "new-model", RATES, "test")
    await correct(meter)
    memo = f"price of new-model, version {version}"
    assert await adjustments(meter) == [(amount_mc, 60_000, event.event_id, memo)]
    assert await waiting(meter) == 0
    assert await told_balance(meter) == 60_000
    await assert_books(database.url, redis_url)


async def test_below_the_floor_facts_are_booked_all_the_same(
    meter: Bench, owner: Any, database: Database, redis_url: str
) -> None:
    """A correction may overdraw an account: what was used was used."""
    await meter.ledger.post(SHARD, entries([provisional(1, tokens=80), provisional(10, tokens=10)]))
    await set_price(owner, "new-model", RATES, "test")
    await correct(meter)
    assert await told_balance(meter) == 100_000 - 160_000 - 20_000
    await assert_books(database.url, redis_url)


async def test_once_however_often(meter: Bench, owner: Any, database: Database, redis_url: str) -> None:
    """Repeated rounds, several meters at once, a price set twice, and the event delivered again: one correction."""
    events = [provisional(5_000 + number) for number in range(25)]
    await meter.ledger.post(SHARD, entries(events))
    await set_price(owner, "new-model", RATES, "test")
    others = [Corrections(meter.pool, Tariffs(PriceBook()), ALL_SHARDS) for _ in range(4)]
    await asyncio.gather(*(one.correct() for one in others))
    await meter.ledger.post(SHARD, entries(events))
    await set_price(owner, "new-model", {kind: 2 * rate for kind, rate in RATES.items()}, "test")
    await correct(meter)
    assert {row[2] for row in await adjustments(meter)} == {event.event_id for event in events}
    assert len(await adjustments(meter)) == len(events)
    assert await told_balance(meter) == 100_000 - 25 * 40_000
    await assert_books(database.url, redis_url)


async def test_a_queue_that_remembers_too_much_corrects_nothing_twice(meter: Bench, owner: Any) -> None:
    """Even where an event that was corrected stood in the queue again, its correction is known by the book."""
    event = provisional(5_000)
    await meter.ledger.post(SHARD, entries([event]))
    await set_price(owner, "new-model", RATES, "test")
    await correct(meter)
    await owner.execute("INSERT INTO sundial.unpriced_events VALUES ($1, $2, $3)", ANA, event.event_id, SHARD)
    await correct(meter)
    assert len(await adjustments(meter)) == 1
    assert await waiting(meter) == 0


async def test_a_meter_that_dies_at_any_statement_has_done_all_or_nothing(
    meter: Bench, owner: Any, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at each step of the transaction in turn: nothing is booked until all of it is, once."""
    await meter.ledger.post(SHARD, entries([provisional(5_000)]))
    await set_price(owner, "new-model", RATES, "test")
    steps = ("_CORRECTED_EVENTS", "_DEQUEUE_UNPRICED", "_ANNOUNCE_ACCOUNTS", "_NOTIFY_PROJECTION")
    for step in steps:
        with monkeypatch.context() as broken:
            broken.setattr(module, step, "SELECT pg_terminate_backend(pg_backend_pid())")
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await meter.corrections.correct()
        assert await adjustments(meter) == []
        assert await waiting(meter) == 1
    await correct(meter)
    assert len(await adjustments(meter)) == 1
    await assert_books(database.url, redis_url)


async def test_the_next_meter_tells_what_the_dead_one_corrected(meter: Bench, owner: Any) -> None:
    """Between the commit and telling Redis nothing is kept in memory."""
    await meter.ledger.post(SHARD, entries([provisional(5_000)]))
    await set_price(owner, "new-model", RATES, "test")
    await meter.corrections.correct()
    assert await told_balance(meter) == 100_000
    while await meter.watch.pass_on():
        pass
    assert await told_balance(meter) == 60_000


async def test_an_event_is_tried_once_for_each_version(meter: Bench, owner: Any) -> None:
    """A version without its price is not looked at again; a later one is; so are events that come after the price."""
    await meter.ledger.post(SHARD, entries([provisional(5_000)]))
    await correct(meter)
    tried = "SELECT tried_version FROM sundial.unpriced_events"
    assert await owner.fetchval(tried) == 1
    await set_price(owner, "another-model", RATES, "test")
    await correct(meter)
    assert await owner.fetchval(tried) == 2
    await set_price(owner, "new-model", RATES, "test")
    await correct(meter)
    await meter.ledger.post(SHARD, entries([provisional(7_000)]))
    await correct(meter)
    assert [row[0] for row in await adjustments(meter)] == [-35_000, -33_000]


async def test_a_price_that_cannot_express_the_usage_is_none(
    meter: Bench, owner: Any, database: Database, redis_url: str
) -> None:
    """An event that its model's rates did not cover waits until they do."""
    version = await set_price(owner, "new-model", RATES, "test")
    usage = Usage(input=20, output=20, searches=1)
    more: dict[str, Any] = {"usage": usage, "priced_as": "new-model", "price_version": version, "flags": ("unpriced",)}
    await meter.ledger.post(SHARD, entries([provisional(1_000, **more)]))
    for rates, found in ((RATES | {"cached": 1}, 0), (RATES | {"searches": 10_000_000_000}, 1)):
        await set_price(owner, "new-model", rates, "test")
        await correct(meter)
        assert len(await adjustments(meter)) == found
    assert [row[0] for row in await adjustments(meter)] == [1_000 - 40_000 - 10_000]
    await assert_books(database.url, redis_url)


async def test_only_the_events_of_its_shards_are_corrected(meter: Bench, owner: Any) -> None:
    """A meter of other shards leaves them to wait."""
    await meter.ledger.post(SHARD, entries([provisional(5_000)]))
    await set_price(owner, "new-model", RATES, "test")
    others = Corrections(meter.pool, Tariffs(PriceBook()), [shard for shard in ALL_SHARDS if shard != SHARD])
    assert await others.correct() is False
    assert await waiting(meter) == 1


async def test_a_correction_that_the_tables_refuse_holds_up_no_other(
    meter: Bench, owner: Any, database: Database, redis_url: str
) -> None:
    """One among its neighbours cannot be written: they are corrected, it waits for the next version."""
    spoilt, *fine = [provisional(5_000) for _ in range(4)]
    await meter.ledger.post(SHARD, entries([spoilt, *fine]))
    await set_price(owner, "new-model", RATES, "test")
    check = f"CHECK (event_id <> '{spoilt.event_id}')"
    await owner.execute(f"ALTER TABLE sundial.price_corrections ADD CONSTRAINT spoilt {check}")
    await correct(meter)
    assert {row[2] for row in await adjustments(meter)} == {event.event_id for event in fine}
    await owner.execute("ALTER TABLE sundial.price_corrections DROP CONSTRAINT spoilt")
    await correct(meter)
    assert len(await adjustments(meter)) == 3
    await set_price(owner, "another-model", RATES, "test")
    await correct(meter)
    assert len(await adjustments(meter)) == 4
    await assert_books(database.url, redis_url)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("UPDATE sundial.price_corrections SET charge_mc = charge_mc + 1", "corrections"),
        ("UPDATE sundial.price_corrections SET cost_nano = 1", "charges"),
        ("UPDATE sundial.price_corrections SET price_version = 1", "charges"),
        ("DELETE FROM sundial.price_corrections", "corrections"),
        ("DELETE FROM sundial.price_corrections", "charges"),
        ("UPDATE sundial.transfers SET link_id = transfer_id WHERE kind = 'adjustment'", "corrections"),
        ("INSERT INTO sundial.unpriced_events SELECT account_id, event_id, 1 FROM sundial.usage_events", "charges"),
        ("UPDATE sundial.usage_events SET flags = '{}'", "charges"),
    ],
)
async def test_the_audit_finds_a_wrong_correction(
    meter: Bench, owner: Any, database: Database, redis_url: str, damage: str, rule: str
) -> None:
    """A sound correction passes; each kind of damage is found by the rule that it breaks."""
    await meter.ledger.post(SHARD, entries([provisional(5_000)]))
    await set_price(owner, "new-model", RATES, "test")
    await correct(meter)
    assert await audit(database.url, redis_url) == []
    await owner.execute(f"SET session_replication_role = replica; {damage}")
    assert rule in {one.rule for one in await audit(database.url, redis_url)}


async def test_an_event_that_nobody_waits_for_is_found(
    meter: Bench, owner: Any, database: Database, redis_url: str
) -> None:
    """A provisional charge that is neither corrected nor queued would stay provisional for ever: the audit says so."""
    await meter.ledger.post(SHARD, entries([provisional(5_000)]))
    assert "charges" not in {one.rule for one in await audit(database.url, redis_url)}
    await owner.execute("DELETE FROM sundial.unpriced_events")
    assert "charges" in {one.rule for one in await audit(database.url, redis_url)}


async def test_what_was_booked_before_there_were_corrections_waits_too(
    servers: Servers, database: Database, tmp_path: Path
) -> None:
    """The migration queues the unpriced events of older books, on the shards of their accounts, and no others."""
    name = database.url.rpartition("/")[2] + "_older"
    servers.postgres.create_database(name)
    url = servers.postgres.url(database=name)
    ledger = read()[0]
    (tmp_path / ledger.name).write_text(ledger.text)
    await migrate(url, tmp_path)
    connection: Any = await asyncpg.connect(url)
    try:
        await seed_masters(connection, 0)
        account = "account_id, directory_id, external_id, plan, shard"
        insert = f"INSERT INTO sundial.accounts ({account}) VALUES ($1, $2, 'ana', 'default', 5)"
        await connection.execute(insert, ANA, DIRECTORY)
        event_ids = [fresh_event_id() for _ in range(3)]
        for event_id, flags, evidence in zip(
            event_ids, (["unpriced"], [], ["unpriced"]), ("provider", "provider", "none"), strict=True
        ):
            await connection.execute(
                "INSERT INTO sundial.usage_events VALUES ($1, $2, $2, 'chat', 'm', '', '', 1, 'cost@1', '', 1, 1, "
                "'{}', 5, 5, 5, 0, 0, $3, 'complete', $4, false, 200, now(), 0, now(), '', '', '', '', '', now())",
                ANA,
                event_id,
                evidence,
                flags,
            )
        await migrate(url)
        queued = await connection.fetch("SELECT event_id, shard, tried_version FROM sundial.unpriced_events")
        assert [tuple(row) for row in queued] == [(event_ids[0], 5, 0)]
    finally:
        await connection.close()


async def test_killed_at_random_a_meter_corrects_everything_once(
    meter: Bench, owner: Any, database: Database, redis_url: str, tmp_path: Path
) -> None:
    """kill -9 of the real meter while it corrects, again and again: each event has one correction, the books close."""
    users = [f"user-{number}" for number in range(12)]
    for user in users:
        shard = ids.shard_of(account_of(user))
        events = [provisional(number % 90_000, user) for number in range(EVENTS // len(users))]
        await meter.ledger.post(shard, entries([seen(user, 10**6), *events]))
    await meter.watch.look()
    await set_price(owner, "new-model", RATES, "test")
    port = free_port()
    environment = {
        "SUNDIAL_HOME": str(tmp_path),
        "SUNDIAL_DATABASE_URL": database.meter_url,
        "SUNDIAL_REDIS_URL": redis_url,
        "SUNDIAL_METER_METRICS_PORT": str(port),
        "SUNDIAL_LOG": "json",
    }
    program = Program("meter", environment, port, tmp_path / "meter.log")
    count = "SELECT count(*) FROM sundial.price_corrections"
    try:
        for _ in range(KILLS):
            before = await owner.fetchval(count)
            program.launch()
            await until(partial(_more, owner, count, min(before, EVENTS - 1)), 40)
            program.kill()
        await program.start()
        await until(partial(_more, owner, count, EVENTS - 1), 40)
    finally:
        await program.stop()
    assert await owner.fetchval(count) == EVENTS
    links = "SELECT count(DISTINCT link_id) = count(*) FROM sundial.transfers WHERE kind = 'adjustment'"
    assert await owner.fetchval(links)
    while await meter.watch.pass_on():
        pass
    await assert_books(database.url, redis_url)


async def _more(owner: Any, count: str, than: int) -> bool:
    return bool(await owner.fetchval(count) > than)
