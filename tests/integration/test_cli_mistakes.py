"""What people mistype, and what a command says of it: nothing is made, granted or shown that was not meant."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import Office
from tests.harness.office_fixtures import idle

__all__ = ["idle"]

pytestmark = pytest.mark.integration

SIGNING_KEY = "A" * 43 + "="


async def test_a_directory_is_not_made_by_a_slip(idle: Office, owner: Any) -> None:
    """One that is not there is refused with those that are, unless it is to be made; nothing stays behind."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    slip = ("--directory", "librechatt")
    for command in (
        ("account", "create", "maria"),
        ("key", "create", "--personal", "maria"),
        ("key", "create", "--service", "librechat"),
    ):
        said = await idle.refused(*command, *slip, code=1)
        assert "no directory 'librechatt'; there are: librechat." in said
        assert "--new-directory" in said
    assert await owner.fetchval("SELECT array_agg(name) FROM sundial.directories") == ["librechat"]
    assert await owner.fetchval("SELECT count(*) FROM sundial.orders") == 0

    await idle.ask("key", "create", "--service", "wiki", "--directory", "wiki", "--new-directory")
    await idle.ask("account", "create", "maria", "--directory", "wiki", "--no-allowance")
    wrong = ("--directory", "The Wiki", "--new-directory")
    assert "no name of a directory" in await idle.refused("account", "create", "maria", *wrong, code=2)


async def test_blanks_are_no_names(idle: Office) -> None:
    """Neither an account's nor a service's."""
    assert "blanks" in await idle.refused("account", "create", "   ", code=2)
    assert "blanks" in await idle.refused("key", "create", "--personal", " ", code=2)
    for name in ("", " "):
        assert "has a name" in await idle.refused("key", "create", "--service", name, code=2)
    assert (await idle.ask("account", "list"))["accounts"] == (await idle.ask("key", "list"))["keys"] == []


async def test_a_pattern_that_is_said_twice_stands_once(idle: Office) -> None:
    """In the order in which they were said."""
    said = ("--model", "o4*", "--model", "gpt-4o*", "--model", " o4* ")
    assert (await idle.ask("plan", "set", "small", "--card", "tokens@1", *said))["models"] == ["o4*", "gpt-4o*"]


async def test_amounts_are_shown_in_the_language_of_the_setting(idle: Office) -> None:
    """In every table and sentence, as the statement has them."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    await idle.ask("plan", "set", "small", "--card", "tokens@1", "--allowance", "50000.5")
    for language, amount in (("pt-BR", "50.000,5"), ("en", "50,000.5")):
        for command in (
            ("grant", "maria", "50000.5", "--no-wait"),
            ("account", "floor", "maria", "-50000.5"),
            ("account", "create", f"of-{language}", "--plan", "small", "--no-wait"),
            ("plan", "list"),
            ("plan", "show", "small"),
        ):
            assert amount in (await idle.run(*command, SUNDIAL_LANGUAGE=language)).out, command
    await idle.bench.settle_orders()
    for language, amount in (("pt-BR", "100.001"), ("en", "100,001")):
        assert amount in (await idle.run("account", "list", SUNDIAL_LANGUAGE=language)).out


async def test_a_checkpoint_tells_its_sum_in_credits(idle: Office, tmp_path: Path) -> None:
    """People read credits; programs read millicredits."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    await idle.ask("grant", "maria", "1234.5", "--no-wait")
    await idle.bench.settle_orders()
    create = ("checkpoint", "create")
    page = await idle.run(*create, str(tmp_path / "a"), SUNDIAL_LANGUAGE="en", SUNDIAL_CHECKPOINT_KEY=SIGNING_KEY)
    assert "sum 1,234.5 credits" in " ".join(page.out.split())
    made = await idle.ask(*create, str(tmp_path / "b"), SUNDIAL_CHECKPOINT_KEY=SIGNING_KEY)
    assert made["sum"] == 1_234_500


async def test_a_key_that_is_over_is_listed_as_such(idle: Office, owner: Any) -> None:
    """As expired, with the last day that was said, not the day on which it ended at midnight."""
    await idle.ask("key", "create", "--service", "images", "--expires", "2098-12-31")
    assert "2098-12-31" in (await idle.run("key", "list")).out
    assert [one["status"] for one in (await idle.ask("key", "list"))["keys"]] == ["active"]
    await owner.execute("UPDATE sundial.api_keys SET expires_at = $1", datetime(2020, 1, 2, 3, tzinfo=UTC))
    assert [one["status"] for one in (await idle.ask("key", "list"))["keys"]] == ["expired"]
    page = (await idle.run("key", "list")).out
    assert "2020-01-01" in page
    assert "expired" in page


async def test_a_key_is_revoked_by_its_secret_which_nothing_repeats(idle: Office) -> None:
    """Whoever found it has nothing else of it; a secret that is not known is not shown either."""
    made = await idle.ask("key", "create", "--service", "images")
    ran = await idle.run("key", "revoke", made["secret"])
    assert ran.code == 0
    assert made["key_id"] in ran.out
    assert made["secret"] not in ran.out + ran.err
    for unknown in ("sk-sundial-" + "x" * 43, made["secret"][3:]):
        said = await idle.refused("key", "revoke", unknown, code=1)
        assert unknown not in said
        assert f"no key …{unknown[-4:]}" in said


async def test_an_audit_without_redis_blames_redis(idle: Office) -> None:
    """And not Postgres, which is there."""
    ran = await idle.run("audit", SUNDIAL_REDIS_URL="redis://127.0.0.1:1/0")
    assert ran.code == 3
    assert "Redis at 127.0.0.1:1/0 is not reachable" in ran.err
