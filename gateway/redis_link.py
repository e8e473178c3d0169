"""The gateway's link to Redis: one pipelined connection (redis_wire.py), made anew whenever it breaks."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis
import structlog

from gateway.redis_wire import Bytes, RedisAnswerError, RedisAwayError, Waiter, Wire, packed
from shared import redis_keys, scripts

CONNECT_S_MAX: Final = 2.0
RECONNECT_S_MIN: Final = 0.05
RECONNECT_S_MAX: Final = 1.0
SCRIPTS: Final = {"reserve": 11, "extend": 7, "settle": 5}
"""Scripts of shared/lua, and how many arguments each is given, the account first. All take KEYS keys."""
KEYS: Final = 5
PROBE_S: Final = 1.0
"""Seconds between two questions whether it takes them again."""

log = structlog.get_logger()


class RedisLink:
    """The gateway's link to Redis, made anew whenever it breaks. Raises RedisAwayError at once while it is broken."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379
        self._tls = parts.scheme == "rediss"
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._database = int(parts.path.strip("/") or 0)
        self._wire: Wire | None = None
        self._scripts: dict[str, scripts.Script] = {}
        self._heads: dict[str, tuple[bytes, int]] = {}
        """How a command begins that runs a script, up to its keys, and how many bytes are before the first of the
        arguments behind the account's, where those are packed."""
        self._keeper: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._refused = asyncio.Event()
        self.ready = False
        """There is a connection."""
        self.takes_writes = True
        """Whether it did when last asked."""
        self.run_id = ""
        self.round_trips = 0
        """Commands sent since the start; tests count them."""
        self.on_connect: list[Callable[[], None]] = []
        """Called after each (re)connection: what failed while Redis was away may be repeated."""

    def refused(self, error: RedisAnswerError) -> None:
        """A write was answered by this: where it says that Redis takes none, `keep_asking` sees when it does again."""
        if error.no_writes and self.takes_writes:
            log.error("redis_takes_no_writes", error=str(error))
            self.takes_writes = False
            self._refused.set()

    async def keep_asking(self) -> None:
        """For as long as the gateway runs."""
        while True:
            await self._refused.wait()
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(RedisAwayError, RedisAnswerError):
                await self.send("SET", redis_keys.PROBE, "", "EX", 1)
                self._refused.clear()
                self.takes_writes = True
                log.info("redis_takes_writes")

    async def start(self) -> None:
        """Connect, or begin trying. Returns after the first attempt, whatever became of it."""
        with contextlib.suppress(RedisAwayError, RedisAnswerError):
            await self._connect()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        wire, self._wire, self.ready = self._wire, None, False
        if wire is not None:
            wire.drop("closing")

    def send(self, *parts: Bytes) -> asyncio.Future[Any]:
        """The answer of one command, as hiredis decodes it (bytes, int, None, list)."""
        if self._wire is None:
            raise RedisAwayError("not connected")
        self.round_trips += 1
        return self._wire.send(*parts)

    def tell(self, name: str, account: bytes, arguments: tuple[Bytes, ...], waiter: Waiter) -> None:
        """Run a script of shared/lua, and let `waiter` have its answer: RedisAnswerError with `no_script` where Redis
        has forgotten the script. `account`: the keys and the account's id, `packed`; `arguments`: all behind it.

        Raises RedisAwayError at once where there is no connection.
        """
        wire = self._wire
        if wire is None:
            raise RedisAwayError("not connected")
        self.round_trips += 1
        head, skipped = self._heads[name]
        wire.ask(b"%b%b%b" % (head, account, hiredis.pack_command(arguments)[skipped:]), waiter)

    def call(self, name: str, account: bytes, arguments: tuple[Bytes, ...]) -> "asyncio.Future[Any]":
        """The same, to be awaited."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.tell(name, account, arguments, answer)
        return answer

    def taught(
        self, error: RedisAnswerError, name: str, account: bytes, arguments: tuple[Bytes, ...]
    ) -> "asyncio.Future[Any]":
        """The same once more, where `error` says that Redis has forgotten the script; else raises it."""
        if not error.no_script:
            raise error
        if self._wire is None:
            raise RedisAwayError("not connected")
        self.round_trips += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        script = packed("EVAL", self._scripts[name].text, KEYS)
        self._wire.ask(b"%b%b%b%b" % (_count(name), script, account, packed(*arguments)), answer)
        return answer

    async def run(self, name: str, account: bytes, arguments: tuple[Bytes, ...]) -> list[Any]:
        """Run a script of shared/lua. Raises RedisAwayError, RedisAnswerError."""
        try:
            answer = await self.call(name, account, arguments)
        except RedisAnswerError as error:
            answer = await self.taught(error, name, account, arguments)
        assert isinstance(answer, list)
        return answer

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, wire = await loop.create_connection(
                    lambda: Wire(self._on_lost), self._host, self._port, ssl=self._tls or None
                )
        except (OSError, TimeoutError) as error:
            raise RedisAwayError(f"cannot connect: {error}") from error
        try:
            if self._password:
                await wire.send("AUTH", *([self._user] if self._user else []), self._password)
            if self._database:
                await wire.send("SELECT", self._database)
            info = _parse_info(await wire.send("INFO", "server"))
            major = int(info["redis_version"].split(".")[0])
            loaded = {name: scripts.load(name, major) for name in SCRIPTS}
            await asyncio.gather(*(wire.send("SCRIPT", "LOAD", script.text) for script in loaded.values()))
        except (ValueError, KeyError) as error:
            wire.drop("could not be set up")
            raise RedisAwayError(f"this is no Redis: {error!r}") from error
        except BaseException:
            wire.drop("could not be set up")
            raise
        self._scripts = loaded
        self._heads = {name: _head(name, script) for name, script in loaded.items()}
        self._wire, self.ready = wire, not wire.lost
        if self.run_id and self.run_id != info.get("run_id"):
            log.warning("redis_restarted", was=self.run_id, now=info.get("run_id"))
        self.run_id = info.get("run_id", "")
        for callback in self.on_connect:
            callback()

    def _on_lost(self, wire: Wire) -> None:
        if wire is self._wire:
            self.ready = False
            log.warning("redis_lost")
            self._broken.set()

    async def _keep(self) -> None:
        """Connect again whenever the connection breaks: exponential backoff with full jitter."""
        while True:
            pause_s, said = RECONNECT_S_MIN, ""
            while not self.ready:
                try:
                    await self._connect()
                    log.info("redis_connected")
                except (RedisAwayError, RedisAnswerError) as error:
                    if said != str(error):
                        said = str(error)
                        log.warning("redis_away", error=said)
                    await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 (jitter, no secret)
                    pause_s = min(pause_s * 2, RECONNECT_S_MAX)
            self._broken.clear()
            if self.ready:
                await self._broken.wait()


def _count(name: str) -> bytes:
    """How a command begins that runs this script: with the number of its parts."""
    return b"*%d\r\n" % (3 + KEYS + SCRIPTS[name])


def _head(name: str, script: scripts.Script) -> tuple[bytes, int]:
    return _count(name) + packed("EVALSHA", script.sha1, KEYS), len(b"*%d\r\n" % (SCRIPTS[name] - 1))


def _parse_info(text: Any) -> dict[str, str]:
    """Raises ValueError where it is no text."""
    if not isinstance(text, bytes):
        raise ValueError(f"INFO answered {type(text).__name__}")  # noqa: TRY004 (what a peer says is no type error)
    lines = text.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
