"""What Redis says about an account at this moment: the projection by which the gateway decides."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import UUID

import msgspec

from shared import redis_keys
from sundial.database import place, reason
from sundial.problems import UnreachableError

TIMEOUT_S: Final = 5.0


class Projected(msgspec.Struct, frozen=True, kw_only=True):
    """Millicredits of one account in Redis. `seq` and `revision` tell how new that is."""

    balance_mc: int
    held_mc: int
    unposted_mc: int
    floor_mc: int
    seq: int
    revision: int
    status: str
    plan: str
    mode: str

    @property
    def spendable_mc(self) -> int:
        """What the reserve script lets the next calls hold."""
        return self.balance_mc - self.floor_mc - self.held_mc - self.unposted_mc


def projected(fields: Mapping[str, str]) -> Projected | None:
    """The account of a Redis hash; None where Redis does not know the account."""
    if "balance" not in fields:
        return None
    return Projected(
        balance_mc=int(fields["balance"]),
        held_mc=int(fields.get("held", 0)),
        unposted_mc=int(fields.get("unposted", 0)),
        floor_mc=int(fields.get("floor", 0)),
        seq=int(fields.get("seq", 0)),
        revision=int(fields.get("revision", 0)),
        status=fields.get("status", "active"),
        plan=fields.get("plan", ""),
        mode=fields.get("mode", "enforce"),
    )


@contextmanager
def border(url: str) -> Iterator[None]:
    """Raises UnreachableError for errors of redis-py and of the socket below it."""
    from redis import RedisError

    try:
        yield
    except (RedisError, ConnectionError, TimeoutError) as error:
        raise UnreachableError(
            f"Redis at {place(url)} is not reachable ({reason(error)}). Start it, or correct SUNDIAL_REDIS_URL."
        ) from error


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Any]:
    """A client of redis-py that has answered once. Raises UnreachableError with what to do."""
    from redis.asyncio import Redis

    client: Any = Redis.from_url(url, decode_responses=True, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
    try:
        with border(url):
            await client.ping()
            yield client
    finally:
        await client.aclose()


async def read(client: Any, shard: int, account: UUID) -> Projected | None:
    return projected(await client.hgetall(redis_keys.account(shard, account)))
