"""I6 from the other side: `sundial audit --journal` finds each call of the journals in the books, or says which is
not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from gateway.journal import Journal, Kind
from shared import events, ids, redis_keys
from shared.events import UsageEvent
from shared.usage import Usage
from tests.harness.books import assert_books
from tests.harness.chain import Chain
from tests.harness.command import Office, office
from tests.harness.load import BODY
from tests.harness.messages import seen, used
from tests.harness.servers import Database
from tests.harness.tampering import tamper
from tests.harness.waiting import until

BEGUN: dict[str, Any] = {"evidence": "none", "outcome": "lost", "usage": Usage(), "charge_mc": 30}


@pytest.fixture
async def desk(database: Database, redis_url: str) -> AsyncIterator[Office]:
    """Somebody with a shell; ana is known."""
    async with office(database, redis_url) as made:
        await made.bench.say(seen("ana", 10**9))
        yield made


@pytest.fixture
async def calls(desk: Office, database: Database, redis_url: str, tmp_path: Path) -> list[UsageEvent]:
    """Three calls that the journal of a dead process says to be settled, all of them booked."""
    settled = [used("ana", number) for number in (1, 2, 3)]
    left_behind(tmp_path, *(("S", one) for one in settled))
    await desk.bench.say(*settled)
    async with desk.bench.reading():
        await assert_books(database.url, redis_url)
    return settled


def left_behind(home: Path, *records: tuple[str, UsageEvent]) -> Path:
    dead = Journal(home, "dead")
    for kind, event in records:
        dead.write(cast("Kind", kind.encode()), events.encode(event))
    dead.close()
    return dead.folder


async def wrong(desk: Office, home: Path) -> dict[UUID, str]:
    """What the journals have and the books have not, by event."""
    report = await desk.ask("audit", "--journal", str(home), code=1)
    assert report["rules"] == dict.fromkeys(report["rules"], 0) | {"journal": len(report["violations"])}
    return {UUID(one["subject"].split()[1]): one["detail"] for one in report["violations"]}


async def test_i6_what_is_booked_is_found(desk: Office, calls: list[UsageEvent], tmp_path: Path) -> None:
    """Settled calls with their rows, voids without, one that was begun and booked as lost; an empty journal."""
    nothing = used("ana", 1, **BEGUN)
    left_behind(tmp_path, ("D", nothing), ("V", nothing), ("D", calls[0]))
    left_behind(tmp_path)
    report = await desk.ask("audit", "--journal", str(tmp_path))
    told = report["journal"]
    assert told == {"journals": 3, "booked": 4, "set aside": 0, "void": 1, "under way": 0, "open": 0}


async def test_i6_a_row_that_is_missing_or_altered_is_named(
    desk: Office, calls: list[UsageEvent], database: Database, tmp_path: Path
) -> None:
    """Nobody looks at the chains of digests here: the journal alone shows that a call is gone, or says something else.
    A void that is booked is invented."""
    gone, altered, doubled = calls
    stranger = used("bia", 7)
    void = used("ana", 9)
    left_behind(tmp_path, ("S", stranger), ("V", void))
    await desk.bench.say(void)
    async with desk.bench.reading():
        await until(lambda: desk.bench.pool.fetchval("SELECT count(*) = 4 FROM sundial.usage_events"))
    other = ids.account_id(ids.directory_id("librechat"), "bia")
    columns = await desk.bench.pool.fetchval(
        "SELECT string_agg(attname, ', ') FROM pg_attribute"
        " WHERE attrelid = 'sundial.usage_events'::regclass AND attnum > 0 AND attname <> 'account_id'"
    )
    await tamper(
        database,
        f"DELETE FROM sundial.usage_events WHERE event_id = '{gone.event_id}'",
        f"UPDATE sundial.usage_events SET usage = usage || '{{\"input\": 1}}' WHERE event_id = '{altered.event_id}'",
        f"INSERT INTO sundial.usage_events (account_id, {columns}) SELECT '{other}', {columns}"
        f" FROM sundial.usage_events WHERE event_id = '{doubled.event_id}'",
    )
    report = await desk.ask("audit", "--journal", str(tmp_path), code=1)
    found = {UUID(one["subject"].split()[1]): one["detail"] for one in report["violations"] if one["rule"] == "journal"}
    assert found.pop(altered.event_id).startswith("settled, but booked with another usage")
    assert found == {
        gone.event_id: "settled, but neither booked nor under way",
        doubled.event_id: "settled, but booked on 2 accounts",
        stranger.event_id: "settled, but neither booked nor under way",
        void.event_id: "void, but booked as complete",
    }


async def test_i6_what_is_not_over_is_told_as_such(desk: Office, tmp_path: Path) -> None:
    """A running process's call is open, so is one whose hold waits; an entry of the stream is under way, a dead letter
    set aside. With --quiet none of the first two may be."""
    account = used("ana").account_id
    running, held, streamed = used("ana", 1, **BEGUN), used("ana", 1, **BEGUN), used("ana", 1)
    letter, forgotten = used("ana", 1, status=70_000), used("ana", 1, **BEGUN)
    left_behind(tmp_path, ("D", held), ("S", streamed), ("S", letter))
    alive = Journal(tmp_path, "alive")
    alive.write(b"D", events.encode(running))
    shard = ids.shard_of(account)
    await desk.bench.say(letter)
    async with desk.bench.reading():
        await until(lambda: desk.bench.pool.fetchval("SELECT count(*) = 1 FROM sundial.open_dead_letters"))
    await desk.bench.say(streamed)
    await desk.bench.client.hset(redis_keys.holds(shard, account), str(held.event_id), b"9 0 {}")
    await desk.bench.client.hset(redis_keys.account(shard, account), "held", 9)

    report = await desk.ask("audit", "--journal", str(tmp_path))
    assert report["journal"] == {"journals": 2, "booked": 0, "set aside": 1, "void": 0, "under way": 1, "open": 2}
    report = await desk.ask("audit", "--journal", str(tmp_path), "--quiet", code=1)
    told = [one["detail"] for one in report["violations"] if one["rule"] == "journal"]
    assert sorted(told) == ["begun, and not closed yet"] * 2 + ["settled, but not booked yet"]

    left_behind(tmp_path, ("D", forgotten))
    assert (await wrong(desk, tmp_path))[forgotten.event_id].startswith("begun, its process is gone")
    alive.close()


async def test_i6_a_damaged_record_is_told(desk: Office, calls: list[UsageEvent], tmp_path: Path) -> None:
    """What cannot be read cannot be proved: the file is named, and the rest is looked up."""
    [segment] = (tmp_path / "journal").glob("dead-*/*.log")
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    ran = await desk.run("audit", "--journal", str(tmp_path))
    assert ran.code == 1
    assert "1 damaged records" in " ".join(ran.out.split())
    report = await desk.ask("audit", "--journal", str(tmp_path), code=1)
    assert (report["violations"][0]["subject"], report["journal"]["booked"]) == (str(segment), len(calls) - 1)


async def test_i6_the_journal_of_a_running_gateway_is_in_the_books(chain: Chain) -> None:
    """After calls of every kind, and after the gateway has ended."""
    home = chain.stack.environment["SUNDIAL_HOME"]
    secret = await chain.personal("ana", credit="1000000")
    for number in range(6):
        await chain.raw(secret, {**BODY, "stream": bool(number % 2)})
    report = await chain.stack.sundial("audit", "--journal", home)
    assert report["journal"]["booked"] + report["journal"]["under way"] == 6
    assert await chain.stack.gateway.stop() == 0
    await chain.settled("ana")
    report = await chain.stack.sundial("audit", "--journal", home, "--quiet")
    assert report["journal"] == {"journals": 1, "booked": 6, "set aside": 0, "void": 0, "under way": 0, "open": 0}
