"""Statements, receipts, prices, audit and doctor on real servers, by the command as people run it."""

import itertools
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from shared import ids
from shared.pricing import RateCard, charge
from shared.usage import Usage
from sundial.statement_books import PAGE_ENTRIES
from tests.harness.books import until_quiet
from tests.harness.command import Office
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.messages import MODEL, account_of, fresh_event_id, seen, used
from tests.harness.office_fixtures import busy, idle
from tests.harness.servers import Database, Servers

__all__ = ["busy", "idle"]

pytestmark = pytest.mark.integration

LINES = ("opening", "grants", "purchases", "usage", "adjustments", "expiry", "closing")


def closes(statement: dict[str, Any]) -> bool:
    opening, grants, purchases, usage, adjustments, expiry, closing = (statement[line] for line in LINES)
    return bool(opening + grants + purchases - usage + adjustments - expiry == closing)


async def test_a_statement_lists_every_token_of_the_month(busy: Office) -> None:
    """Usage, a grant and an adjustment make a statement that closes, with tokens, evidence and cost of each call."""
    usage = Usage(input=900, cached=100, output=40, reasoning=10)
    exact = used("maria", usage=usage, charge_mc=1_050_000, conversation="c1", purpose="title")
    guessed = used("maria", 7, evidence="recounted", outcome="client_gone", flags=("hidden_reasoning",))
    await busy.bench.say(seen("maria", 2_000_000), exact, guessed)
    await until_quiet(busy.redis_url)
    await busy.ask("grant", "maria", "10", "--memo", "bônus")
    await busy.ask("adjust", "maria", "-1", "--memo", "correção")

    statement = await busy.ask("statement", "maria")
    assert [statement[line] for line in LINES] == [0, 2_010_000, 0, 1_064_000, -1_000, 0, 945_000]
    entries = statement["entries"]
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5]
    call = entries[1]
    told = ("model", "tokens_in", "tokens_out", "cached", "reasoning", "evidence", "outcome", "conversation", "purpose")
    assert [call[name] for name in told] == [MODEL, 1000, 50, 100, 10, "provider", "complete", "c1", "title"]
    assert (call["event_id"], call["amount"]) == (str(exact.event_id), -1_050_000)
    assert entries[2]["flags"] == ["hidden_reasoning", "charge_differs"] or entries[2]["flags"] == ["hidden_reasoning"]
    assert (entries[3]["memo"], "event_id" in entries[3]) == ("bônus", False)
    assert statement["provider_cost_nano"] == sum(entry["provider_cost_nano"] for entry in entries[1:3])
    assert {name: grade["events"] for name, grade in statement["evidence"].items()} == {"provider": 1, "recounted": 1}
    assert sum(grade["share"] for grade in statement["evidence"].values()) == pytest.approx(1)


async def test_a_statement_is_a_page_for_people(busy: Office) -> None:
    """In Portuguese unless told otherwise: estimated calls are marked, a long list is cut, no name moves the cursor."""
    await busy.ask("account", "create", "maria", "--name", "Mar[red]ia", "--no-allowance")
    await busy.bench.say(*(used("maria", evidence="recounted") for _ in range(3)))
    await until_quiet(busy.redis_url)
    page = (await busy.run("statement", "maria", "--limit", "2")).out
    for words in (
        "Extrato",
        "Saldo inicial",
        "consumo (estimado)",
        "2 de 3",
        "recontado por nós",
        "100,0 %",
        "Mar[red]ia",
    ):
        assert words in page
    page = (await busy.run("statement", "maria", "--lang", "en")).out
    for words in ("Statement", "Opening balance", "usage (estimated)", "recounted by us"):
        assert words in page
    assert "−200 " in page
    page = (await busy.run("account", "show", "maria")).out
    assert "Saldo disponível" in page


async def test_a_long_month_is_read_in_pages(busy: Office) -> None:
    """More entries than a page holds are all listed, in order; a limit leaves the newest."""
    count = PAGE_ENTRIES + 50
    await busy.bench.say(*(used("maria", 1) for _ in range(count)))
    await until_quiet(busy.redis_url)
    statement = await busy.ask("statement", "maria")
    assert [entry["seq"] for entry in statement["entries"]] == list(range(1, count + 1))
    assert statement["usage"] == -statement["entries"][-1]["balance_after"] == count * 2_000
    few = await busy.ask("statement", "maria", "--limit", "3")
    assert [entry["seq"] for entry in few["entries"]] == [count - 2, count - 1, count]
    assert (few["entries_shown"], few["entries_total"], few["usage"]) == (3, count, count * 2_000)


async def insert_history(owner: Any, user: str, moves: list[tuple[str, int, datetime]], broken_at: int = 0) -> None:
    """Transfers straight into the books, as no program may; the balance after number `broken_at` is one too much."""
    balance = 0
    for seq, (kind, amount, moment) in enumerate(moves, 1):
        balance += amount
        await owner.execute(
            "INSERT INTO sundial.transfers (account_id, transfer_id, seq, kind, contra, amount_mc, balance_after_mc,"
            " occurred_at, recorded_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
            account_of(user),
            ids.uuid7(int(moment.timestamp() * 1000), seq.to_bytes(10, "big")),
            seq,
            kind,
            "clearing" if kind in ("move", "refund") else kind,
            amount,
            balance + (seq == broken_at),
            moment,
        )


async def test_months_follow_one_another_at_local_midnight(idle: Office, owner: Any) -> None:
    """A transfer belongs to the month in which it was recorded in São Paulo; each month opens where the last closed."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    moves = [
        ("grant", 1_000, datetime(2026, 10, 5, tzinfo=UTC)),
        ("purchase", 500, datetime(2026, 11, 1, 2, 59, 59, 999_999, tzinfo=UTC)),  # still October
        ("usage", -70, datetime(2026, 11, 1, 3, tzinfo=UTC)),  # November's first moment
        ("refund", 20, datetime(2026, 11, 15, tzinfo=UTC)),
        ("expiry", -30, datetime(2026, 12, 1, 2, 59, tzinfo=UTC)),
        ("move", -5, datetime(2026, 12, 1, 3, tzinfo=UTC)),
    ]
    await insert_history(owner, "maria", moves)
    months = [
        await idle.ask("statement", "maria", "--month", month) for month in ("2026-09", "2026-10", "2026-11", "2026-12")
    ]
    found = [[statement[line] for line in LINES] for statement in months]
    assert found == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1_000, 500, 0, 0, 0, 1_500],
        [1_500, 0, 0, 70, 20, 30, 1_420],
        [1_420, 0, 0, 0, -5, 0, 1_415],
    ]
    assert [len(statement["entries"]) for statement in months] == [0, 2, 3, 1]
    assert all(map(closes, months))
    for before, after in itertools.pairwise(months):
        assert before["closing"] == after["opening"]
    utc = await idle.ask("statement", "maria", "--month", "2026-10", SUNDIAL_TIMEZONE="UTC")
    assert utc["closing"] == 1_000


@pytest.mark.parametrize("broken_at", [1, 2, 3])
async def test_books_that_do_not_close_are_never_shown(idle: Office, owner: Any, broken_at: int) -> None:
    """A balance that is off by one millicredit ends the statement, and the audit, with 1 and the place."""
    await idle.ask("account", "create", "maria", "--no-allowance")
    moment = datetime(2026, 10, 5, tzinfo=UTC)
    await insert_history(owner, "maria", [("grant", 100, moment)] * 3, broken_at)
    ran = await idle.run("statement", "maria", "--month", "2026-10", "--json")
    assert ran.code == 1
    assert "sundial audit" in ran.err
    report = await idle.ask("audit", code=1)
    assert not report["ok"]
    assert report["rules"]["history"] or report["rules"]["balance_cache"]
    assert any(str(account_of("maria")) in one["subject"] for one in report["violations"])


async def test_a_receipt_explains_a_charge_to_the_last_millicredit(busy: Office) -> None:
    """Lines of kind × rate sum to the booked charge, and the draws say which grant paid it, or that none did."""
    usage = Usage(input=1_201, cached=300, output=77, reasoning=13)
    models = await busy.bench.watch._projection._prices.load(busy.bench.pool, 1)
    charged = charge(usage, models[MODEL], RateCard(card="cost@1", family="cost"))
    paid = used("maria", usage=usage, card="cost@1", charge_mc=charged.charge_mc, cost_nano=charged.cost_nano)
    owed = used("maria", usage=usage, card="cost@1", charge_mc=charged.charge_mc, cost_nano=charged.cost_nano)
    await busy.bench.say(seen("maria", charged.charge_mc + 1), paid, owed)
    await until_quiet(busy.redis_url)
    receipt = await busy.ask("charge", str(paid.event_id))
    assert receipt["charge"] == receipt["recomputed"] == charged.charge_mc
    assert {line["kind"]: line["units"] for line in receipt["lines"]} == {
        "input": 1_201, "cached": 300, "output": 77, "reasoning": 13
    }  # fmt: skip
    rates = {line["kind"]: line["rate_mc_per_million"] for line in receipt["lines"]}
    assert rates == {"input": "150000000", "cached": "75000000", "output": "600000000", "reasoning": "600000000"}
    assert round(sum(float(line["amount_mc"]) for line in receipt["lines"])) == charged.charge_mc
    assert [draw["amount"] for draw in receipt["draws"]] == [charged.charge_mc]
    assert receipt["uncovered"] == 0
    receipt = await busy.ask("charge", str(owed.event_id), "--account", "maria")
    assert ([draw["amount"] for draw in receipt["draws"]], receipt["uncovered"]) == ([1], charged.charge_mc - 1)
    page = (await busy.run("charge", str(owed.event_id))).out
    for words in ("Recibo", "informado pelo provedor", "cost@1", "excedente"):
        assert words in page
    assert "no usage event" in await busy.refused("charge", str(fresh_event_id()), code=1)


async def test_prices_are_versions(idle: Office) -> None:
    """An import of the same map changes nothing; an override is a further version, found by any name of the model, and
    can be taken back; zeros must be said."""
    assert not (await idle.ask("price", "import"))["created"]
    shown = await idle.ask("price", "show", f"openai/{MODEL}")
    assert (shown["price_version"], shown["usd"]["input"], shown["usd"]["output"]) == (1, "0.15", "0.60")
    assert "--output" in await idle.refused("price", "set", MODEL, "--input", "0.2", code=2)
    changed = await idle.ask("price", "set", MODEL, "--input", "0.2", "--output", "0")
    covers = [f"{MODEL}-2024-07-18"]
    usd = {"input": "0.20", "output": "0.00"}
    assert changed == {"model": MODEL, "price_version": 2, "usd": usd, "covers": covers}
    for name in (MODEL, f"openai/{covers[0]}"):
        found = await idle.ask("price", "show", name)
        assert (found["model"], found["usd"], found["covers"]) == (MODEL, usd, covers)
    listed = (await idle.ask("price", "list", "--search", covers[0]))["models"]
    assert {one["model"]: one["priced_as"] for one in listed}[covers[0]] == MODEL
    assert f"as {MODEL}" in (await idle.run("price", "list", "--search", covers[0])).out
    own = (await idle.ask("price", "list", "--override"))["models"]
    assert [(one["model"], one["override"]) for one in own] == [(MODEL, True)]
    before = await idle.ask("price", "show", MODEL, "--version", "1")
    assert before["usd"]["output"] == "0.60"
    assert (await idle.ask("price", "unset", MODEL))["price_version"] == 3
    assert (await idle.ask("price", "show", MODEL))["usd"] == shown["usd"]
    assert "near: " in await idle.refused("price", "show", "4o-mini", code=1)
    assert "Input" in (await idle.run("price", "list", "--search", MODEL)).out


async def test_an_audit_of_sound_books_ends_with_zero(busy: Office) -> None:
    """Every rule is listed with no violation."""
    await busy.bench.say(seen("maria"), used("maria"))
    await until_quiet(busy.redis_url)
    report = await busy.ask("audit", "--quiet")
    assert report["ok"]
    assert report["violations"] == []
    assert {"conservation", "history", "charges", "projection", "stream"} <= set(report["rules"])
    assert not any(report["rules"].values())


async def test_doctor_says_what_is_wrong_and_what_to_do(busy: Office) -> None:
    """With servers and upstream there and no program, the programs alone fail, each with its remedy; exit 1."""
    upstream = FakeUpstream()
    async with upstream.listening():
        settings = {"SUNDIAL_UPSTREAM_URL": upstream.url, "SUNDIAL_UPSTREAM_KEY": upstream.key}
        report = await busy.ask("doctor", code=1, **settings)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert [name for name, state in states.items() if state == "fail"] == ["gateway", "meter"]
    assert {
        states[name] for name in ("postgres", "migrations", "roles", "prices", "epochs", "catalog", "upstream")
    } == {"ok"}
    assert all(check["advice"] for check in report["checks"] if check["state"] == "fail")
    assert upstream.surprises == []
    assert "POST" in json.dumps(report["families"])
    listed = await busy.ask("doctor", code=1, SUNDIAL_FORWARDED_PATHS="GET /files")
    assert [one["path"] for one in listed["families"] if one["treatment"] == "forwarded"] == ["/v1/files"]
    wrong = await busy.ask("doctor", code=1, SUNDIAL_FORWARDED_PATHS="/chat/*")
    assert [check["state"] for check in wrong["checks"] if check["name"] == "forwarded paths"] == ["fail"]


async def test_a_database_without_tables_is_told_to_migrate(servers: Servers) -> None:
    """Before `sundial migrate` people's commands end with 3 and name it; it runs once, then there is nothing to do."""
    servers.postgres.create_database("bare")
    database = Database(*(servers.postgres.url(database="bare"),) * 4)
    command = Office(database, servers.redis.url(), None)  # type: ignore[arg-type]
    try:
        assert "sundial migrate" in await command.refused("account", "list", code=3)
        assert (await command.ask("migrate"))["migrations"]
        assert (await command.ask("migrate"))["migrations"] == []
        assert (await command.ask("account", "list"))["accounts"] == []
    finally:
        servers.postgres.drop_database("bare")


def test_the_ids_of_the_tests_are_those_of_the_product() -> None:
    """An account's id follows from directory and external id, so that scripts can compute it."""
    assert account_of("maria") == ids.account_id(ids.directory_id("librechat"), "maria")
    assert isinstance(account_of("maria"), UUID)
