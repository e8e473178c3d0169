"""Dead letters, on real servers and through the command: tried again or let go, by order, once, and for ever listed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from meter.audit import audit
from meter.posting import DeadLetter
from shared import ids, redis_keys
from shared.events import encode
from tests.harness.books import assert_books, until, until_quiet
from tests.harness.command import Office, office
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import entries
from tests.harness.servers import Database
from tests.harness.tampering import tamper

pytestmark = pytest.mark.integration

MARIA = account_of("maria")
SHARD = ids.shard_of(MARIA)
ELSEWHERE = ids.directory_id("elsewhere")


@pytest.fixture
async def desk(database: Database, redis_url: str) -> AsyncIterator[Office]:
    """An office; afterwards the books close."""
    async with office(database, redis_url) as opened:
        yield opened
        await assert_books(database.url, redis_url)


async def from_the_future(desk: Office, charge_mc: int) -> Any:
    """An event of a later version, counted as unposted by a later gateway; returns the event."""
    event = used("maria", 5, charge_mc=charge_mc)
    unposted = redis_keys.unposted(SHARD, MARIA)
    if await desk.bench.client.hsetnx(unposted, str(event.event_id), charge_mc):
        await desk.bench.client.hincrby(redis_keys.account(SHARD, MARIA), "unposted", charge_mc)
    await again(desk, event)
    return event


async def again(desk: Office, event: Any) -> None:
    payload = encode(event).replace(b'"kind":"usage"', b'"kind":"usage","v":99')
    await desk.bench.client.xadd(redis_keys.usage_stream(SHARD), {"d": payload})


async def letters(desk: Office, *options: str) -> list[Any]:
    found: list[Any] = (await desk.ask("dead-letter", "list", *options))["dead_letters"]
    return found


async def test_a_letter_is_tried_again_until_it_is_booked(desk: Office, database: Database) -> None:
    """Of an unknown directory: kept with its reason; when the directory is there, booked, and closed for ever."""
    stranger = ids.account_id(ELSEWHERE, "zoe")
    event = used("zoe", 5, account_id=stranger, directory_id=ELSEWHERE)
    async with desk.metering():
        await desk.bench.say(event)
        await until_quiet(desk.redis_url)
        [letter] = await letters(desk)
        assert (letter["state"], letter["event_id"]) == ("open", str(event.event_id))
        assert "account unknown" in letter["reason"]
        answer = await desk.ask("dead-letter", "requeue", letter["letter_id"], code=1)
        assert [(one["outcome"], "account unknown" in one["detail"]) for one in answer["letters"]] == [("kept", True)]
        owner: Any = await asyncpg.connect(database.url)
        await owner.execute("INSERT INTO sundial.directories VALUES ($1, 'elsewhere')", ELSEWHERE)
        await owner.close()
        marks = desk.bench.projection.marks
        before = await marks.passed_on()
        answer = await desk.ask("dead-letter", "requeue", letter["letter_id"])
        assert [one["outcome"] for one in answer["letters"]] == ["booked"]

        async def marked() -> bool:
            return await marks.passed_on() > before

        await until(marked)
        shown = await desk.ask("account", "show", str(stranger))
        assert (shown["balance"], shown["unposted"]) == (-10_000, 0)
        answer = await desk.ask("dead-letter", "requeue", letter["letter_id"], code=1)
        assert [one["outcome"] for one in answer["letters"]] == ["refused"]
        assert await letters(desk) == []
        [closed] = await letters(desk, "--all")
        assert closed["state"] == "booked"
        whole = await desk.ask("dead-letter", "show", letter["letter_id"])
        assert [one["outcome"] for one in whole["orders"]] == ["kept", "booked", "refused"]
        assert str(event.event_id) in whole["payload"]


async def test_a_discarded_letter_counts_no_more_and_never_comes_back(desk: Office) -> None:
    """Its charge leaves unposted, who and why are recorded, and the same entry, delivered again, changes nothing."""
    async with desk.metering():
        await desk.bench.say(seen("maria", 100_000))
        event = await from_the_future(desk, 7_000)
        await until_quiet(desk.redis_url)
        assert (await desk.ask("account", "show", "maria"))["unposted"] == 7_000
        await again(desk, event)
        await until_quiet(desk.redis_url)
        [letter] = await letters(desk)
        assert "version 99" in letter["reason"]
        await desk.refused("dead-letter", "discard", letter["letter_id"], "--memo", " ", code=2)
        answer = await desk.ask("dead-letter", "discard", letter["letter_id"], "--memo", "a test")
        assert [one["outcome"] for one in answer["letters"]] == ["discarded"]
        shown = await desk.ask("account", "show", "maria")
        assert (shown["unposted"], shown["spendable"]) == (0, 100_000)
        await desk.bench.say(event)  # readable at last, and counted again by a journal's replay
        await again(desk, event)
        await until_quiet(desk.redis_url)
        assert (await desk.ask("account", "show", "maria"))["spendable"] == 100_000
        assert await letters(desk) == []
        [order] = (await desk.ask("dead-letter", "show", letter["letter_id"]))["orders"]
        assert (order["action"], order["memo"], order["outcome"]) == ("discard", "a test", "discarded")
        assert order["created_by"].startswith("cli:")


async def test_a_letter_whose_call_is_booked_meanwhile_is_not_let_go(desk: Office, database: Database) -> None:
    """The directory comes, a journal tells the call again, and it is booked: who then discards the letter is told that
    the charge stands, and the letter is closed. With the letter discarded all the same, the audit says so."""
    stranger = ids.account_id(ELSEWHERE, "zoe")
    event = used("zoe", 5, account_id=stranger, directory_id=ELSEWHERE)
    async with desk.metering():
        await desk.bench.say(event)
        await until_quiet(desk.redis_url)
        [letter] = await letters(desk)
        owner: Any = await asyncpg.connect(database.url)
        await owner.execute("INSERT INTO sundial.directories VALUES ($1, 'elsewhere')", ELSEWHERE)
        await owner.close()
        await desk.bench.say(event)
        await until_quiet(desk.redis_url)
        answer = await desk.run("dead-letter", "discard", letter["letter_id"], "--memo", "a test")
        assert (answer.code, "booked: " in answer.out, "the charge stands" in answer.err) == (1, True, True)
        assert (await desk.ask("account", "show", str(stranger)))["balance"] == -10_000
        [closed] = await letters(desk, "--all")
        assert closed["state"] == "booked"
    assert await audit(database.url, desk.redis_url) == []
    await tamper(database, "UPDATE sundial.dead_letter_outcomes SET outcome = 'discarded'")
    told = [one.detail for one in await audit(database.url, desk.redis_url) if one.rule == "dead_letter_orders"]
    assert told == [f"was discarded, but event {event.event_id} is booked"]
    await tamper(database, "UPDATE sundial.dead_letter_outcomes SET outcome = 'booked'")


@pytest.mark.parametrize("opened", [False, True], ids=["no account", "account"])
async def test_whoever_comes_first_decides(desk: Office, database: Database, opened: bool) -> None:
    """Letter discarded and call booked at once, whether or not the account is there: one of the two, never both."""
    for turn in range(8):
        name = "maria" if opened else f"zoe {turn}"
        event = used(name, 5)
        if opened:
            await desk.bench.ledger.post(0, entries([seen(name, 100_000)]))
        letter = DeadLetter(f"1-{turn}", encode(event) + b" ", "set aside by hand", event.account_id, event.event_id)
        await desk.bench.ledger.post(SHARD, [], [letter], dead_max=1)
        letter_id = await desk.bench.pool.fetchval(
            "SELECT letter_id FROM sundial.dead_letters WHERE event_id = $1", event.event_id
        )
        order_id = fresh_event_id()
        await tamper(
            database,
            "INSERT INTO sundial.dead_letter_orders (order_id, letter_id, action, memo, created_by)"
            f" VALUES ('{order_id}', '{letter_id}', 'discard', 'x', 'x')",
            f"INSERT INTO sundial.dead_letter_queue VALUES ('{order_id}', '{letter_id}', {SHARD})",
        )
        await asyncio.gather(desk.bench.dead_letters.answer(), desk.bench.ledger.post(0, entries([event])))
        booked, outcome = await desk.bench.pool.fetchrow(
            "SELECT EXISTS (SELECT FROM sundial.usage_events WHERE event_id = $1),"
            " (SELECT outcome FROM sundial.dead_letter_outcomes WHERE letter_id = $2)",
            event.event_id,
            letter_id,
        )
        assert outcome == ("booked" if booked else "discarded")
    accounts = [row["account_id"] for row in await desk.bench.pool.fetch("SELECT account_id FROM sundial.accounts")]
    await desk.bench.projection.apply_by_id(accounts)


async def test_without_a_meter_the_order_waits(desk: Office) -> None:
    """Queued, exit 0; the next meter does it. A letter that does not exist is an answer of no."""
    await desk.bench.say(seen("maria", 100_000))
    await from_the_future(desk, 7_000)
    async with desk.bench.reading():
        await until_quiet(desk.redis_url)
    [letter] = await letters(desk)
    answer = await desk.ask("dead-letter", "discard", letter["letter_id"], "--memo", "x", "--no-wait")
    assert [one["outcome"] for one in answer["letters"]] == ["queued"]
    assert [one["state"] for one in await letters(desk)] == ["queued"]
    assert "no dead letter" in await desk.refused("dead-letter", "show", str(MARIA), code=1)
    await desk.bench.settle_orders()
    assert await letters(desk) == []


async def test_a_meter_that_dies_before_it_tells_redis_is_succeeded(
    desk: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit and Redis the order stays queued: the next round tells, and decides nothing again."""
    await desk.bench.say(seen("maria", 100_000))
    await from_the_future(desk, 7_000)
    async with desk.bench.reading():
        await until_quiet(desk.redis_url)
    [letter] = await letters(desk)
    await desk.ask("dead-letter", "discard", letter["letter_id"], "--memo", "x", "--no-wait")

    async def dies(*_: Any) -> None:
        raise RedisConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(desk.bench.projection, "apply_by_id", dies)
        with pytest.raises(RedisConnectionError):
            await desk.bench.dead_letters.answer()
    assert (await desk.ask("account", "show", "maria"))["unposted"] == 7_000
    await desk.bench.settle_orders()
    assert (await desk.ask("account", "show", "maria"))["unposted"] == 0
    assert await desk.bench.pool.fetchval("SELECT count(*) FROM sundial.dead_letter_outcomes") == 1
