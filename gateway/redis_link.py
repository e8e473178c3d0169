"""One pipelined connection to Redis: all commands of one turn of the event loop leave in one write.

Answers are matched to their commands by order alone. A waiter that was cancelled keeps its place in the queue and its
answer is thrown away, so that no answer can reach another call (compare CVE-2023-28859 in redis-py). When an answer is
late, or the bytes make no sense, the connection is dropped with everything that was waiting on it, and made anew.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import hiredis
import structlog

from shared import redis_keys, scripts

ANSWER_S_MAX: Final = 0.8
"""Seconds that the oldest unanswered command may wait before the connection is dropped: a refusal within a second."""
CONNECT_S_MAX: Final = 2.0
RECONNECT_S_MIN: Final = 0.05
RECONNECT_S_MAX: Final = 1.0
WAITING_MAX: Final = 20_000
"""Commands in flight at which further ones are refused: memory stays bounded while Redis stalls."""
SCRIPTS: Final = ("reserve", "extend", "settle")
REFUSALS: Final = ("OOM", "MISCONF", "READONLY", "NOREPLICAS")
"""How an answer begins that says that Redis takes no writes now: no memory, no disk, a replica, too few replicas."""
PROBE_S: Final = 1.0
"""Seconds between two questions whether it takes them again."""

Bytes = bytes | str | int

log = structlog.get_logger()


class RedisAwayError(Exception):
    """Redis cannot be reached, or did not answer in time. Whether a command took effect is then unknown."""


class RedisAnswerError(Exception):
    """Redis answered with an error, e.g. OOM or MISCONF; the text is Redis's."""

    @property
    def no_script(self) -> bool:
        """It has forgotten its scripts: nothing was done."""
        return str(self).startswith("NOSCRIPT")

    @property
    def no_writes(self) -> bool:
        """Redis takes no writes now, whoever asks."""
        return str(self).startswith(REFUSALS)


class _Wire(asyncio.Protocol):
    """One TCP connection: bytes out, answers in, in order."""

    def __init__(self, on_lost: Callable[["_Wire"], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only

    def send(self, arguments: Sequence[Bytes]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.lost or len(self._waiting) >= WAITING_MAX:
            future.set_exception(RedisAwayError("connection lost" if self.lost else "too many commands in flight"))
            return future
        if not self._out:
            self._loop.call_soon(self._flush)
            if self._watch is None:
                self._watch = self._loop.call_later(ANSWER_S_MAX / 4, self._check_lateness)
        self._out.append(hiredis.pack_command(tuple(arguments)))
        self._waiting.append((future, self._loop.time()))
        return future

    def _flush(self) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                future, _ = waiting.popleft()
                if future.done():
                    continue
                if isinstance(answer, hiredis.ReplyError):
                    future.set_exception(RedisAnswerError(str(answer)))
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self.drop(f"unreadable answer: {error!r}")

    def _check_lateness(self) -> None:
        """Again and again while anything waits; an idle gateway sleeps."""
        self._watch = None
        if not self._waiting or self.lost:
            return
        if self._loop.time() - self._waiting[0][1] > ANSWER_S_MAX:
            self.drop(f"no answer for {ANSWER_S_MAX} s")
        else:
            self._watch = self._loop.call_later(ANSWER_S_MAX / 4, self._check_lateness)

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(f"connection lost: {exc or 'closed by Redis'}")

    def drop(self, reason: str) -> None:
        """Give up this connection: what waits on it fails, later answers are never read."""
        if self.lost:
            return
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(RedisAwayError(reason))
                future.exception()  # a waiter that is gone must not be reported as "never retrieved"
        self._on_lost(self)


class RedisLink:
    """The gateway's link to Redis, made anew whenever it breaks. Raises RedisAwayError at once while it is broken."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379
        self._tls = parts.scheme == "rediss"
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._database = int(parts.path.strip("/") or 0)
        self._wire: _Wire | None = None
        self._scripts: dict[str, scripts.Script] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._refused = asyncio.Event()
        self.run_id = ""
        self.round_trips = 0
        """Commands sent since the start; tests count them."""
        self.on_connect: list[Callable[[], None]] = []
        """Called after each (re)connection: what failed while Redis was away may be repeated."""

    @property
    def ready(self) -> bool:
        return self._wire is not None and not self._wire.lost

    @property
    def takes_writes(self) -> bool:
        """Whether it did when last asked."""
        return not self._refused.is_set()

    def refused(self, error: RedisAnswerError) -> None:
        """A write was answered by this: where it says that Redis takes none, `keep_asking` sees when it does again."""
        if error.no_writes and self.takes_writes:
            log.error("redis_takes_no_writes", error=str(error))
            self._refused.set()

    async def keep_asking(self) -> None:
        """For as long as the gateway runs."""
        while True:
            await self._refused.wait()
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(RedisAwayError, RedisAnswerError):
                await self.send("SET", redis_keys.PROBE, "", "EX", 1)
                self._refused.clear()
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
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.drop("closing")

    def send(self, *arguments: Bytes) -> asyncio.Future[Any]:
        """The answer of one command, as hiredis decodes it (bytes, int, None, list)."""
        if self._wire is None:
            raise RedisAwayError("not connected")
        self.round_trips += 1
        return self._wire.send(arguments)

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[Bytes]) -> "asyncio.Future[Any]":
        """The answer of a script of shared/lua: RedisAnswerError with `no_script` where Redis has forgotten it.

        Raises RedisAwayError at once where there is no connection.
        """
        script = self._scripts.get(name)
        if script is None:
            raise RedisAwayError("not connected")
        return self.send("EVALSHA", script.sha1, len(keys), *keys, *arguments)

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Bytes]) -> list[Any]:
        """Run a script of shared/lua. Raises RedisAwayError, RedisAnswerError."""
        try:
            answer = await self.call(name, keys, arguments)
        except RedisAnswerError as error:
            if not error.no_script:
                raise
            answer = await self.send("EVAL", self._scripts[name].text, len(keys), *keys, *arguments)
        assert isinstance(answer, list)
        return answer

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self._on_lost), self._host, self._port, ssl=self._tls or None
                )
        except (OSError, TimeoutError) as error:
            raise RedisAwayError(f"cannot connect: {error}") from error
        try:
            if self._password:
                await wire.send(["AUTH", *([self._user] if self._user else []), self._password])
            if self._database:
                await wire.send(["SELECT", self._database])
            info = _parse_info(await wire.send(["INFO", "server"]))
            major = int(info["redis_version"].split(".")[0])
            loaded = {name: scripts.load(name, major) for name in SCRIPTS}
            await asyncio.gather(*(wire.send(["SCRIPT", "LOAD", script.text]) for script in loaded.values()))
        except (ValueError, KeyError) as error:
            wire.drop("could not be set up")
            raise RedisAwayError(f"this is no Redis: {error!r}") from error
        except BaseException:
            wire.drop("could not be set up")
            raise
        self._scripts = loaded
        self._wire = wire
        if self.run_id and self.run_id != info.get("run_id"):
            log.warning("redis_restarted", was=self.run_id, now=info.get("run_id"))
        self.run_id = info.get("run_id", "")
        for callback in self.on_connect:
            callback()

    def _on_lost(self, wire: _Wire) -> None:
        if wire is self._wire:
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


def _parse_info(text: Any) -> dict[str, str]:
    """Raises ValueError where it is no text."""
    if not isinstance(text, bytes):
        raise ValueError(f"INFO answered {type(text).__name__}")  # noqa: TRY004 (what a peer says is no type error)
    lines = text.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
