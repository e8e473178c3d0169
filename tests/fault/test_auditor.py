"""P8: the meter follows the chains while it works, says what is broken, and writes the day's checkpoint elsewhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import structlog
from prometheus_client import generate_latest

from deploy.ports import free_port
from meter import audit_projection, checkpoints
from meter.audit import QUICK_RULES
from meter.auditor import AUDITED_RULES, Auditor
from meter.daily_checkpoint import DailyCheckpoint
from meter.prices import PriceBook
from meter.projection_auditor import PROJECTION_RULES, ProjectionAuditor
from meter.tariffs import Tariffs
from shared import ids, redis_keys
from tests.harness.books import until
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database
from tests.harness.stack import Program
from tests.harness.tampering import KEY, PUBLIC_KEY, tamper, write_anew

pytestmark = pytest.mark.integration

EXPORTED = (*QUICK_RULES, *AUDITED_RULES, *PROJECTION_RULES, "checkpoint")
OF_ANA = f"account_id = '{account_of('ana')}'"
EVENT_3 = f"event_id = (SELECT transfer_id FROM sundial.transfers WHERE seq = 3 AND {OF_ANA})"
CUT_OFF = (
    "DELETE FROM sundial.transfers WHERE seq = 5; UPDATE sundial.balances b SET seq = 4, digest = t.digest"
    " FROM sundial.transfers t WHERE t.account_id = b.account_id AND t.seq = 4"
)


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    """Ana has seqs 1 to 5, Bob 1."""
    async with bench(database, redis_url) as made:
        await made.ledger.post(0, entries([seen("ana", 10**6), *(used("ana", 1) for _ in range(4)), seen("bob", 1)]))
        yield made


def gauge(rule: str = "digest") -> str:
    lines = generate_latest().decode().splitlines()
    [line] = [line for line in lines if line.startswith(f'sundial_invariant_violations{{rule="{rule}"}}')]
    return line.split()[1]


def tariffs() -> Tariffs:
    """Prices of which nothing is at hand."""
    return Tariffs(PriceBook())


async def test_p8_the_meter_follows_what_is_recorded(meter: Bench, database: Database) -> None:
    """Piece by piece it comes to the end of every chain, then on to what is new; a row that is altered before it came
    there is told once, by account and seq, at critical, and stays on the gauge."""
    async with aclosing(Auditor(database.meter_url, tariffs(), transfers_max=2)) as auditor:
        for _ in range(6):
            await auditor.look()
        assert (auditor.broken, gauge()) == ({}, "0.0")

        await meter.ledger.post(0, entries([used("ana", 1), used("ana", 1), seen("eva", 1)]))
        await tamper(database, "UPDATE sundial.transfers SET memo = 'x' WHERE seq = 7")
        with structlog.testing.capture_logs() as logs:
            for _ in range(6):
                await auditor.look()
        assert [one["log_level"] for one in logs] == ["critical"]
        assert logs[0]["account"] == str(account_of("ana"))
        assert logs[0]["detail"].startswith("seq 7 ")
        assert gauge() == "1.0"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("", "seq 5 has another digest than it had: the chain was written anew"),
        (
            CUT_OFF,
            "seq 5 is gone: its balance stands at seq 4, its tail was cut off",
        ),
        ("UPDATE sundial.balances SET seq = 6 WHERE seq = 5", "stands at seq 6, its transfers end at seq 5"),
        ("DELETE FROM sundial.balances WHERE seq = 5", "it is gone: it stood at seq 5"),
    ],
)
async def test_p8_the_meter_remembers_where_chains_stood(
    meter: Bench, database: Database, damage: str, told: str
) -> None:
    """What the books do not show by themselves, the meter tells that has seen them before."""
    async with aclosing(Auditor(database.meter_url, tariffs())) as auditor:
        await auditor.look()
        assert auditor.broken == {}
        if damage:
            await tamper(database, damage)
        else:
            await tamper(database, "UPDATE sundial.transfers SET memo = 'x' WHERE seq = 2")
            await write_anew(database, "ana")
        await auditor.look()
        await auditor.look()
        assert list(auditor.broken) == [account_of("ana")]
        assert told in auditor.broken[account_of("ana")]


@pytest.mark.parametrize(
    ("rules", "damage"),
    [
        ({"history"}, "UPDATE sundial.transfers SET recorded_at = 'epoch' WHERE seq = 3"),
        ({"history", "draw_transfers"}, "UPDATE sundial.transfers SET balance_after_mc = -1 WHERE seq = 3"),
        ({"usage_transfers", "charges"}, f"UPDATE sundial.usage_events SET charge_mc = 1 WHERE {EVENT_3}"),
        ({"usage_transfers"}, f"DELETE FROM sundial.usage_events WHERE {EVENT_3}"),
        ({"charges"}, f"UPDATE sundial.usage_events SET usage = '{{\"input\": 7}}' WHERE {EVENT_3}"),
        ({"grant_transfers"}, f"UPDATE sundial.grants SET amount_mc = 7 WHERE {OF_ANA}"),
        ({"draw_transfers"}, f"DELETE FROM sundial.draws WHERE transfer_{EVENT_3[6:]}"),
        ({"usage_transfers", "corrections"}, "UPDATE sundial.transfers SET kind = 'adjustment' WHERE seq = 3"),
        ({"balance_cache"}, "UPDATE sundial.balances SET balance_mc = 7 WHERE seq = 5"),
        ({"once"}, "copy"),
    ],
)
async def test_p8_the_meter_looks_at_each_transfer(
    meter: Bench, database: Database, rules: set[str], damage: str
) -> None:
    """What is wrong with a transfer is told by its rule, also where the chain of digests holds: a fault of the meter
    would be sealed with it."""
    if damage == "copy":
        columns = await meter.pool.fetchval(
            "SELECT string_agg(attname, ', ') FROM pg_attribute"
            " WHERE attrelid = 'sundial.usage_events'::regclass AND attnum > 0 AND attname <> 'account_id'"
        )
        damage = (
            f"INSERT INTO sundial.usage_events (account_id, {columns})"
            f" SELECT '{account_of('bob')}', {columns} FROM sundial.usage_events WHERE {EVENT_3}"
        )
    await tamper(database, damage)
    await write_anew(database, "ana")
    known = tariffs()
    await known.holding(meter.pool, {1}, {"tokens@1"})
    async with aclosing(Auditor(database.meter_url, known)) as auditor:
        await auditor.look()
        assert set(auditor.found) == rules
        assert all(set(found) == {account_of("ana")} for found in auditor.found.values())
        assert {rule for rule in AUDITED_RULES if gauge(rule) == "1.0"} == rules


async def test_p7_after_a_restoration_the_meter_begins_anew(meter: Bench, database: Database) -> None:
    """That chains are shorter than they were is no news then; what is wrong with them still is."""
    async with aclosing(Auditor(database.meter_url, tariffs())) as auditor:
        await auditor.look()
        await tamper(database, CUT_OFF)
        await auditor.look()
        assert set(auditor.found) == {"digest"}
        auditor.begin_anew()
        await auditor.look()
        assert set(auditor.found) == {"balance_cache"}


async def test_p8_the_meter_looks_at_redis(meter: Bench) -> None:
    """What Redis says otherwise than Postgres, and stays so, is told by its rule until it is right."""
    accounts = [account_of("ana"), account_of("bob")]
    await meter.projection.apply_by_id(accounts)
    shard = ids.shard_of(account_of("ana"))
    account = redis_keys.account(shard, account_of("ana"))
    auditor = ProjectionAuditor(meter.client, meter.pool, meter.projection, [shard])
    await auditor.look()
    assert auditor.found == []

    balance = int(await meter.client.hget(account, "balance"))
    await meter.client.hset(account, mapping={"balance": balance + 1, "held": 5})
    await meter.client.hset(redis_keys.unposted(shard, account_of("ana")), str(used("ana").event_id), 3)
    await meter.client.hset(account, "unposted", 3)
    await auditor.look()
    assert {rule: gauge(rule) for rule in PROJECTION_RULES} == dict.fromkeys(PROJECTION_RULES, "1.0")

    await meter.client.hset(account, mapping={"balance": balance, "held": 0, "unposted": 0})
    await meter.client.delete(redis_keys.unposted(shard, account_of("ana")))
    await auditor.look()
    assert {rule: gauge(rule) for rule in PROJECTION_RULES} == dict.fromkeys(PROJECTION_RULES, "0.0")


async def test_what_stays_wrong_in_redis_is_set_right(meter: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9, I11: somebody wrote a balance and the sums of what is held and unposted. It is told once, set right at the
    next look and found right after it; a hold and what is unposted stay."""
    monkeypatch.setattr(audit_projection, "LOOKS_MAX", 2)
    ana = account_of("ana")
    shard = ids.shard_of(ana)
    account = redis_keys.account(shard, ana)
    await meter.client.delete(redis_keys.unposted(shard, ana))
    await meter.client.hdel(account, "unposted")
    await meter.projection.apply_by_id([ana])
    await meter.client.hset(redis_keys.holds(shard, ana), str(used("ana").event_id), "70 0 {}")
    await meter.say(call := used("ana", 1))
    true = {**await meter.client.hgetall(account), b"held": b"70"}
    await meter.client.hset(account, mapping={"balance": 7, "held": 5, "unposted": 1})

    auditor = ProjectionAuditor(meter.client, meter.pool, meter.projection, [shard])
    await auditor.look()
    assert await meter.client.hget(account, "balance") == b"7"
    assert {rule: gauge(rule) for rule in PROJECTION_RULES} == dict.fromkeys(PROJECTION_RULES, "1.0")
    await auditor.look()
    assert await meter.client.hgetall(account) == true
    assert true[b"unposted"] == str(call.charge_mc).encode()
    await auditor.look()
    assert auditor.found == []


async def test_p8_one_meter_at_a_time_audits(meter: Bench, database: Database) -> None:
    """The second waits until the first has ended, also where its connection was cut, and then finds the same."""
    await tamper(database, "UPDATE sundial.transfers SET memo = 'x' WHERE seq = 2")
    async with aclosing(Auditor(database.meter_url, tariffs())) as second:
        async with aclosing(Auditor(database.meter_url, tariffs())) as first:
            await first.look()
            await second.look()
            assert len(first.broken) == 1
            assert second.broken == {}
            first.cut_off()

        async def found() -> bool:
            await second.look()
            return len(second.broken) == 1

        await until(found)


async def test_p8_a_checkpoint_each_day(meter: Bench, database: Database, tmp_path: Path) -> None:
    """Two meters write one; a file that is lost, or whose folder was away, is written again, the same; a row that was
    forged in the database is told, and does not stand for the day's."""
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    one, other = (DailyCheckpoint(meter.pool, KEY, here) for _ in range(2))
    await asyncio.gather(one.write(), other.write())
    await one.write()
    await other.write()
    [name] = await asyncio.to_thread(lambda: [path.name for path in here.iterdir()])
    first = checkpoints.load(here / name)
    said = checkpoints.verify(first, checkpoints.public_key(PUBLIC_KEY))
    assert {account for account, _, _, _ in said.heads} == {account_of("ana"), account_of("bob")}

    late = DailyCheckpoint(meter.pool, KEY, away)
    with structlog.testing.capture_logs() as logs:
        await late.write()
    assert "not in its folder" in logs[0]["event"]
    await asyncio.to_thread(away.mkdir)
    await late.write()
    assert checkpoints.load(away / name) == first

    await tamper(database, "UPDATE sundial.checkpoints SET statement = statement || ' '")
    with structlog.testing.capture_logs() as logs:
        await one.write()
    assert [(one["log_level"], one["rule"]) for one in logs if "rule" in one] == [("critical", "checkpoint")]
    assert len(await asyncio.to_thread(lambda: list(here.iterdir()))) == 2


async def test_p8_the_meters_process_says_it(meter: Bench, database: Database, redis_url: str, tmp_path: Path) -> None:
    """From its start the meter exports 0 for each rule that it looks at; it writes the day's checkpoint; and it tells a
    row that is altered beside it."""
    port = free_port()
    program = Program(
        "meter",
        {
            "SUNDIAL_DATABASE_URL": database.meter_url,
            "SUNDIAL_REDIS_URL": redis_url,
            "SUNDIAL_METER_METRICS_PORT": str(port),
            "SUNDIAL_LOG": "json",
            "SUNDIAL_CHECKPOINT_KEY": KEY,
            "SUNDIAL_CHECKPOINT_DIR": str(tmp_path),
        },
        port,
        tmp_path / "meter.log",
    )

    async def violations() -> dict[str, str]:
        async with aiohttp.ClientSession() as client, client.get(program.url("/metrics")) as answer:
            lines = (await answer.text()).splitlines()
        prefix = "sundial_invariant_violations{"
        return {line.split('"')[1]: line.split()[-1] for line in lines if line.startswith(prefix)}

    async def told() -> bool:
        return (await violations())["digest"] == "1.0"

    async def written() -> bool:
        return bool(await asyncio.to_thread(lambda: list(tmp_path.glob("checkpoint-*.json"))))

    await program.start()
    try:
        assert await violations() == dict.fromkeys(EXPORTED, "0.0")
        await until(written)
        owner: Any = await asyncpg.connect(database.url)
        await until(lambda: owner.fetchval("SELECT count(*) = 1 FROM sundial.checkpoints"))
        await owner.close()
        await tamper(database, "UPDATE sundial.balances SET digest = sha256('x') WHERE seq = 5")
        await until(told)
        log = await asyncio.to_thread((tmp_path / "meter.log").read_text)
        assert '"level":"critical"' in log.replace(" ", "")
        assert str(account_of("ana")) in log
    finally:
        assert await program.stop() == 0
