"""I6 from the other side: `sundial audit --journal` finds each call of the journals in the books, or says which is
not. And of each answer that ended well, whether its end came last (I7), its bytes are the upstream's (I8), and it cost
no more than it may (I10)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from gateway.journal import Journal, Kind
from shared import ends, events, ids, redis_keys
from shared.ends import End
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


def left_behind(home: Path, *records: tuple[str, UsageEvent | End]) -> Path:
    dead = Journal(home, "dead")
    for kind, record in records:
        payload = ends.encode(record) if isinstance(record, End) else events.encode(record)
        dead.write(cast("Kind", kind.encode()), payload)
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
    assert told == {"journals": 3, "booked": 4, "set aside": 0, "void": 1, "under way": 0, "open": 0, "answers": 0}


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
    assert report["journal"] == {
        "journals": 2,
        "booked": 0,
        "set aside": 1,
        "void": 0,
        "under way": 1,
        "open": 2,
        "answers": 0,
    }
    report = await desk.ask("audit", "--journal", str(tmp_path), "--quiet", code=1)
    told = [one["detail"] for one in report["violations"] if one["rule"] == "journal"]
    assert sorted(told) == ["begun, and not closed yet"] * 2 + ["settled, but not booked yet"]

    left_behind(tmp_path, ("D", forgotten))
    assert (await wrong(desk, tmp_path))[forgotten.event_id].startswith("begun, its process is gone")
    alive.close()


def end(event: UsageEvent, **more: Any) -> End:
    """Of an answer of 500 bytes that passed as it came."""
    return msgspec.structs.replace(End(event_id=event.event_id, came=500, sent=500, slice_mc=10_000), **more)


async def test_i7_an_end_stands_behind_its_record(desk: Office, calls: list[UsageEvent], tmp_path: Path) -> None:
    """Before it, or said to have left before it: too early. Alone: the books have the call, or nobody has."""
    one, two, three = calls
    nowhere = used("ana", 5)
    left_behind(tmp_path, ("E", end(one)), ("S", one), ("S", two), ("E", end(two, early=True)), ("E", end(three)))
    report = await desk.ask("audit", "--journal", str(tmp_path), code=1)
    early = "its end left before its record was written"
    assert told(report) == {(one.event_id, "client_last"): early, (two.event_id, "client_last"): early}
    assert report["journal"]["answers"] == 3

    left_behind(tmp_path, ("E", end(nowhere)))
    report = await desk.ask("audit", "--journal", str(tmp_path), code=1)
    alone = "ended, but it is neither recorded nor booked"
    assert told(report)[nowhere.event_id, "client_last"] == alone


async def test_i8_i10_what_an_end_says_must_hold(desk: Office, database: Database, tmp_path: Path) -> None:
    """Bytes that differ or do not add up, the clean end of a call that broke; one dearer than its hold and a slice."""
    good, taken, differs, short, cut = (used("ana", 1, hold_mc=2_000) for _ in range(5))
    broke = used("ana", 1, hold_mc=2_000, outcome="timeout")
    just, dear, unbound = (used("ana", 2, hold_mc=3_000) for _ in range(3))
    records = [(one, end(one)) for one in (good, broke)]
    records += [(taken, end(taken, stayed=300, added=16, sent=216)), (differs, end(differs, same=False))]
    records += [(short, end(short, sent=499)), (cut, end(cut, stayed=10))]
    records += [
        (just, end(just, slice_mc=1_000)),
        (dear, end(dear, slice_mc=999)),
        (unbound, end(unbound, slice_mc=-1)),
    ]
    left_behind(tmp_path, *(pair for event, its_end in records for pair in (("S", event), ("E", its_end))))
    await desk.bench.say(seen("ana", 10**9), *(event for event, _ in records))
    async with desk.bench.reading():
        await until(lambda: desk.bench.pool.fetchval("SELECT count(*) = 9 FROM sundial.usage_events"))
    report = await desk.ask("audit", "--journal", str(tmp_path), code=1)
    assert told(report) == {
        (differs.event_id, "bytes"): "what left is not what came",
        (short.event_id, "bytes"): "500 bytes came, 0 stayed, 0 were added, but 499 left",
        (cut.event_id, "bytes"): "500 bytes came, 10 stayed, 0 were added, but 500 left",
        (broke.event_id, "bytes"): "it has a clean end, though it was closed as timeout",
        (dear.event_id, "floor"): "costs 4000 mc; 3000 mc were held, and a slice is 999 mc",
    }


async def test_i13_an_answer_of_another_call_is_told(desk: Office) -> None:
    """Its id is not that of the call; an id of LiteLLM's own making says nothing."""
    own = used("ana", 1)
    own = msgspec.structs.replace(own, upstream_call_id=str(own.event_id))
    crossed = used("ana", 1, upstream_call_id=str(own.event_id))
    foreign = used("ana", 1, upstream_call_id="d7b8aa54-0d0b-4a5e-9f30-2f6a1c9d11aa")
    await desk.bench.say(own, crossed, foreign)
    async with desk.bench.reading():
        await until(lambda: desk.bench.pool.fetchval("SELECT count(*) = 3 FROM sundial.usage_events"))
    report = await desk.ask("audit", code=1)
    assert told(report) == {
        (crossed.event_id, "isolation"): f"was booked by the answer to call {own.event_id}",
    }


def told(report: dict[str, Any]) -> dict[tuple[UUID, str], str]:
    """What is wrong, by event and rule."""
    return {(UUID(one["subject"].split()[1]), one["rule"]): one["detail"] for one in report["violations"]}


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
    assert report["journal"] == {
        "journals": 1,
        "booked": 6,
        "set aside": 0,
        "void": 0,
        "under way": 0,
        "open": 0,
        "answers": 6,
    }
