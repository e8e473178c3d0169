"""The gateway's copy of keys, prices and plans: all of it in memory, kept up by Redis's stream of changes.

A key that is not in here does not exist: guessing costs no look-up.
"""

import asyncio
import contextlib
import random
from typing import Any, Final

import msgspec
import structlog
from redis import asyncio as aioredis
from redis.exceptions import RedisError

from shared import redis_keys
from shared.pricing import PricedModel
from shared.projection import Catalog, KeyRecord, decode_catalog, decode_key

KEYS_MAX: Final = 500_000
"""API keys held in memory, some 500 bytes each."""
BLOCK_S: Final = 5
"""How long one wait for changes lasts."""
CANCEL_S: Final = 0.1
"""Pause before the follower is asked again to end."""
RELOAD_S_MAX: Final = 2.0
"""Longest pause before everything is loaded again after a break."""

_NONE_YET: Final = "0-0"
"""Position in a stream of changes that had none: what came before its first one is not known."""

log = structlog.get_logger()


class KeyBook:
    """Keys by the SHA-256 of their secret, and the newest catalog."""

    def __init__(self, redis_url: str, provisional: PricedModel | None = None) -> None:
        """`provisional` becomes part of every catalog: see gateway.provisional."""
        self._redis: Any = aioredis.Redis.from_url(redis_url, socket_timeout=BLOCK_S + 5, socket_connect_timeout=2)
        self._follower: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._catalog: Catalog | None = None
        self._provisional = provisional
        self.keys: dict[bytes, KeyRecord] = {}

    @property
    def loaded(self) -> bool:
        return self._catalog is not None

    @property
    def catalog(self) -> Catalog:
        assert self._catalog is not None, "admission is closed until the catalog is loaded"
        return self._catalog

    async def start(self, patience_s: float) -> None:
        """Begin to follow; returns when loaded, at the latest after `patience_s`."""
        self._follower = asyncio.create_task(self._follow())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first.wait(), patience_s)

    async def close(self) -> None:
        # Asked again until it ends: redis-py writes within asyncio.wait_for, which in Python 3.11 swallows a
        # cancellation that arrives together with its result.
        while self._follower is not None and not self._follower.done():
            self._follower.cancel()
            await asyncio.wait([self._follower], timeout=CANCEL_S)
        await self._redis.aclose()

    async def _follow(self) -> None:
        """Load everything, then apply changes one by one; after any break load everything again."""
        pause_s = 0.05
        while True:
            try:
                position = await self._load()
                pause_s = 0.05
                while True:
                    position = await self._apply(position)
            except (RedisError, OSError, TimeoutError, KeyError, ValueError) as error:
                log.warning("keys_and_prices_stale", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 (jitter, no secret)
                pause_s = min(pause_s * 2, RELOAD_S_MAX)

    async def _load(self) -> str:
        """Everything, and the position in the stream of changes from which to go on."""
        newest = await self._redis.xrevrange(redis_keys.CHANGES, count=1)
        position = newest[0][0].decode() if newest else _NONE_YET
        keys: dict[bytes, KeyRecord] = {}
        async for sha256, record in self._redis.hscan_iter(redis_keys.API_KEYS, count=1000):
            _put(keys, sha256.decode(), record)
            if len(keys) > KEYS_MAX:
                raise ValueError(f"more than {KEYS_MAX} keys")
        await self._load_catalog()
        self.keys = keys
        if not self._first.is_set():
            log.info("keys_and_prices_loaded", keys=len(keys), models=len(self.catalog.models))
        self._first.set()
        return position

    async def _load_catalog(self) -> None:
        version = await self._redis.get(redis_keys.CATALOG_VERSION)
        if version is None:
            raise KeyError("no catalog yet: is the meter running?")
        data = await self._redis.get(redis_keys.catalog(int(version)))
        if data is None:
            raise KeyError(f"catalog {int(version)} is missing")
        self._catalog = msgspec.structs.replace(decode_catalog(data), provisional=self._provisional)

    async def _apply(self, position: str) -> str:
        """Wait for changes, apply them, return the new position. A gap, where we fell behind, is an error: reload."""
        answer: list[Any] = await self._redis.xread({redis_keys.CHANGES: position}, count=1000, block=BLOCK_S * 1000)
        begun = position == _NONE_YET
        if answer if begun else not await self._redis.xrange(redis_keys.CHANGES, position, position):
            raise KeyError("the stream of changes was trimmed, lost or begun anew")
        for entry, fields in answer[0][1] if answer else ():
            kind, _, subject = fields[b"what"].decode().partition(":")
            if kind == "catalog":
                await self._load_catalog()
            elif kind == "key":
                _put(self.keys, subject, await self._redis.hget(redis_keys.API_KEYS, subject))
            position = entry.decode()
        return position


def _put(keys: dict[bytes, KeyRecord], sha256: str, record: bytes | None) -> None:
    """One key as it is told. One that cannot be read does not exist: it must not keep the others from being loaded."""
    digest = bytes.fromhex(sha256)
    keys.pop(digest, None)
    if record is not None:
        try:
            keys[digest] = decode_key(record)
        except ValueError as error:
            log.error("key_unreadable", sha256=sha256[:8], error=str(error))  # noqa: TRY400
