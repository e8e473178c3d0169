"""P7: Postgres is put back to an older backup. The meter notices, gateways tell their journals again, all is booked
once; what the journals do not hold (grants, keys) is lost, and told."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.harness.chain import Chain
from tests.harness.lag import caught_up, metric
from tests.harness.load import BODY, assert_truth, calling
from tests.harness.own_postgres import OwnPostgres
from tests.harness.waiting import until

HEAL_S = 30.0
USERS = ("ana", "bia")
CREDIT = "1000000"
ALLOWANCE = "1000"


class Backup(NamedTuple):
    """A folder, and the keys that it knows: of the users, and of a service."""

    folder: Path
    secrets: list[str]
    service: str


@pytest.fixture
async def backup(own_chain: Chain, own_postgres: OwnPostgres, tmp_path: Path) -> Backup:
    """A backup in which two users have credit and some calls."""
    await own_chain.stack.sundial("plan", "set", "default", "--allowance", ALLOWANCE)
    secrets = [await own_chain.personal(user, credit=CREDIT) for user in USERS]
    service = await own_chain.service()
    await served(own_chain, secrets, 4)
    await asyncio.to_thread(own_postgres.back_up, tmp_path / "backup")
    return Backup(tmp_path / "backup", secrets, service)


async def served(chain: Chain, secrets: list[str], calls: int) -> None:
    """So many calls, streamed and not, all of them booked and told."""
    for number in range(calls):
        await chain.raw(secrets[number % len(secrets)], {**BODY, "stream": bool(number % 2)})
    await chain.booked(len(chain.upstream.served))
    for user in USERS:
        await chain.settled(user)


async def put_back(postgres: OwnPostgres, folder: Path) -> None:
    await asyncio.to_thread(postgres.stop, "fast")
    await asyncio.to_thread(postgres.restore, folder)
    await asyncio.to_thread(postgres.start)


async def healed(chain: Chain, secret: str) -> None:
    """The meter has noticed; calls are served; every call since the beginning is booked once and truly."""

    async def noticed() -> bool:
        return await metric(chain, "sundial_meter_restorations") == 1

    await until(noticed, HEAL_S, "the meter says that Postgres is older than it was")
    await chain.until_status(secret, BODY, 200)
    await caught_up(chain, HEAL_S)
    await assert_truth(chain.stack.database_url, chain.upstream)


async def fetch(chain: Chain, statement: str) -> Any:
    """One value out of the books."""
    connection: Any = await asyncpg.connect(chain.stack.database_url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def given_mc(chain: Chain, user: str) -> int:
    """All that an account was ever given."""
    given = "SELECT sum(g.amount_mc)::bigint FROM sundial.grants g JOIN sundial.accounts a USING (account_id)"
    return int(await fetch(chain, f"{given} WHERE a.external_id = '{user}'"))


async def test_p7_restored_while_the_meter_runs(own_chain: Chain, own_postgres: OwnPostgres, backup: Backup) -> None:
    """Under load: what was booked since the backup comes again from the journal of the gateway, which runs on."""
    async with calling(own_chain, *backup.secrets) as load:
        await load.more(20)
        await put_back(own_postgres, backup.folder)
        await own_chain.stack.meter.until_ready()
        await load.more(10)
    assert set(load.statuses) <= {200, 503}
    await healed(own_chain, backup.secrets[0])
    assert "Postgres is older than it was" in own_chain.stack.meter.output


async def test_p7_restored_while_the_meter_is_down(own_chain: Chain, own_postgres: OwnPostgres, backup: Backup) -> None:
    """A meter that starts finds more waiting in the streams than was lost, and notices all the same. A gateway that
    has ended in order since is told for by the next one."""
    await served(own_chain, backup.secrets, 4)
    assert await own_chain.stack.meter.stop() == 0
    for number in range(12):
        await own_chain.raw(backup.secrets[number % 2], BODY)
    assert await own_chain.stack.gateway.stop() == 0
    await put_back(own_postgres, backup.folder)
    await asyncio.gather(own_chain.stack.meter.start(), own_chain.stack.gateway.start())
    await healed(own_chain, backup.secrets[0])


async def test_p7_what_only_postgres_had_is_lost(own_chain: Chain, own_postgres: OwnPostgres, backup: Backup) -> None:
    """A grant, a key and its account, made since the backup, are gone: the log names the account, the gateway refuses
    the key, its calls wait as dead letters until somebody makes the account again. Who was first seen since gets the
    plan's allowance again."""

    async def novo_calls() -> bool:
        return (await own_chain.post(backup.service, BODY, {"X-Sundial-User-Id": "novo"}))[0] == 200

    await own_chain.stack.sundial("grant", "ana", "500")
    eva = await own_chain.personal("eva", credit="1000")
    await own_chain.post(eva, BODY)
    assert await novo_calls()
    await own_chain.booked(6)
    ana = await own_chain.settled("ana")
    await put_back(own_postgres, backup.folder)

    await own_chain.until_status(eva, BODY, 401)
    await own_chain.until_status(backup.secrets[0], BODY, 200)
    told = [line for line in own_chain.stack.meter.output.splitlines() if "account is behind" in line]
    assert sum(ana["account_id"] in line for line in told) == 1
    assert await given_mc(own_chain, "ana") == 1000 * (int(CREDIT) + int(ALLOWANCE))

    await until(novo_calls)
    await until(lambda: fetch(own_chain, "SELECT EXISTS (SELECT FROM sundial.accounts WHERE external_id = 'novo')"))
    await own_chain.settled("novo")
    assert await given_mc(own_chain, "novo") == 1000 * int(ALLOWANCE)

    calls = len(own_chain.upstream.served)
    dealt_with = "SELECT (SELECT count(*) FROM sundial.usage_events) + (SELECT count(*) FROM sundial.open_dead_letters)"
    await until(lambda: fetch(own_chain, f"{dealt_with} = {calls}"))
    await own_chain.stack.sundial("key", "create", "--personal", "eva")
    letters = (await own_chain.stack.sundial("dead-letter", "list"))["dead_letters"]
    await own_chain.stack.sundial("dead-letter", "requeue", *(one["letter_id"] for one in letters))
    await healed(own_chain, backup.secrets[0])
