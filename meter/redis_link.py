"""The meter's connections to Redis, and its scripts there."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import hiredis
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from shared import scripts

ANSWER_TIMEOUT_S: Final = 10.0
"""Longest wait for an answer, in seconds; a blocking read asks for less (see meter.stream)."""
CONNECTIONS_MAX: Final = 64

_SCRIPTS: Final = ("apply", "disown", "expire", "mark", "recount", "tell_catalog", "tell_keys")


def connect(url: str) -> Any:
    """A client that answers bytes and repeats nothing by itself: what may be repeated is decided where it is called."""
    return aioredis.Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        max_connections=CONNECTIONS_MAX,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


class Server:
    """What a running server says of itself."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.run_id = str(info["run_id"])
        self.major = int(str(info["redis_version"]).split(".")[0])


async def server(client: Any) -> Server:
    return Server(await client.info("server"))


async def exchange(client: Any, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Send commands in one write and read their answers: redis-py's pipeline at a quarter of its time.

    Raises redis-py's errors; after any, the connection is dropped with the answers that were not read, so that none
    of them can reach whoever gets the connection next.
    """
    packed = [hiredis.pack_command(command) for command in commands]
    connection = await client.connection_pool.get_connection()
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await connection.send_packed_command(b"".join(packed), check_health=False)
            return [await connection.read_response(timeout=math.inf) for _ in packed]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await client.connection_pool.release(connection)


class Scripts:
    """Runs the meter's scripts, loading them where the server does not have them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._loaded: dict[str, scripts.Script] = {}

    async def run(self, name: str, calls: Iterable[tuple[int, Sequence[Any]]]) -> list[Any]:
        """Run script `name` once for each of `calls`, (number of keys, keys and arguments), in one round trip.

        Where the server has forgotten its scripts all calls are made again: a script for which that were wrong does
        not belong here. Raises redis-py's errors.
        """
        calls = list(calls)
        if name not in self._loaded:
            await self._load()
        try:
            return await self._send(name, calls)
        except NoScriptError:
            await self._load()
            return await self._send(name, calls)

    async def _send(self, name: str, calls: Sequence[tuple[int, Sequence[Any]]]) -> list[Any]:
        sha1 = self._loaded[name].sha1
        return await exchange(self._client, [("EVALSHA", sha1, keys, *arguments) for keys, arguments in calls])

    async def _load(self) -> None:
        major = (await server(self._client)).major
        for name in _SCRIPTS:
            script = scripts.load(name, major)
            await self._client.script_load(script.text)
            self._loaded[name] = script
