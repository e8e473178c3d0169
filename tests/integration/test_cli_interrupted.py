"""Commands whose wait is cut short after what they asked was queued: they say so, and nobody asks again."""

import os
import re
import signal
from asyncio.subprocess import Process
from collections.abc import Iterator
from typing import Any

import pytest

from shared import ids, redis_keys
from shared.events import encode
from tests.harness.books import assert_books, until_quiet
from tests.harness.command import Office, Ran
from tests.harness.messages import account_of, seen, used
from tests.harness.office_fixtures import idle
from tests.harness.servers import Database
from tests.harness.waiting import until

__all__ = ["idle"]

pytestmark = pytest.mark.integration


class Scissors:
    """Runs a command until what it asked is queued, then cuts its wait short."""

    def __init__(self, office: Office, owner: Any) -> None:
        self._office = office
        self._owner = owner

    async def connection_lost(self, *arguments: str) -> Ran:
        process = await self._waiting(arguments)
        await self._owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'sundial command' AND datname = current_database()"
        )
        return await self._office.ended(process)

    async def interrupted(self, *arguments: str) -> Ran:
        process = await self._waiting(arguments)
        process.send_signal(signal.SIGINT)
        return await self._office.ended(process)

    async def _waiting(self, arguments: tuple[str, ...]) -> Process:
        """The command, once it has asked for an answer: it knows that its order is queued."""

        async def asking() -> bool:
            return bool(
                await self._owner.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sundial command'"
                    " AND datname = current_database() AND query LIKE '%outcomes%WHERE%order_id = $1%'"
                )
            )

        async def nobody() -> bool:
            return not await asking()

        await until(nobody)  # the connection of the one before is gone
        process = await self._office.start(*arguments)
        await until(asking)
        return process


@pytest.fixture
def cut(idle: Office, owner: Any) -> Iterator[Scissors]:
    """Ctrl-C reaches the commands also where the tests run in the background of a shell, which ignores it for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Scissors(idle, owner)
    signal.signal(signal.SIGINT, before)


async def queued_order(office: Office, account: str) -> str:
    [order] = (await office.ask("account", "show", account))["queued_orders"]
    return str(order["order_id"])


async def test_a_grant_whose_connection_is_lost_is_queued(
    idle: Office, cut: Scissors, database: Database, redis_url: str
) -> None:
    """It names the order, forbids another one, never says to try again, and is posted once."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    ran = await cut.connection_lost("grant", "maria", "17")
    order = await queued_order(idle, "maria")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(rf"Queued: .*order {order}: .*`sundial account show`\. Do not order it again", ran.out)
    assert "Try again" not in ran.out
    await idle.bench.settle_orders()
    assert (await idle.ask("account", "show", "maria"))["ledger_balance"] == 17_000
    await assert_books(database.url, redis_url)


async def test_a_lost_connection_is_json_too(idle: Office, cut: Scissors) -> None:
    """One object, with the outcome `queued`."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    ran = await cut.connection_lost("adjust", "maria", "-3", "--memo", "x", "--json")
    assert (ran.code, ran.json["outcome"]) == (0, "queued")
    assert ran.json["order_id"] == await queued_order(idle, "maria")


async def test_ctrl_c_says_that_the_order_stands(idle: Office, cut: Scissors) -> None:
    """With the order's id, and exit code 130."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    ran = await cut.interrupted("grant", "maria", "17")
    assert (ran.code, ran.out) == (130, "")
    assert f"Interrupted: order {await queued_order(idle, 'maria')} is queued, do not order it again" in ran.err


async def test_an_account_whose_allowance_is_not_seen_is_created(idle: Office, cut: Scissors) -> None:
    """The order of its allowance is named in both cases."""
    ran = await cut.connection_lost("account", "create", "maria")
    assert ran.code == 0
    assert "Created account" in ran.out
    assert f"order {await queued_order(idle, 'maria')}" in ran.out
    ran = await cut.interrupted("account", "create", "joao")
    assert ran.code == 130
    assert await queued_order(idle, "joao") in ran.err


@pytest.mark.parametrize("action", [("requeue",), ("discard", "--memo", "a test")], ids=["requeue", "discard"])
async def test_orders_about_letters_are_queued_too(idle: Office, cut: Scissors, action: tuple[str, ...]) -> None:
    """A lost connection and Ctrl-C name the order; the letter is shown as queued."""
    await idle.bench.say(seen("maria", 100_000))
    stream = redis_keys.usage_stream(ids.shard_of(account_of("maria")))
    for number in (5, 6):
        payload = encode(used("maria", number)).replace(b'"kind":"usage"', b'"kind":"usage","v":99')
        await idle.bench.client.xadd(stream, {"d": payload})
    async with idle.bench.reading():
        await until_quiet(idle.redis_url)
    lost, stopped = [one["letter_id"] for one in (await idle.ask("dead-letter", "list"))["dead_letters"]]
    ran = await cut.connection_lost("dead-letter", action[0], lost, *action[1:])
    assert (ran.code, ran.out.startswith(f"queued: {lost}, order ")) == (0, True)
    assert "`sundial dead-letter show`" in ran.out
    ran = await cut.interrupted("dead-letter", action[0], stopped, *action[1:])
    assert ran.code == 130
    assert "is queued, do not order it again; see `sundial dead-letter show`" in ran.err
    assert {one["state"] for one in (await idle.ask("dead-letter", "list"))["dead_letters"]} == {"queued"}


async def test_a_secret_is_shown_before_the_wait(idle: Office, cut: Scissors) -> None:
    """Whatever ends the wait for the allowance; as JSON in one object, also after Ctrl-C."""
    for user, cutting, code in (("a", cut.connection_lost, 0), ("b", cut.interrupted, 130)):
        ran = await cutting("key", "create", "--personal", user)
        assert ran.code == code
        assert re.search(r"shown only now:\n\nsk-sundial-[\w-]{43}\n", ran.out)
    for user, cutting, code in (("c", cut.connection_lost, 0), ("d", cut.interrupted, 130)):
        ran = await cutting("key", "create", "--personal", user, "--json")
        assert (ran.code, ran.json["opened"]["outcome"]) == (code, "queued")
        assert len(ran.json["secret"]) == 54
        assert await queued_order(idle, user) == ran.json["opened"]["order_id"]


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
async def test_a_secret_that_cannot_be_shown_is_to_be_revoked(idle: Office, form: tuple[str, ...]) -> None:
    """A full disk behind the output: the key is named by its hint, with the command that revokes it."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ran = await idle.ended(await idle.start("key", "create", "--service", "images", *form, stdout=full))
    finally:
        os.close(full)
    assert ran.code == 1
    [key] = (await idle.ask("key", "list"))["keys"]
    assert f"sundial key revoke {key['hint']}" in ran.err
    assert (await idle.ask("key", "revoke", key["hint"]))["changed"]


async def test_a_commit_that_is_not_confirmed_is_told(idle: Office, owner: Any) -> None:
    """Nobody knows whether it was done: the command says where to look, and ends with 3."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    await owner.execute(
        """
        CREATE FUNCTION sundial.die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER die AFTER INSERT ON sundial.order_queue
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sundial.die();
        CREATE CONSTRAINT TRIGGER die AFTER INSERT ON sundial.accounts
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sundial.die();
        CREATE CONSTRAINT TRIGGER die AFTER INSERT ON sundial.api_keys
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sundial.die();
        """
    )
    ran = await idle.run("grant", "maria", "17")
    assert (ran.code, ran.out) == (3, "")
    assert re.search(r"whether order [0-9a-f-]{36} is queued is not known; see `sundial account show`", ran.err)
    ran = await idle.run("account", "create", "joao")
    assert (ran.code, ran.out) == (3, "")
    assert "whether the account 'joao' was created is not known; see `sundial account show`" in ran.err
    ran = await idle.run("key", "create", "--service", "images")
    assert (ran.code, ran.out) == (3, "")
    assert re.search(r"whether the key …[\w-]{4} exists is not known.*: sundial key revoke [\w-]{4}", ran.err)
