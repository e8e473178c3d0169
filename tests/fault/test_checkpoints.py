"""P8: a signed checkpoint shows what the chain alone cannot: tails cut off, chains written anew, other databases.

Each case tampers as the owner, with all triggers off, so well that the books hold by themselves.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from meter import checkpoints
from meter.audit import audit
from meter.prices import PriceBook, digest_of
from shared.events import StreamMessage
from tests.harness.command import Office, office
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import entries
from tests.harness.servers import Database, Servers
from tests.harness.tampering import KEY, PUBLIC_KEY, tamper, write_anew

pytestmark = pytest.mark.integration

OTHER_KEY = checkpoints.key_text(bytes(32))
"""Of nobody whom the verifier trusts."""


@pytest.fixture
async def busy(database: Database, redis_url: str) -> AsyncIterator[Office]:
    """Ana has seqs 1 to 4, Bob 1; nobody else writes."""
    async with office(database, redis_url) as made:
        batches: list[list[StreamMessage]] = [
            [seen("ana", 10_000), used("ana", 2), used("ana", 0)],
            [used("ana", 3), seen("bob", 9_000)],
        ]
        for batch in batches:
            await made.bench.ledger.post(0, entries(batch))
        await made.bench.projection.apply_by_id([account_of("ana"), account_of("bob")])
        yield made


async def of_rules(database: Database, redis_url: str, file: Path, *rules: str) -> list[str]:
    """What the audit with a checkpoint finds by these rules."""
    said = checkpoints.verify(checkpoints.load(file), checkpoints.public_key(PUBLIC_KEY))
    return [str(one) for one in await audit(database.url, redis_url, checkpoint=said) if one.rule in rules]


async def test_p8_a_checkpoint_stands_while_the_books_grow(busy: Office, tmp_path: Path) -> None:
    """What was signed stays true under later transfers: exit 0. Private key or public key may be given; neither: 2."""
    made = await busy.ask("checkpoint", "create", str(tmp_path), SUNDIAL_CHECKPOINT_KEY=KEY)
    assert (made["accounts"], made["transfers"], made["sum"], made["public_key"]) == (2, 5, 9_000, PUBLIC_KEY)
    file = Path(made["file"])
    assert file.parent == tmp_path
    [kept] = await busy.ask("checkpoint", "list")
    assert (kept["checkpoint_id"], kept["public_key"]) == (made["checkpoint_id"], PUBLIC_KEY)

    await busy.bench.ledger.post(0, entries([used("ana", 4), seen("eva", 1_000)]))
    await busy.bench.projection.apply_by_id([account_of("ana"), account_of("eva")])
    proved = await busy.ask("audit", "--checkpoint", str(file), SUNDIAL_CHECKPOINT_PUBLIC_KEY=PUBLIC_KEY)
    assert proved["ok"]
    assert proved["rules"]["checkpoint"] == 0
    assert "SUNDIAL_CHECKPOINT_PUBLIC_KEY" in await busy.refused("audit", "--checkpoint", str(file), code=2)
    again = await busy.run("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    assert again.code == 2
    assert "written over" in again.err


async def test_p8_an_altered_row_and_a_chain_written_anew(busy: Office, tmp_path: Path, redis_url: str) -> None:
    """An altered row breaks the chain; with the chain written anew the books hold, and the checkpoint tells."""
    file = tmp_path / "books.json"
    await busy.ask("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    await tamper(busy.database, "UPDATE sundial.transfers SET memo = 'x' WHERE seq = 2")
    [told] = await of_rules(busy.database, redis_url, file, "digest", "checkpoint")
    assert told.startswith(f"digest: account {account_of('ana')}: seq 2 ")

    await write_anew(busy.database, "ana")
    assert await audit(busy.database.url, redis_url) == []
    [told] = await of_rules(busy.database, redis_url, file, "digest", "checkpoint")
    assert told.startswith(f"checkpoint: account {account_of('ana')}: seq 4 is not what the checkpoint says")
    ran = await busy.run("audit", "--checkpoint", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    assert ran.code == 1
    assert str(account_of("ana")) in ran.out
    assert "seq 4" in ran.out


async def test_p8_a_tail_that_was_cut_off(busy: Office, tmp_path: Path, redis_url: str) -> None:
    """The last call of an account is removed with all that belongs to it: the books hold, and the checkpoint tells;
    also where another call has taken its seq, and where the whole account is gone."""
    file = tmp_path / "books.json"
    await busy.ask("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    of_tail = f"account_id = '{account_of('ana')}' AND"
    tail = f"(SELECT transfer_id FROM sundial.transfers WHERE {of_tail} seq = 4)"
    await tamper(
        busy.database,
        f"DELETE FROM sundial.usage_events WHERE event_id = {tail}",
        f"DELETE FROM sundial.draws WHERE transfer_id = {tail}",
        f"DELETE FROM sundial.transfers WHERE {of_tail} seq = 4",
        f"UPDATE sundial.grant_balances SET remaining_mc = 6000 WHERE {of_tail} true",
        "UPDATE sundial.balances b SET seq = t.seq, balance_mc = t.balance_after_mc, digest = t.digest,"
        " recorded_at = t.recorded_at"
        f" FROM sundial.transfers t WHERE t.account_id = b.account_id AND t.{of_tail} t.seq = 3",
    )
    await busy.bench.client.flushdb()
    await busy.bench.watch.look()
    assert await audit(busy.database.url, redis_url) == []
    [told] = await of_rules(busy.database, redis_url, file, "checkpoint")
    assert told.startswith(f"checkpoint: account {account_of('ana')}: seq 4 of the checkpoint is gone")

    await busy.bench.ledger.post(0, entries([used("ana", 1)]))
    [told] = await of_rules(busy.database, redis_url, file, "digest", "checkpoint")
    assert told.startswith(f"checkpoint: account {account_of('ana')}: seq 4 is not what the checkpoint says")

    await tamper(busy.database, f"DELETE FROM sundial.transfers WHERE account_id = '{account_of('bob')}'")
    told = " ".join(await of_rules(busy.database, redis_url, file, "checkpoint"))
    assert f"account {account_of('bob')}: seq 1 of the checkpoint is gone" in told


async def test_p8_a_database_that_was_replaced(busy: Office, servers: Servers, tmp_path: Path, redis_url: str) -> None:
    """Another database, whose books hold, has not what the checkpoint says of any account, nor its prices."""
    file = tmp_path / "books.json"
    await busy.ask("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    other = servers.create_database()
    try:
        await tamper(other, "UPDATE sundial.price_versions SET digest = sha256('x')")
        async with office(other, redis_url) as replaced:
            await replaced.bench.ledger.post(0, entries([seen("ana", 10_000), used("ana", 5)]))
        told = await of_rules(other, redis_url, file, "checkpoint")
    finally:
        servers.drop_database(other)
    assert len(told) == 3
    assert "price version" in told[0]
    assert f"account {account_of('ana')}: seq 4 of the checkpoint is gone" in " ".join(told)
    assert f"account {account_of('bob')}: seq 1 of the checkpoint is gone" in " ".join(told)


async def test_p8_prices_and_cards_that_were_written_anew(busy: Office, tmp_path: Path, redis_url: str) -> None:
    """A price that is altered with its version's digest, so that the books hold, and a rate card: the checkpoint tells.
    What came after it is not its matter."""
    file = tmp_path / "books.json"
    await busy.ask("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    await busy.ask("price", "set", "gpt-4o", "--input", "1", "--output", "1")
    await tamper(busy.database, "INSERT INTO sundial.rate_cards SELECT 'x', definition FROM sundial.rate_cards LIMIT 1")
    assert await of_rules(busy.database, redis_url, file, "checkpoint", "prices") == []

    owner = await asyncpg.connect(busy.database.url)
    models = await PriceBook().load(owner, 1)
    await owner.close()
    free = msgspec.structs.replace(models["gpt-4o"], rates={"input": 0, "output": 0}, tiers=(), service={})
    await tamper(
        busy.database,
        f"UPDATE sundial.prices SET definition = '{msgspec.json.encode(free).decode()}'"
        " WHERE price_version = 1 AND model = 'gpt-4o'",
        "UPDATE sundial.price_versions SET digest = decode("
        f"'{digest_of(models | {'gpt-4o': free}).hex()}', 'hex') WHERE price_version = 1",
        "UPDATE sundial.rate_cards SET definition = jsonb_set(definition, '{markup_ppm}', '0') WHERE card = 'cost@1'",
    )
    assert await of_rules(busy.database, redis_url, file, "prices") == []
    await tamper(busy.database, "DELETE FROM sundial.rate_cards WHERE card = 'tokens@1'")
    assert [told.split(": ")[1] for told in await of_rules(busy.database, redis_url, file, "checkpoint")] == [
        "price version 1",
        "rate card cost@1",
        "rate card tokens@1",
    ]


async def test_p8_a_checkpoint_without_cards_still_proves_the_rest(
    busy: Office, tmp_path: Path, redis_url: str
) -> None:
    """Files that were signed before rate cards were in them: their signature holds, and what they say is compared."""
    file = tmp_path / "books.json"
    await busy.ask("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    said = msgspec.json.decode(checkpoints.load(file).statement)
    assert sorted(said.pop("cards")) == ["cost@1", "tokens@1"]
    statement = msgspec.json.encode(said)
    signed = checkpoints.private_key(KEY).sign(statement)
    old = checkpoints.Checkpoint(statement, signed, checkpoints.public_key(PUBLIC_KEY))
    file.write_bytes(msgspec.json.encode(old))
    assert await of_rules(busy.database, redis_url, file, "checkpoint") == []
    await tamper(
        busy.database,
        "UPDATE sundial.rate_cards SET definition = jsonb_set(definition, '{markup_ppm}', '0') WHERE card = 'cost@1'",
        "UPDATE sundial.price_versions SET digest = sha256('x')",
    )
    [told] = await of_rules(busy.database, redis_url, file, "checkpoint")
    assert told.startswith("checkpoint: price version 1: ")


async def test_p8_a_checkpoint_that_was_forged(busy: Office, tmp_path: Path) -> None:
    """An altered statement, another signer, and a file that is none are told apart, and prove nothing: exit 1."""
    file = tmp_path / "books.json"
    await busy.ask("checkpoint", "create", str(file), SUNDIAL_CHECKPOINT_KEY=KEY)
    made = checkpoints.load(file)
    altered = msgspec.structs.replace(made, statement=made.statement.replace(b'"transfers":5', b'"transfers":4'))
    assert altered != made
    broken = bytes(file.read_bytes()[:-10])
    for content, words in (
        (msgspec.json.encode(altered), "altered after it was signed"),
        (broken, "cannot be read as a checkpoint"),
    ):
        forged = tmp_path / "forged.json"
        forged.write_bytes(content)
        ran = await busy.run("audit", "--checkpoint", str(forged), SUNDIAL_CHECKPOINT_PUBLIC_KEY=PUBLIC_KEY)
        assert (ran.code, ran.out) == (1, "")
        assert words in ran.err
    ran = await busy.run("audit", "--checkpoint", str(file), SUNDIAL_CHECKPOINT_KEY=OTHER_KEY)
    assert (ran.code, ran.out) == (1, "")
    assert "another key" in ran.err


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM sundial.checkpoints WHERE checkpoint_id = '{0}'", "the one before it is gone"),
        ("DELETE FROM sundial.checkpoints WHERE checkpoint_id = '{1}'", "the one before it is gone"),
        ("UPDATE sundial.checkpoints SET statement = '{{}}' WHERE checkpoint_id = '{1}'", "cannot be read"),
        (
            "UPDATE sundial.checkpoints SET statement = statement || ' ' WHERE checkpoint_id = '{1}'",
            "the one before it is gone, or not what it was",
        ),
        ("UPDATE sundial.stream_positions SET entry_id = '0-0'", "is booked to entry 0-0; the newest checkpoint says"),
        ("UPDATE sundial.stream_positions SET entry_id = '0'", "is booked to entry 0; the newest checkpoint says"),
        ("DELETE FROM sundial.stream_positions", "is booked to entry 0-0; the newest checkpoint says"),
    ],
)
async def test_p8_checkpoints_that_were_removed(busy: Office, redis_url: str, damage: str, told: str) -> None:
    """Each checkpoint in the database names the one before it, whoever made them at the same moment: one that is
    missing, or another than it was, is told by its successor, and a stream that was set back by the newest."""
    key = checkpoints.private_key(KEY)
    async with busy.bench.pool.acquire() as connection:
        made = [checkpoints.read(await checkpoints.create(connection, key)) for _ in range(3)]
    assert made[1].before
    assert await audit(busy.database.url, redis_url) == []
    await tamper(busy.database, damage.format(*(one.checkpoint_id for one in made)))
    found = [one for one in await audit(busy.database.url, redis_url) if one.rule == "checkpoint_chain"]
    assert told in " ".join(one.detail for one in found), found
