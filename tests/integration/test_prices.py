"""Price versions in a real Postgres: dated, whole, never changed; the operator's overrides outlive imports."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.embedded import EmbeddedPostgres
from meter.migrate import migrate
from meter.prices import (
    VERSIONS_KEPT,
    PriceBook,
    PriceError,
    PriceSourceError,
    bundled_map,
    digest_of,
    ensure_prices,
    import_prices,
    remove_price,
    set_price,
)
from shared.pricing import PricedModel, RateCard, charge
from shared.usage import Usage

pytestmark = pytest.mark.integration

CHEAP = {"mode": "chat", "litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
DEAR = CHEAP | {"input_cost_per_token": 3e-06}
NIGHTLY = CHEAP | {"off_peak_pricing": {"hours_utc": "00:00-01:00"}}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server whose database `template` has the ledger's schema."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    server.create_database("template")
    asyncio.run(migrate(server.url(database="template")))
    yield server
    server.stop()


@pytest.fixture
async def conn(template: EmbeddedPostgres) -> AsyncIterator[Any]:
    template.drop_database("prices")
    template.create_database("prices", template="template")
    connection = await asyncpg.connect(template.url(database="prices"))
    yield connection
    await connection.close()


def price_map(folder: Path, **entries: dict[str, Any]) -> Path:
    path = folder / "map.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


async def models_of(conn: Any, version: int) -> dict[str, PricedModel]:
    return await PriceBook().load(conn, version)


async def test_the_bundled_map_becomes_the_first_version_once(conn: Any) -> None:
    """The first start imports thousands of models; the second finds that nothing has changed."""
    assert await ensure_prices(conn) == 1
    assert await ensure_prices(conn) == 1
    models = await models_of(conn, 1)
    assert len(models) > 3_000
    usage = Usage(input=1_000, output=1_000)
    card = RateCard(card="cost", family="cost")
    assert charge(usage, models["gpt-4o-mini-2024-07-18"], card).charge_mc == 150_000 + 600_000
    row = await conn.fetchrow("SELECT source, created_by, digest FROM sundial.price_versions")
    assert row["source"].startswith("litellm ")
    assert row["created_by"] == "import"
    assert row["digest"] == digest_of(models)


async def test_an_import_says_what_it_changed(conn: Any, tmp_path: Path) -> None:
    """Added, changed and removed against the version before, and what has no price with the reason."""
    first = await import_prices(conn, price_map(tmp_path, a=CHEAP, b=CHEAP, n=NIGHTLY), "ana")
    assert (first.version, first.created, first.added) == (1, True, ("a", "b"))
    assert [(one.model, one.reason) for one in first.unpriceable] == [("n", "the price depends on the hour")]
    second = await import_prices(conn, price_map(tmp_path, a=DEAR, c=CHEAP), "ana")
    assert (second.version, second.added, second.changed, second.removed) == (2, ("c",), ("a",), ("b",))
    third = await import_prices(conn, price_map(tmp_path, c=CHEAP, a=DEAR), "ana")
    assert (third.version, third.created, third.added, third.changed) == (2, False, (), ())


async def test_an_earlier_version_prices_as_it_did(conn: Any, tmp_path: Path) -> None:
    """A charge can be recomputed for ever from the version that it names."""
    await import_prices(conn, price_map(tmp_path, a=CHEAP))
    await import_prices(conn, price_map(tmp_path, a=DEAR))
    book = PriceBook()
    assert (await book.load(conn, 1))["a"].rates["input"] == 10**9
    assert (await book.load(conn, 2))["a"].rates["input"] == 3 * 10**9
    assert await book.load(conn, 3) == {}


async def test_an_override_is_a_version_and_outlives_imports(conn: Any, tmp_path: Path) -> None:
    """The operator's price stands over the map's until it is taken back; then the map's of that day counts."""
    await import_prices(conn, price_map(tmp_path, a=CHEAP, b=CHEAP))
    assert await set_price(conn, "a", {"input": 5, "output": 7}, "ana") == 2
    report = await import_prices(conn, price_map(tmp_path, a=DEAR, b=DEAR))
    assert (report.version, report.changed, report.overridden) == (3, ("b",), ("a",))
    overridden = (await models_of(conn, 3))["a"]
    assert (overridden.rates, overridden.override, overridden.provider) == ({"input": 5, "output": 7}, True, "openai")
    again = await set_price(conn, "a", {"input": 6, "output": 7}, "ana")
    assert await remove_price(conn, "a", "ana") == (again + 1, (await models_of(conn, 5))["a"])
    assert [model.rates["input"] for model in (await models_of(conn, 5)).values()] == [3 * 10**9] * 2
    sources = await conn.fetch("SELECT source FROM sundial.price_versions ORDER BY price_version")
    assert [row["source"] for row in sources] == ["map.json", "operator", "map.json", "operator", "operator"]


async def test_an_operator_may_price_what_the_map_does_not(conn: Any, tmp_path: Path) -> None:
    """A model of the house, before any import; and it is gone when its override is taken back. So is one that the
    newest import does not have any more, nor is its price of before the override."""
    assert await set_price(conn, "house/model", {"input": 0, "output": 10**9}, "ana") == 1
    assert list(await models_of(conn, 1)) == ["house/model"]
    await import_prices(conn, price_map(tmp_path, a=CHEAP, b=CHEAP))
    assert await remove_price(conn, "house/model", "ana") == (3, None)
    assert sorted(await models_of(conn, 3)) == ["a", "b"]
    await set_price(conn, "b", {"input": 1}, "ana")
    await import_prices(conn, price_map(tmp_path, a=CHEAP))
    assert await remove_price(conn, "b", "ana") == (6, None)
    assert list(await models_of(conn, 6)) == ["a"]


async def test_what_a_person_imported_outlives_starts_and_other_overrides(conn: Any, tmp_path: Path) -> None:
    """A newer map from a file stands through every start of a meter, and when some other model's override is taken
    back; only that model's price changes."""
    await ensure_prices(conn)
    newer = json.loads(bundled_map().read_text(encoding="utf-8")) | {"a": DEAR}
    newer["gpt-4o-mini"]["input_cost_per_token"] = 9e-7
    assert (await import_prices(conn, price_map(tmp_path, **newer), "ana")).version == 2
    imported = await models_of(conn, 2)
    assert imported["gpt-4o-mini"].rates["input"] == 9 * 10**8
    assert await ensure_prices(conn) == 2
    assert await set_price(conn, "zzz", {"input": 1}, "ana") == 3
    assert await ensure_prices(conn) == 3
    assert await remove_price(conn, "zzz", "ana") == (4, None)
    assert await models_of(conn, 4) == imported
    assert await ensure_prices(conn) == 4


@pytest.mark.parametrize(
    ("source", "imports"),
    [
        ("litellm 1.0.0", True),
        ("litellm 1", True),
        ("litellm 9999.0.0", False),  # the package was put back to an older one
        (f"litellm {installed_version('litellm')}", False),
        ("map.json", False),
        ("litellm.json", False),
    ],
)
async def test_a_start_imports_where_an_older_package_was_imported_last(conn: Any, source: str, imports: bool) -> None:
    """Whatever overrides came since: they stand over it. What is as new, or comes from a file, is left as it is."""
    await _write(conn, 1, source, {"a": PricedModel(model="a", rates={"input": 1})})
    assert await set_price(conn, "gpt-4o-mini", {"input": 1}, "ana") == 2
    assert await ensure_prices(conn) == (3 if imports else 2)
    models = await models_of(conn, 3 if imports else 2)
    assert ("a" not in models) is imports
    assert models["gpt-4o-mini"].rates == {"input": 1}
    assert await ensure_prices(conn) == (3 if imports else 2)


async def test_an_override_of_before_does_not_say_what_it_stands_over(conn: Any) -> None:
    """Versions were written without it: then the newest price counts that was imported without an override."""
    priced = PricedModel(model="a", rates={"input": 2}, provider="openai")
    await _write(conn, 1, "map.json", {"a": msgspec.structs.replace(priced, rates={"input": 1})})
    await _write(conn, 2, "map.json", {"a": priced})
    await _write(conn, 3, "operator", {"a": PricedModel(model="a", rates={"input": 9}, override=True)})
    await set_price(conn, "a", {"input": 10}, "ana")
    assert await remove_price(conn, "a", "ana") == (5, priced)


async def _write(conn: Any, version: int, source: str, models: dict[str, PricedModel]) -> None:
    """A version as some release has written it."""
    await conn.execute(
        "INSERT INTO sundial.price_versions (price_version, source, digest, created_by) VALUES ($1, $2, $3, 'x')",
        version,
        source,
        digest_of(models),
    )
    for model in models.values():
        definition = msgspec.json.encode(model).decode()
        await conn.execute("INSERT INTO sundial.prices VALUES ($1, $2, $3)", version, model.model, definition)


@pytest.mark.parametrize(
    ("model", "rates", "says"),
    [
        ("a", {}, "at least one rate"),
        ("a", {"thoughts": 1}, "no kind of usage"),
        ("a", {"input": -1}, "rate of input is -1"),
        ("a", {"input": 10**19}, "it may be 0 to"),
        ("", {"input": 1}, "1 to 256 printable"),
        ("a\nb", {"input": 1}, "1 to 256 printable"),
    ],
)
async def test_an_impossible_price_is_refused(model: str, rates: dict[str, int], says: str) -> None:
    """The connection is not even touched, and the message says what is possible."""
    with pytest.raises(PriceError, match=says):
        await set_price(None, model, rates, "ana")


async def test_there_is_nothing_to_take_back_where_there_is_no_override(conn: Any, tmp_path: Path) -> None:
    """The map's own price cannot be removed."""
    path = price_map(tmp_path, a=CHEAP)
    await import_prices(conn, path)
    with pytest.raises(PriceError, match="a has no override"):
        await remove_price(conn, "a", "ana")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{}", "\x00"])
async def test_a_map_that_cannot_be_read_changes_nothing(tmp_path: Path, text: str) -> None:
    """A broken, empty or missing file is an error before the database is touched, never a version without prices."""
    path = tmp_path / "map.json"
    path.write_text(text, encoding="utf-8")
    for unreadable in (path, tmp_path / "none.json"):
        with pytest.raises(PriceSourceError):
            await import_prices(None, unreadable)


async def test_the_projection_hears_of_a_version_and_of_nothing_else(
    conn: Any, template: EmbeddedPostgres, tmp_path: Path
) -> None:
    """One `catalog` in the queue and one notification for each version; none where nothing has changed."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(template.url(database="prices"))
    await listener.add_listener("sundial_projection", lambda *_: heard.put_nowait("catalog"))
    path = price_map(tmp_path, a=CHEAP)
    await import_prices(conn, path)
    await import_prices(conn, path)
    await set_price(conn, "a", {"input": 1}, "ana")
    for _ in range(2):
        assert await asyncio.wait_for(heard.get(), 10) == "catalog"
    queued = await conn.fetch("SELECT what FROM sundial.projection_queue")
    assert [row["what"] for row in queued] == ["catalog", "catalog"]
    await listener.close()
    assert heard.empty()


async def test_two_meters_that_start_at_once_make_one_version(
    conn: Any, template: EmbeddedPostgres, tmp_path: Path
) -> None:
    """The second waits, and finds what the first has written; two orders at once are two versions."""
    path = price_map(tmp_path, a=CHEAP)
    other = await asyncpg.connect(template.url(database="prices"))
    reports = await asyncio.gather(import_prices(conn, path), import_prices(other, path))
    assert sorted(report.created for report in reports) == [False, True]
    assert {report.version for report in reports} == {1}
    versions = await asyncio.gather(
        set_price(conn, "x", {"input": 1}, "ana"), set_price(other, "y", {"input": 1}, "rui")
    )
    assert sorted(versions) == [2, 3]
    assert sorted(await models_of(conn, 3)) == ["a", "x", "y"]
    await other.close()


async def test_a_version_cannot_be_changed(conn: Any, tmp_path: Path) -> None:
    """UPDATE, DELETE and TRUNCATE on prices are refused, even to the superuser."""
    await import_prices(conn, price_map(tmp_path, a=CHEAP))
    for change in (
        "UPDATE sundial.prices SET model = 'b'",
        "DELETE FROM sundial.prices",
        "TRUNCATE sundial.prices",
        "UPDATE sundial.price_versions SET source = 'x'",
    ):
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await conn.execute(change)


@pytest.mark.parametrize("role", ["sundial_meter", "sundial_console"])
async def test_meter_and_command_may_write_versions_with_their_own_rights(conn: Any, tmp_path: Path, role: str) -> None:
    """Import and override need no more than the least-privileged roles have."""
    await conn.execute(f"SET ROLE {role}")
    await import_prices(conn, price_map(tmp_path, a=CHEAP))
    assert await set_price(conn, "a", {"input": 1}, "ana") == 2


async def test_a_price_book_asks_once_for_a_version_and_keeps_few(conn: Any, tmp_path: Path) -> None:
    """A version is read once, for it never changes; the least used ones are let go."""
    await import_prices(conn, price_map(tmp_path, a=CHEAP))
    for number in range(VERSIONS_KEPT):
        await set_price(conn, "a", {"input": number}, "ana")
    book = PriceBook()
    first = await book.load(conn, 1)
    kept = {version: await book.load(conn, version) for version in range(2, VERSIONS_KEPT + 1)}
    assert await book.load(conn, 1) is first
    await book.load(conn, VERSIONS_KEPT + 1)
    assert await book.load(conn, 1) is first
    again = await book.load(conn, 2)
    assert again is not kept[2]
    assert again == {
        "a": PricedModel(model="a", provider="openai", rates={"input": 0}, override=True, imported=first["a"])
    }


async def test_definitions_come_back_as_they_went_in(conn: Any) -> None:
    """Postgres's jsonb keeps every digit of every rate of the bundled map."""
    version = await ensure_prices(conn)
    models = await models_of(conn, version)
    digest = await conn.fetchval("SELECT digest FROM sundial.price_versions")
    assert digest == digest_of(models)
    assert msgspec.json.decode(msgspec.json.encode(models), type=dict[str, PricedModel]) == models
