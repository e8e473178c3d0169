"""P8: the books cannot be changed by those who use them; and whoever has all rights changes them visibly."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meter.audit import audit
from meter.audit_prices import audit_prices
from shared import ids, redis_keys
from shared.events import StreamMessage
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database
from tests.harness.tampering import tamper, write_anew

pytestmark = pytest.mark.integration

BOOKS = (
    "SELECT format('sundial.%I', c.relname) FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid"
    " WHERE t.tgname IN ('keep', 'keep_all') AND c.relnamespace = 'sundial'::regnamespace GROUP BY c.oid"
)

GPT_4O = "WHERE model = 'gpt-4o'"


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        batches: list[list[StreamMessage]] = [
            [seen("ana", 10_000), used("ana", 2), used("ana", 0)],
            [used("ana", 3), seen("bob", 9_000)],
        ]
        for batch in batches:
            await made.ledger.post(0, entries(batch))
        await made.projection.apply_by_id([account_of("ana"), account_of("bob")])
        yield made


async def test_p8_no_role_changes_a_book_or_a_partition(meter: Bench, database: Database) -> None:
    """Every book and every partition refuses UPDATE, DELETE and TRUNCATE: the roles have no right, the owner meets a
    trigger."""
    owner: Any = await asyncpg.connect(database.url)
    tables = [row[0] for row in await owner.fetch(BOOKS)]
    assert len(tables) > 20  # the months and default partitions of three books, and the others
    refused = {
        database.meter_url: asyncpg.InsufficientPrivilegeError,
        database.console_url: asyncpg.InsufficientPrivilegeError,
        database.reader_url: asyncpg.InsufficientPrivilegeError,
        database.url: asyncpg.IntegrityConstraintViolationError,
    }
    for url, error in refused.items():
        connection: Any = await asyncpg.connect(url)
        for table in tables:
            column = await owner.fetchval(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 1", table
            )
            filled = await owner.fetchval(f"SELECT EXISTS (SELECT FROM {table})")
            changes = [f"TRUNCATE {table} CASCADE"]
            if filled or url != database.url:  # the owner is stopped row by row
                changes += [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"]
            for change in changes:
                with pytest.raises(error):
                    await connection.execute(change)
        await connection.close()
    await owner.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE sundial.transfers SET memo = 'x' WHERE seq = 2", "seq 2 "),
        ("UPDATE sundial.transfers SET occurred_at = now() WHERE seq = 3", "seq 3 "),
        ("UPDATE sundial.usage_events SET model_answered = 'another' WHERE charge_mc = 4000", "seq 2 "),
        ("UPDATE sundial.usage_events SET usage = '{\"input\": 1}' WHERE charge_mc = 0", "seq 3 "),
        ("UPDATE sundial.grants SET kind = 'purchase' WHERE amount_mc = 10000", "seq 1 "),
        ("UPDATE sundial.draws SET amount_mc = amount_mc - 1 WHERE amount_mc = 6000", "seq 4 "),
        ("DELETE FROM sundial.transfers WHERE seq = 3", "seq 4 follows seq 2"),
        ("UPDATE sundial.transfers SET digest = NULL WHERE seq = 2", "seq 2 has no digest"),
        ("UPDATE sundial.balances SET digest = sha256('x') WHERE seq = 4", "another digest"),
    ],
)
async def test_p8_the_chain_tells_what_was_altered(
    meter: Bench, database: Database, redis_url: str, damage: str, told: str
) -> None:
    """A row that is altered or removed by somebody with all rights breaks its account's chain, at its seq."""
    assert await audit(database.url, redis_url) == []
    await tamper(database, damage)
    [broken] = [one for one in await audit(database.url, redis_url) if one.rule == "digest"]
    assert told in broken.detail
    assert str(account_of("ana")) in broken.subject


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            f"UPDATE sundial.prices SET definition = jsonb_set(definition, '{{rates,input}}', '0') {GPT_4O}",
            "its digest",
        ),
        (f"UPDATE sundial.prices SET model = 'x' {GPT_4O}", "x says that it is that of gpt-4o"),
        (
            f"INSERT INTO sundial.prices SELECT 1, 'x', definition FROM sundial.prices {GPT_4O}",
            "x says that it is that of gpt-4o",
        ),
        (f"DELETE FROM sundial.prices {GPT_4O}", "its digest"),
        ("DELETE FROM sundial.prices", "its digest"),
        ("DELETE FROM sundial.price_versions", "is gone, and its prices are not"),
        ("UPDATE sundial.price_versions SET digest = sha256('x')", "its digest"),
    ],
)
async def test_p8_a_price_that_was_altered_is_told(
    meter: Bench, database: Database, redis_url: str, damage: str, told: str
) -> None:
    """A price that is changed, renamed, added or removed by somebody with all rights, before any call is booked at it:
    the version is no more what its digest was made of."""
    await tamper(database, damage)
    [broken] = [one for one in await audit(database.url, redis_url) if one.rule == "prices"]
    assert told in broken.detail
    assert broken.subject == "price version 1"


async def test_p8_a_price_that_cannot_be_read_is_told(database: Database) -> None:
    """What was written over a price is named, not met as a fault of the program."""
    await tamper(database, f"UPDATE sundial.prices SET definition = '{{}}' {GPT_4O}")
    owner = await asyncpg.connect(database.url)
    [broken] = await audit_prices(owner, found_max=10)
    await owner.close()
    assert "the price of gpt-4o cannot be read" in broken.detail


OF_ANA = f"account_id = '{account_of('ana')}'"
AGAIN = "DROP TRIGGER keep ON sundial.transfers; CREATE TRIGGER keep"
FORGED_ID = fresh_event_id()
ORDER_ID = fresh_event_id()
"""Of what eva was granted."""


def forged(kind: str, grant_kind: str, *, contra: str = "", grant_id: object = FORGED_ID, memo: str = "") -> str:
    """A credit of 10^15 mc at the end of ana's history, with all that belongs to it."""
    return f"""
        INSERT INTO sundial.transfers (account_id, transfer_id, seq, kind, contra, amount_mc, balance_after_mc, memo,
                                       link_id, occurred_at, recorded_at)
        SELECT account_id, '{FORGED_ID}', seq + 1, '{kind}', '{contra or kind}', 10^15::bigint,
               balance_mc + 10^15::bigint, '{memo}', nullif('{grant_id}', '{FORGED_ID}')::uuid, now(), now()
          FROM sundial.balances WHERE {OF_ANA};
        INSERT INTO sundial.grants (account_id, grant_id, transfer_id, kind, amount_mc, seq, recorded_at)
        SELECT account_id, '{grant_id}', '{FORGED_ID}', '{grant_kind}', 10^15::bigint, seq + 1, now()
          FROM sundial.balances WHERE {OF_ANA};
        INSERT INTO sundial.grant_balances (account_id, grant_id, remaining_mc, priority, seq)
        SELECT account_id, '{grant_id}', 10^15::bigint, 100, seq + 1 FROM sundial.balances WHERE {OF_ANA};
        UPDATE sundial.balances SET seq = seq + 1, balance_mc = balance_mc + 10^15::bigint,
               recorded_at = (SELECT recorded_at FROM sundial.transfers WHERE transfer_id = '{FORGED_ID}')
         WHERE {OF_ANA}"""


@pytest.fixture
async def ordered(meter: Bench, database: Database) -> Bench:
    """Eva was granted 5000 mc, and 10 mc were taken from her."""
    await meter.ledger.post(1, entries([seen("eva", 1_000)]))
    owner: Any = await asyncpg.connect(database.url)
    eva = account_of("eva")
    for order_id, kind, amount_mc in ((ORDER_ID, "grant", 5_000), (fresh_event_id(), "adjustment", -10)):
        await owner.execute(
            "INSERT INTO sundial.orders (order_id, account_id, kind, amount_mc, memo, created_by, expires_at)"
            " VALUES ($1, $2, $3, $4, 'welcome', 'cli:root', now() + interval '1 hour')",
            *(order_id, eva, kind, amount_mc),
        )
        await owner.execute("INSERT INTO sundial.order_queue VALUES ($1, $2, $3)", order_id, eva, ids.shard_of(eva))
    await owner.close()
    await meter.settle_orders()
    return meter


async def found_after(meter: Bench, database: Database, redis_url: str, *damage: str) -> dict[str, str]:
    """What the audit finds, rule and details, after so careful a forger: chains hold, Redis was told."""
    assert await audit(database.url, redis_url) == []
    await tamper(database, *damage)
    await write_anew(database, "ana")
    await write_anew(database, "eva")
    await meter.projection.apply_by_id([account_of("ana"), account_of("eva")])
    found: dict[str, str] = {}
    for one in await audit(database.url, redis_url):
        found[one.rule] = f"{found.get(one.rule, '')}{one.detail}; "
    return found


@pytest.mark.parametrize(
    ("damage", "rule", "told"),
    [
        (forged("purchase", "purchase"), "transfer_causes", "nobody ordered it"),
        (forged("grant", "grant"), "transfer_causes", "nobody ordered it"),
        (forged("adjustment", "adjustment"), "transfer_causes", "nobody ordered it"),
        (forged("refund", "refund", contra="lost"), "transfer_causes", "nobody ordered it"),
        (forged("expiry", "grant"), "transfer_causes", "of a grant that expires at"),
        (forged("grant", "allowance"), "allowances", "is no plan's allowance"),
        (
            forged(
                "grant",
                "allowance",
                grant_id=ids.allowance_id(account_of("ana"), "gold", "first"),
                memo="allowance of plan gold",
            ),
            "allowances",
            "is one of 2 allowances",
        ),
        (
            (
                f"DELETE FROM sundial.order_outcomes WHERE order_id = '{ORDER_ID}';"
                f" DELETE FROM sundial.orders WHERE order_id = '{ORDER_ID}'"
            ),
            "transfer_causes",
            "nobody ordered it",
        ),
        ("UPDATE sundial.orders SET memo = 'x'", "transfer_causes", "not what was ordered"),
        ("UPDATE sundial.orders SET expires_at = NULL", "transfer_causes", "not what was ordered"),
        ("UPDATE sundial.orders SET priority = 1", "transfer_causes", "not what was ordered"),
        ("UPDATE sundial.orders SET created_at = now()", "transfer_causes", "not what was ordered"),
        ("UPDATE sundial.balances SET recorded_at = recorded_at + interval '1 second'", "balance_cache", "of 20"),
        (
            (
                f"UPDATE sundial.transfers SET recorded_at = '2090-01-01' WHERE {OF_ANA} AND seq = 4;"
                f" UPDATE sundial.balances SET recorded_at = '2090-01-01' WHERE {OF_ANA}"
            ),
            "balance_cache",
            "recorded in the future",
        ),
        (
            (
                "UPDATE sundial.accounts SET external_id = CASE external_id WHEN 'ana' THEN 'eva' ELSE 'ana' END"
                " WHERE external_id IN ('ana', 'eva')"
            ),
            "account_ids",
            "its id is not that of",
        ),
        ("UPDATE sundial.accounts SET shard = (shard + 1) % 16", "account_ids", "its shard is not"),
        ("UPDATE sundial.directories SET name = 'another'", "account_ids", "its id is not that of 'another'"),
    ],
)
async def test_p8_what_a_chain_that_holds_cannot_hide(
    ordered: Bench, database: Database, redis_url: str, damage: str, rule: str, told: str
) -> None:
    """A credit that nobody ordered, an order that says otherwise, a time that was moved, names that were exchanged:
    with every chain written anew each is found by the books alone."""
    found = await found_after(ordered, database, redis_url, damage)
    assert told in found[rule], found


@pytest.mark.parametrize("later", [False, True], ids=["at rest", "booked on"])
async def test_p8_digests_that_were_taken_away(ordered: Bench, database: Database, redis_url: str, later: bool) -> None:
    """An account without any digest, whose rows may then say anything, is told, also where the chain goes on; and so is
    who moves the time since when there are digests."""
    await tamper(
        database,
        f"UPDATE sundial.transfers SET digest = NULL, memo = 'x' WHERE {OF_ANA}",
        f"UPDATE sundial.balances SET digest = NULL WHERE {OF_ANA}",
    )
    if later:
        await ordered.ledger.post(0, entries([used("ana", 1)]))
        await ordered.projection.apply_by_id([account_of("ana")])
    [told] = [one for one in await audit(database.url, redis_url) if one.rule == "digest_gaps"]
    assert (told.subject, "4 transfers have no digest" in told.detail) == (f"account {account_of('ana')}", True)
    await tamper(database, "UPDATE sundial.schema_migrations SET applied_at = now() + interval '2 hours'")
    [told] = [one for one in await audit(database.url, redis_url) if one.rule == "digest_gaps"]
    assert told.subject == "migration 0004_digest_chain.sql"


@pytest.mark.parametrize(
    ("damage", "subject"),
    [
        (
            (
                "CREATE OR REPLACE FUNCTION sundial.refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RETURN NEW; END$$"
            ),
            "sundial.refuse_change()",
        ),
        ("ALTER FUNCTION sundial.refuse_change() SET search_path = x", "sundial.refuse_change()"),
        *(
            (
                f"{AGAIN} {when} EXECUTE FUNCTION sundial.refuse_change()",
                "transfers",
            )
            for when in (
                "BEFORE UPDATE OR DELETE ON sundial.transfers FOR EACH ROW WHEN (false)",
                "BEFORE UPDATE OF memo OR DELETE ON sundial.transfers FOR EACH ROW",
                "BEFORE DELETE ON sundial.transfers FOR EACH ROW",
                "BEFORE UPDATE OR DELETE ON sundial.transfers FOR EACH STATEMENT",
            )
        ),
    ],
)
async def test_p8_triggers_that_refuse_nothing(
    meter: Bench, database: Database, redis_url: str, damage: str, subject: str
) -> None:
    """A function that lets changes pass, and a trigger that does not always fire, are told apart from those that the
    migrations make; the partitions' are clones of their table's."""
    assert await audit(database.url, redis_url) == []
    await tamper(database, damage)
    assert subject in {
        one.subject for one in await audit(database.url, redis_url) if one.rule == "append_only_triggers"
    }


async def test_p8_an_account_that_only_redis_remembers(meter: Bench, database: Database, redis_url: str) -> None:
    """Who is taken out of every table is told also while calls are under way; a user who was just announced is not."""
    fresh = account_of("fresh")
    await meter.client.hset(redis_keys.account(ids.shard_of(fresh), fresh), "announced", "1")
    assert await audit(database.url, redis_url) == []
    tables = ("transfers", "usage_events", "draws", "grants", "grant_balances", "balances", "accounts")
    await tamper(database, *(f"DELETE FROM sundial.{table} WHERE {OF_ANA}" for table in tables))
    told = [(one.subject, one.detail) for one in await audit(database.url, redis_url)]
    assert told == [(f"account {account_of('ana')}", "is in Redis and not in Postgres")]
