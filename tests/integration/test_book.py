"""The gateway's copy of keys, prices and plans, followed from a real Redis that also forgets."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import redis

from gateway import book as module
from gateway.book import KeyBook
from shared import redis_keys
from shared.projection import Catalog, KeyRecord, encode_catalog, encode_key
from tests.harness.calls import CATALOG, key
from tests.harness.redis_versions import RedisProgram, programs, running
from tests.harness.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProgram]:
    with running(min(programs()), tmp_path_factory.mktemp("redis")) as started:
        yield started


class Meter:
    """What the meter writes for the gateways."""

    def __init__(self, server: RedisProgram) -> None:
        self.client: Any = redis.Redis.from_url(server.url())

    def tell_key(self, secret: str, record: KeyRecord | None, *, change: bool = True) -> None:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if record is None:
            self.client.hdel(redis_keys.API_KEYS, digest)
        else:
            self.client.hset(redis_keys.API_KEYS, digest, encode_key(record))
        if change:
            self.client.xadd(redis_keys.CHANGES, {"what": f"key:{digest}"})

    def tell_catalog(self, catalog: Catalog) -> None:
        self.client.set(redis_keys.catalog(catalog.version), encode_catalog(catalog))
        self.client.set(redis_keys.CATALOG_VERSION, catalog.version)
        self.client.xadd(redis_keys.CHANGES, {"what": "catalog"})


@pytest.fixture
def meter(server: RedisProgram) -> Iterator[Meter]:
    """An empty Redis."""
    made = Meter(server)
    made.client.flushall()
    yield made
    made.client.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_S", 1)
    monkeypatch.setattr(module, "RELOAD_S_MAX", 0.1)


@asynccontextmanager
async def following(server: RedisProgram, patience_s: float = 5.0) -> AsyncIterator[KeyBook]:
    book = KeyBook(server.url())
    await book.start(patience_s)
    try:
        yield book
    finally:
        await book.close()


def found(book: KeyBook, secret: str) -> KeyRecord | None:
    return book.keys.get(hashlib.sha256(secret.encode()).digest())


def numbered(number: int, **more: Any) -> KeyRecord:
    return key(key_id=UUID(int=number), **more)


async def test_everything_is_there_when_the_start_returns(server: RedisProgram, meter: Meter) -> None:
    """All keys and the newest catalog, before a call can come."""
    for number in range(2_500):
        meter.tell_key(f"secret-{number}", numbered(number), change=False)
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        assert book.loaded
        assert len(book.keys) == 2_500
        assert found(book, "secret-7") == numbered(7)
        assert found(book, "secret-2500") is None
        assert book.catalog == CATALOG


async def test_a_start_before_the_meters_goes_on_unready(server: RedisProgram, meter: Meter) -> None:
    """After its patience the gateway starts without; as soon as the meter has told, it is loaded."""
    async with following(server, patience_s=0.05) as book:
        assert not book.loaded
        meter.tell_key("secret", numbered(1))
        meter.tell_catalog(CATALOG)
        await until(lambda: book.loaded)
        assert found(book, "secret") == numbered(1)


async def test_every_change_arrives(server: RedisProgram, meter: Meter) -> None:
    """A key made, revoked and removed; a catalog replaced: each without a reload, within moments."""
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        meter.tell_key("secret", numbered(1))
        await until(lambda: found(book, "secret") == numbered(1))
        meter.tell_key("secret", numbered(1, status="revoked"))
        await until(lambda: found(book, "secret") == numbered(1, status="revoked"))
        meter.tell_key("secret", None)
        await until(lambda: found(book, "secret") is None)
        later = msgspec.structs.replace(CATALOG, version=2, models={})
        meter.tell_catalog(later)
        await until(lambda: book.catalog == later)


async def test_many_changes_at_once_are_all_applied(server: RedisProgram, meter: Meter) -> None:
    """More than one read takes: none is left behind."""
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        for number in range(2_500):
            meter.tell_key(f"secret-{number}", numbered(number))
        await until(lambda: len(book.keys) == 2_500)


async def test_a_gap_in_the_changes_means_to_load_again(server: RedisProgram, meter: Meter) -> None:
    """Changes were trimmed before they were read: the next one that arrives shows it, and everything is read anew."""
    meter.tell_key("old", numbered(1))
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        assert found(book, "old") is not None
        lost = meter.client.pipeline(transaction=True)
        digests = {secret: hashlib.sha256(secret.encode()).hexdigest() for secret in ("old", "missed", "new")}
        lost.hset(redis_keys.API_KEYS, digests["old"], encode_key(numbered(1, status="revoked")))
        lost.hset(redis_keys.API_KEYS, digests["missed"], encode_key(numbered(2)))
        lost.xtrim(redis_keys.CHANGES, maxlen=0, approximate=False)
        lost.hset(redis_keys.API_KEYS, digests["new"], encode_key(numbered(3)))
        lost.xadd(redis_keys.CHANGES, {"what": f"key:{digests['new']}"})
        lost.execute()
        await until(lambda: found(book, "missed") == numbered(2))
        assert found(book, "old") == numbered(1, status="revoked")
        assert found(book, "new") == numbered(3)


async def test_a_redis_that_forgot_is_noticed_and_loaded_again(server: RedisProgram, meter: Meter) -> None:
    """FLUSHALL: what is known stays in use until the meter has told it again, then that counts."""
    meter.tell_key("old", numbered(1))
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        meter.client.flushall()
        later = msgspec.structs.replace(CATALOG, version=9)
        assert found(book, "old") == numbered(1)
        meter.tell_key("new", numbered(2), change=False)
        meter.client.set(redis_keys.catalog(9), encode_catalog(later))
        meter.client.set(redis_keys.CATALOG_VERSION, 9)
        await until(lambda: book.catalog == later)
        assert (found(book, "old"), found(book, "new")) == (None, numbered(2))


async def test_what_was_told_before_the_first_change_is_loaded(server: RedisProgram, meter: Meter) -> None:
    """Loaded while nothing had been announced: the first change may have others before it."""
    meter.tell_catalog(CATALOG)
    meter.client.delete(redis_keys.CHANGES)
    async with following(server) as book:
        meter.tell_key("unheard", numbered(1), change=False)
        meter.tell_catalog(CATALOG)
        await until(lambda: found(book, "unheard") == numbered(1))


async def test_after_a_restart_of_redis_changes_arrive_again(tmp_path: Path) -> None:
    """Killed and started anew: the copy stays in use meanwhile."""
    with running(min(programs()), tmp_path, appendfsync="always") as own:
        meter = Meter(own)
        meter.tell_key("secret", numbered(1))
        meter.tell_catalog(CATALOG)
        async with following(own) as book:
            own.kill()
            assert found(book, "secret") == numbered(1)
            own.start()
            meter = Meter(own)
            meter.tell_key("secret", numbered(1, status="revoked"))
            await until(lambda: found(book, "secret") == numbered(1, status="revoked"))


@pytest.mark.parametrize("rubbish", [b"", b"{}", b'{"kind":"service"', b"\xff", b'{"status":"suspended"}'])
async def test_a_key_that_cannot_be_read_does_not_exist_and_hides_no_other(
    server: RedisProgram, meter: Meter, rubbish: bytes
) -> None:
    """At the load and as a change: the others are known, a revocation of theirs still arrives."""
    bad = hashlib.sha256(b"bad").hexdigest()
    meter.client.hset(redis_keys.API_KEYS, bad, rubbish)
    meter.tell_key("good", numbered(1))
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        assert found(book, "good") == numbered(1)
        meter.tell_key("bad", numbered(2))
        await until(lambda: found(book, "bad") == numbered(2))
        meter.client.hset(redis_keys.API_KEYS, bad, rubbish)
        meter.client.xadd(redis_keys.CHANGES, {"what": f"key:{bad}"})
        meter.tell_key("good", numbered(1, status="revoked"))
        await until(lambda: found(book, "good") == numbered(1, status="revoked"))
        assert found(book, "bad") is None


@pytest.mark.parametrize("rubbish", [b"", b"{", b'{"version":2}', None])
async def test_a_catalog_that_cannot_be_read_leaves_the_last_one_in_use(
    server: RedisProgram, meter: Meter, rubbish: bytes | None
) -> None:
    """Half written or missing: calls are still priced by the one that is known, until a good one comes."""
    meter.tell_catalog(CATALOG)
    async with following(server) as book:
        if rubbish is not None:
            meter.client.set(redis_keys.catalog(2), rubbish)
        meter.client.set(redis_keys.CATALOG_VERSION, 2)
        meter.client.xadd(redis_keys.CHANGES, {"what": "catalog"})
        meter.tell_key("secret", numbered(1))
        assert book.catalog == CATALOG
        good = msgspec.structs.replace(CATALOG, version=3)
        meter.tell_catalog(good)
        await until(lambda: book.catalog == good)
        assert found(book, "secret") == numbered(1)


async def test_more_keys_than_memory_is_meant_for_are_not_loaded(
    server: RedisProgram, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is a limit: not ready, until there are fewer."""
    monkeypatch.setattr(module, "KEYS_MAX", 3)
    for number in range(4):
        meter.tell_key(f"secret-{number}", numbered(number))
    meter.tell_catalog(CATALOG)
    async with following(server, patience_s=0.05) as book:
        assert not book.keys
        meter.tell_key("secret-0", None)
        await until(lambda: len(book.keys) == 3)


async def test_closing_ends_the_following(server: RedisProgram, meter: Meter) -> None:
    """No task and no connection is left behind."""
    meter.tell_catalog(CATALOG)
    before = len(asyncio.all_tasks())
    async with following(server):
        pass
    assert len(asyncio.all_tasks()) == before
    await until(lambda: int(meter.client.info("clients")["connected_clients"]) == 1)
