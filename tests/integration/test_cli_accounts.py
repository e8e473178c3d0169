"""Accounts, keys, plans and orders on real servers, by the command as people run it."""

import hashlib
from typing import Any

import asyncpg
import pytest

from shared import ids, redis_keys
from shared.projection import KeyRecord, Plan, decode_catalog, decode_key
from shared.units import MC_MAX, format_credits
from sundial.database import connect
from tests.harness.books import assert_books, until_quiet
from tests.harness.command import Office
from tests.harness.messages import DIRECTORY, account_of, seen
from tests.harness.office_fixtures import busy, idle
from tests.harness.servers import Database
from tests.harness.waiting import until

__all__ = ["busy", "idle"]

pytestmark = pytest.mark.integration


async def projected(office: Office, user: str) -> dict[str, str]:
    account = account_of(user)
    fields = await office.bench.client.hgetall(redis_keys.account(ids.shard_of(account), account))
    return {name.decode(): value.decode() for name, value in fields.items()}


async def until_projected(office: Office, user: str, **expected: str) -> None:
    """Wait until Redis has these fields of the account."""

    async def there() -> bool:
        return expected.items() <= (await projected(office, user)).items()

    await until(there)


async def known_key(office: Office, secret: str, status: str = "active") -> KeyRecord:
    """The gateway's record of a key, once it has this status."""
    found: list[KeyRecord] = []

    async def there() -> bool:
        data = await office.bench.client.hget(redis_keys.API_KEYS, hashlib.sha256(secret.encode()).hexdigest())
        found[:] = [decode_key(data)] if data else []
        return bool(found) and found[0].status == status

    await until(there)
    return found[0]


async def test_an_account_is_opened_once_with_its_allowance(busy: Office) -> None:
    """`account create` gives the plan's allowance; a second one changes nothing and ends with 1."""
    made = await busy.ask("account", "create", "maria", "--name", "Maria")
    assert (made["outcome"], made["account_id"]) == ("posted", str(account_of("maria")))
    assert "exists already" in await busy.refused("account", "create", "maria", code=1)
    shown = await busy.ask("account", "show", "maria")
    assert shown["ledger_balance"] == made["allowance"] == shown["grants"][0]["amount"]
    assert [grant["remaining"] for grant in shown["grants"]] == [made["allowance"]]


@pytest.mark.parametrize("first", ["gateway", "command"])
async def test_the_allowance_is_given_once_whoever_comes_first(busy: Office, first: str) -> None:
    """A user whom the gateway announces and a person opens by hand gets one allowance, in either order."""
    if first == "gateway":
        await busy.bench.say(seen("maria", 1_000_000))
        await until_projected(busy, "maria", balance="1000000")
        await busy.refused("account", "create", "maria", code=1)
    else:
        await busy.ask("account", "create", "maria")
        await busy.bench.say(seen("maria", 1_000_000))
        await until_quiet(busy.redis_url)
    statement = await busy.ask("statement", "maria")
    assert (statement["grants"], statement["entries_total"]) == (1_000_000, 1)


async def test_an_account_is_shown_as_the_gateway_and_as_the_ledger_see_it(busy: Office) -> None:
    """What is held and unposted in Redis lowers what may be spent, and leaves the ledger's balance as it is."""
    await busy.ask("account", "create", "maria")
    await busy.ask("account", "floor", "maria", "-0.5")
    await until_projected(busy, "maria", balance="1000000", floor="-500")
    account = account_of("maria")
    key = redis_keys.account(ids.shard_of(account), account)
    await busy.bench.client.hset(key, mapping={"held": 300, "unposted": 50})
    shown = await busy.ask("account", "show", str(account))
    assert (shown["balance"], shown["held"], shown["unposted"], shown["floor"]) == (1_000_000, 300, 50, -500)
    assert (shown["spendable"], shown["ledger_balance"], shown["projected"]) == (1_000_150, 1_000_000, True)
    await busy.bench.client.hset(key, mapping={"held": 0, "unposted": 0})


async def test_without_redis_the_ledgers_part_is_shown(busy: Office) -> None:
    """Where Redis is away, `account show` prints what Postgres knows, says what is missing, and ends with 3."""
    await busy.ask("account", "create", "maria")
    ran = await busy.run("account", "show", "maria", "--json", SUNDIAL_REDIS_URL="redis://:geheim@127.0.0.1:1/0")
    assert ran.code == 3
    assert (ran.json["ledger_balance"], ran.json["spendable"]) == (1_000_000, None)
    assert "SUNDIAL_REDIS_URL" in ran.err
    assert "geheim" not in ran.err


async def test_an_ambiguous_external_id_asks_for_the_directory(busy: Office) -> None:
    """The same external id in two directories is wrong usage until --directory says which; an account id never is."""
    await busy.ask("account", "create", "maria", "--no-allowance")
    other = await busy.ask("account", "create", "maria", "--directory", "intranet", "--new-directory", "--no-allowance")
    assert "--directory intranet" in await busy.refused("grant", "maria", "5", code=2)
    assert (await busy.ask("account", "show", "maria", "--directory", "intranet"))["account_id"] == other["account_id"]
    assert (await busy.ask("account", "show", other["account_id"]))["directory"] == "intranet"


async def test_grants_and_adjustments_are_posted(busy: Office) -> None:
    """A grant and a negative adjustment move the ledger's balance to the millicredit, under the order's id."""
    await busy.ask("account", "create", "maria", "--no-allowance")
    granted = await busy.ask("grant", "maria", "1_000.5", "--memo", "welcome", "--expires", "2099-12-31")
    assert (granted["outcome"], granted["amount"], granted["ledger_balance"]) == ("posted", 1_000_500, 1_000_500)
    adjusted = await busy.ask("adjust", "maria", "-0.125", "--memo", "rounding")
    assert (adjusted["kind"], adjusted["ledger_balance"]) == ("adjustment", 1_000_375)
    entries = (await busy.ask("statement", "maria"))["entries"]
    assert [entry["transfer_id"] for entry in entries] == [granted["order_id"], adjusted["order_id"]]
    assert [entry["memo"] for entry in entries] == ["welcome", "rounding"]


async def test_a_refused_order_says_why_and_ends_with_one(busy: Office) -> None:
    """An order that would leave the bounds of a balance is refused by the meter; the balance stays."""
    await busy.ask("account", "create", "maria", "--no-allowance")
    most = format_credits(MC_MAX).replace(",", "_")
    await busy.ask("grant", "maria", most)
    refused = await busy.ask("grant", "maria", "0.001", code=1)
    assert refused["outcome"] == "refused"
    assert "bounds" in refused["detail"]
    assert (await busy.ask("account", "show", "maria"))["ledger_balance"] == MC_MAX


async def test_an_order_waits_for_a_meter(idle: Office, database: Database, redis_url: str) -> None:
    """Without a meter an order is queued, shown as waiting, and posted once when a meter comes."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    queued = await idle.ask("grant", "maria", "5", "--no-wait")
    assert (queued["outcome"], queued["ledger_balance"]) == ("queued", None)
    told = (await idle.run("grant", "maria", "7", "--no-wait")).out
    assert "Queued" in told
    assert "Do not order it again" in told
    shown = await idle.ask("account", "show", "maria")
    assert [order["amount"] for order in shown["queued_orders"]] == [5_000, 7_000]
    await idle.bench.settle_orders()
    assert (await idle.ask("account", "show", "maria"))["balance"] == 12_000
    await assert_books(database.url, redis_url)


async def test_masters_reach_the_gateway(busy: Office) -> None:
    """Status, plan, floor and mode arrive in Redis, the revision rises; a personal key follows its account's plan."""
    secret = (await busy.ask("key", "create", "--personal", "maria"))["secret"]
    await busy.ask("plan", "set", "small", "--card", "tokens@1", "--allowance", "5", "--model", "gpt-4o*")
    await busy.ask("account", "plan", "maria", "small")
    await busy.ask("account", "floor", "maria", "-5")
    await busy.ask("account", "mode", "maria", "shadow")
    done = await busy.ask("account", "block", "maria")
    assert (done["status"], done["revision"]) == ("blocked", 5)
    await until_projected(busy, "maria", status="blocked", plan="small", floor="-5000", mode="shadow", revision="5")
    record = await known_key(busy, secret)
    assert record.plan == "small"
    await busy.ask("account", "unblock", "maria")
    await until_projected(busy, "maria", status="active", revision="6")


async def test_a_personal_key_opens_its_account_and_is_shown_once(busy: Office, database: Database) -> None:
    """The secret stands nowhere but in the answer; the gateway finds the key by its SHA-256 until it is revoked."""
    made = await busy.ask("key", "create", "--personal", "maria", "--name", "laptop")
    secret: str = made["secret"]
    assert secret.startswith("sk-sundial-")
    assert len(secret) == len("sk-sundial-") + 43
    assert (made["opened"]["outcome"], made["opened"]["account_id"]) == ("posted", made["account_id"])
    listed = (await busy.ask("key", "list", "--account", "maria"))["keys"]
    assert [(one["hint"], one["kind"], one["name"]) for one in listed] == [(secret[-4:], "personal", "laptop")]
    assert secret[11:] not in await everything_in(database, "api_keys", "projection_queue", "orders")

    record = await known_key(busy, secret)
    assert (record.kind, record.account_id, record.status) == ("personal", account_of("maria"), "active")
    assert (await busy.ask("key", "revoke", secret[-4:]))["changed"]
    await known_key(busy, secret, "revoked")
    assert not (await busy.ask("key", "revoke", made["key_id"]))["changed"]
    assert (await busy.ask("key", "list"))["keys"] == []
    assert len((await busy.ask("key", "list", "--revoked"))["keys"]) == 1


async def everything_in(database: Database, *tables: str) -> str:
    connection: Any = await asyncpg.connect(database.url)
    try:
        rows = [row for table in tables for row in await connection.fetch(f"SELECT t::text FROM sundial.{table} t")]
    finally:
        await connection.close()
    return " ".join(row[0] for row in rows)


async def test_a_service_key_names_its_directory_and_account(busy: Office) -> None:
    """A service key carries directory, plan and the account of calls without a user; that account must exist."""
    assert "no account" in await busy.refused("key", "create", "--service", "images", "--account", "images", code=1)
    await busy.ask("account", "create", "images", "--kind", "service", "--no-allowance")
    made = await busy.ask("key", "create", "--service", "images", "--account", "images", "--expires", "2099-12-31")
    record = await known_key(busy, made["secret"])
    assert (record.kind, record.account_id, record.directory_id) == ("service", account_of("images"), DIRECTORY)
    assert record.expires_at == 4_102_455_600  # the midnight after 2099-12-31 in São Paulo
    assert "plan" in await busy.refused("key", "create", "--service", "x", "--plan", "none", code=1)


async def test_a_plan_is_created_changed_and_published(busy: Office) -> None:
    """A new plan needs a card that exists; what is not said stays; the catalog in Redis gets it."""
    assert "--card" in await busy.refused("plan", "set", "premium", "--allowance", "5", code=2)
    assert "no rate card" in await busy.refused("plan", "set", "premium", "--card", "gold", code=1)
    said = ("--card", "cost@1", "--allowance", "5", "--model", "gpt-4o*", "--model", "o4*")
    await busy.ask("plan", "set", "premium", *said)
    changed = await busy.ask("plan", "set", "premium", "--allowance", "7.5")
    assert (changed["card"], changed["allowance"], changed["models"]) == ("cost@1", 7_500, ["gpt-4o*", "o4*"])
    assert (await busy.ask("plan", "set", "premium", "--all-models"))["models"] == []

    async def published() -> bool:
        return (await plans(busy)).get("premium") == Plan(plan="premium", card="cost@1", allowance_mc=7_500)

    await until(published)
    assert "premium" in [one["plan"] for one in (await busy.ask("plan", "list"))["plans"]]
    assert "there are: default, premium" in await busy.refused("plan", "show", "none", code=1)


async def plans(office: Office) -> dict[str, Plan]:
    """The plans of the newest catalog in Redis."""
    client = office.bench.client
    version = int(await client.get(redis_keys.CATALOG_VERSION))
    return decode_catalog(await client.get(redis_keys.catalog(version))).plans


async def test_accounts_are_found_by_what_people_know(busy: Office) -> None:
    """`account list` finds by part of a name, in any case, and filters by status."""
    await busy.ask("account", "create", "u1", "--name", "Maria Silva", "--no-allowance")
    await busy.ask("account", "create", "u2", "--email", "joao@example.org", "--no-allowance")
    await busy.ask("account", "block", "u2")

    async def listed(*arguments: str) -> list[str]:
        return [one["external_id"] for one in (await busy.ask("account", "list", *arguments))["accounts"]]

    assert await listed() == ["u2", "u1"]
    assert await listed("--search", "SILVA") == ["u1"]
    assert await listed("--search", "@example") == ["u2"]
    assert await listed("--status", "active") == ["u1"]
    assert await listed("--limit", "1", "--offset", "1") == ["u1"]


async def test_commands_act_as_the_console_and_no_more(idle: Office, database: Database) -> None:
    """The owner's login acts as sundial_console; a login that may only read is told which role it lacks, with 3."""
    for url, role in ((database.url, "sundial_console"), (database.console_url, "sundial_console")):
        async with connect(url) as db:
            assert await db.fetchval("SELECT current_user") == role
    await idle.ask("account", "create", "maria", "--no-allowance", SUNDIAL_DATABASE_URL=database.url)
    ran = await idle.run("grant", "maria", "5", SUNDIAL_DATABASE_URL=database.reader_url)
    assert ran.code == 3
    assert "sundial_console" in ran.err
    assert (await idle.ask("account", "show", "maria", SUNDIAL_DATABASE_URL=database.reader_url))["queued_orders"] == []
    console: Any = await asyncpg.connect(database.console_url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await console.execute("UPDATE sundial.balances SET balance_mc = 1")
    finally:
        await console.close()
