"""One transaction per batch: rows, caches, dead letters and position together, with the rights of the meter alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meter import books
from meter import database as connections
from meter.ledger import PoisonedStreamError
from meter.posting import DeadLetter, Posting
from meter.queries import QUERIES
from shared import ids
from tests.harness.books import assert_books
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database

pytestmark = pytest.mark.integration


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        yield made


async def settled(meter: Bench, database: Database, redis_url: str) -> None:
    """The books close, once Redis has been told how the accounts stand."""
    rows = await meter.pool.fetch("SELECT account_id FROM sundial.accounts")
    await meter.projection.apply_by_id([row["account_id"] for row in rows])
    await assert_books(database.url, redis_url)


async def balance(meter: Bench, external_id: str) -> int | None:
    found: int | None = await meter.pool.fetchval(
        "SELECT balance_mc FROM sundial.balances WHERE account_id = $1", account_of(external_id)
    )
    return found


async def test_a_batch_is_booked_and_known(meter: Bench, database: Database, redis_url: str) -> None:
    """The same batch posted again changes nothing, and still reports every event as posted."""
    events = [used("ana", tokens) for tokens in (5, 0, 11)]
    batch = entries([seen("ana", 90_000), *events])
    first = await meter.ledger.post(0, batch)
    assert (first.booked, first.repeated) == (4, 0)
    again = await meter.ledger.post(0, batch)
    assert (again.booked, again.repeated) == (0, 4)
    assert again.reported == {account_of("ana"): [str(one.event_id) for one in events]}
    assert await balance(meter, "ana") == 90_000 - 32_000
    await settled(meter, database, redis_url)


async def test_the_number_of_statements_does_not_grow_with_the_batch(meter: Bench) -> None:
    """A batch of a thousand entries of known accounts takes as many round trips as one of ten."""
    await meter.ledger.post(0, entries([seen(f"user-{n}", 10**9) for n in range(50)]))
    counts = []
    async with meter.pool.acquire() as connection:
        for size in (1, 10, 1_000):  # the first one also reads the prices
            batch = entries([used(f"user-{n % 50}", 3) for n in range(size)])
            counted = _Counting(connection)
            ledger = meter.ledger
            ledger._pool = _OnePool(counted)
            await ledger.post(0, batch)
            ledger._pool = meter.pool
            counts.append(counted.calls)
    assert counts[1:] == [10, 10]


async def test_an_account_is_opened_by_its_first_event(meter: Bench, database: Database, redis_url: str) -> None:
    """Usage may come before the announcement: it opens the account, and the announcement brings plan and allowance."""
    owner: Any = await asyncpg.connect(database.url)
    await owner.execute("INSERT INTO sundial.plans (plan, card, allowance_mc) VALUES ('gold', 'cost@1', 5)")
    await owner.close()
    await meter.ledger.post(0, entries([used("ana", 1)]))
    find = "SELECT plan, revision FROM sundial.accounts WHERE account_id = $1"
    assert tuple(await meter.pool.fetchrow(find, account_of("ana"))) == ("default", 0)
    await meter.ledger.post(0, entries([seen("ana", 7_000, plan="gold"), seen("ana", 7_000, plan="default")]))
    assert tuple(await meter.pool.fetchrow(find, account_of("ana"))) == ("gold", 1)
    assert await balance(meter, "ana") == 5_000
    await settled(meter, database, redis_url)


async def test_an_account_that_people_opened_gets_no_second_allowance(meter: Bench, database: Database) -> None:
    """An announcement of an account that exists opens nothing and grants nothing."""
    console: Any = await asyncpg.connect(database.console_url)
    insert = (
        "INSERT INTO sundial.accounts (account_id, directory_id, external_id, plan, shard) VALUES ($1, $2, $3, $4, $5)"
    )
    message = seen("ana")
    shard = ids.shard_of(message.account_id)
    await console.execute(insert, message.account_id, message.directory_id, "ana", "default", shard)
    await console.execute("INSERT INTO sundial.balances (account_id) VALUES ($1)", message.account_id)
    await console.close()
    posting = await meter.ledger.post(0, entries([message]))
    assert (posting.booked, posting.repeated) == (0, 1)
    assert await balance(meter, "ana") == 0


async def test_dead_letters_are_kept_with_the_batch(meter: Bench, database: Database, redis_url: str) -> None:
    """What cannot be booked is put away whole, in the transaction that books its neighbours."""
    stranger = used(
        "ana",
        1,
        directory_id=ids.directory_id("elsewhere"),
        account_id=ids.account_id(ids.directory_id("elsewhere"), "ana"),
    )
    batch = entries([seen("ana", 9_000), stranger, used("ana", 1)])
    unreadable = [DeadLetter("1-99", b"\xff\x00", "not JSON")]
    posting = await meter.ledger.post(3, batch, unreadable, dead_max=10)
    assert posting.booked == 2
    rows = await meter.pool.fetch("SELECT * FROM sundial.dead_letters ORDER BY entry_id")
    assert [(row["shard"], row["entry_id"], row["event_id"]) for row in rows] == [
        (3, "1-2", stranger.event_id),
        (3, "1-99", None),
    ]
    assert rows[1]["payload"] == b"\xff\x00"
    position = await meter.pool.fetchrow("SELECT entry_id, entries FROM sundial.stream_positions WHERE shard = 3")
    assert tuple(position) == ("1-99", 4)
    await settled(meter, database, redis_url)


async def test_nothing_is_put_away_if_everything_would_be(meter: Bench) -> None:
    """If a whole batch looks like poison nothing happens but the alarm: the entries stay in the stream."""
    with pytest.raises(PoisonedStreamError):
        await meter.ledger.post(0, [], [DeadLetter(f"1-{n}", b"?", "?") for n in range(5)], dead_max=4)
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.dead_letters") == 0
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.stream_positions") == 0


@pytest.mark.parametrize("more", [{"status": 70_000}, {"upstream_cost_nano": 2**63}, {"hold_mc": -(2**63) - 1}])
async def test_a_row_that_no_column_can_hold_is_a_data_fault(meter: Bench, more: dict[str, Any]) -> None:
    """What does not fit a column fails the whole batch, as a fault of the rows, and leaves nothing behind."""
    with pytest.raises(Exception) as caught:
        await meter.ledger.post(0, entries([seen("ana", 5), used("ana", 1, **more)]))
    assert connections.is_data_fault(caught.value), repr(caught.value)
    assert await balance(meter, "ana") is None
    await meter.ledger.post(0, entries([seen("ana", 5)]))
    assert await balance(meter, "ana") == 5


async def test_an_odd_clock_is_booked_and_announced(meter: Bench, database: Database, redis_url: str) -> None:
    """An event from the year 2099 lies in the default partitions; its flag says so, and the audit is content."""
    far = ids.uuid7(4_080_000_000_000, bytes(10))
    await meter.ledger.post(0, entries([seen("ana", 90_000), used("ana", 2, event_id=far)]))
    assert await meter.pool.fetchval("SELECT flags FROM sundial.usage_events_default") == ["off_time"]
    await settled(meter, database, redis_url)


async def test_two_meters_book_the_same_batch_once(meter: Bench, database: Database, redis_url: str) -> None:
    """Whoever is second waits for the lock and then knows every event."""
    batch = entries([seen("ana", 10**6), *(used("ana", 1) for _ in range(20)), *(used("bia", 1) for _ in range(20))])
    postings = await asyncio.gather(*(meter.ledger.post(0, batch) for _ in range(4)))
    assert sum(one.booked for one in postings) == 41
    assert await balance(meter, "ana") == 10**6 - 40_000
    await settled(meter, database, redis_url)


async def test_an_account_that_another_meter_opens_meanwhile_is_booked_on(
    meter: Bench, database: Database, redis_url: str
) -> None:
    """Between the locks and the grants that a meter asks for, another one may open the account and grant credit."""
    batch = entries([seen("ana", 10**6), used("ana", 1)])

    class Overtaken(_Counting):
        async def fetchval(self, query: str, *parameters: Any) -> Any:
            if query == QUERIES["read_clock"] and not first:
                first.append(await meter.ledger.post(0, batch))
            return await self._connection.fetchval(query, *parameters)

    first: list[Posting] = []
    async with meter.pool.acquire() as connection, connection.transaction():
        second = await meter.ledger.book(Overtaken(connection), batch)
    assert [(one.booked, one.repeated) for one in (*first, second)] == [(2, 0), (0, 2)]
    assert await balance(meter, "ana") == 10**6 - 2_000
    await settled(meter, database, redis_url)


async def test_time_rises_with_seq_across_writers(meter: Bench, database: Database, redis_url: str) -> None:
    """I2: concurrent batches on one account give a gapless history whose times never go back."""
    await meter.ledger.post(0, entries([seen("ana", 10**9)]))
    batches = [entries([used("ana", 1) for _ in range(5)]) for _ in range(12)]
    await asyncio.gather(*(meter.ledger.post(0, batch) for batch in batches))
    assert await meter.pool.fetchval("SELECT seq FROM sundial.balances") == 61
    await settled(meter, database, redis_url)


async def test_statements_find_rows_by_index_as_tables_grow(meter: Bench, database: Database) -> None:
    """The plans made on empty tables are those of full ones: by key, never through a whole table."""
    keys = [(account_of("ana"), fresh_event_id())]
    async with meter.pool.acquire() as connection:
        for name, parameters in (
            ("known_events", list(books.columns(keys))),
            ("open_grants", [[account_of("ana")]]),
            ("lock_balances", [[account_of("ana")]]),
            ("update_balances", [[account_of("ana")], [1], [1], [0], [bytes(32)]]),
            ("update_grant_balances", [[account_of("ana")], [account_of("ana")], [1]]),
        ):
            plan = await connection.fetch("EXPLAIN " + QUERIES[name], *parameters)
            text = "\n".join(row[0] for row in plan)
            assert "Seq Scan" not in text, text
            assert "Index" in text, text


class _Counting:
    """A connection that counts what is asked of the server."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("execute", "fetch", "fetchval", "fetchrow", "copy_records_to_table"):
            self.calls += 1
        return getattr(self._connection, name)


class _OnePool:
    def __init__(self, connection: _Counting) -> None:
        self._connection = connection

    def acquire(self) -> "_OnePool":
        return self

    async def __aenter__(self) -> _Counting:
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        return None
