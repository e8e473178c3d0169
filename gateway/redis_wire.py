"""One connection to Redis: all commands of one turn of the event loop leave in one write.

Answers are matched to their commands by order alone. A waiter that was cancelled keeps its place in the queue and its
answer is thrown away, so that no answer can reach another call (compare CVE-2023-28859 in redis-py). When an answer is
late, or the bytes make no sense, the connection is dropped with everything that was waiting on it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import hiredis
from hiredis import ReplyError

ANSWER_S_MAX: Final = 0.8
"""Seconds that the oldest unanswered command may wait before the connection is dropped: a refusal within a second."""
WAITING_MAX: Final = 20_000
"""Commands in flight at which further ones are refused: memory stays bounded while Redis stalls."""
REFUSALS: Final = ("OOM", "MISCONF", "READONLY", "NOREPLICAS")
"""How an answer begins that says that Redis takes no writes now: no memory, no disk, a replica, too few replicas."""

Bytes = bytes | str | int


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


class Waiter(Protocol):
    """Who gets an answer: a future, or what does with it at once what is to be done, and awaits nothing."""

    def set_result(self, answer: Any, /) -> None: ...

    def set_exception(self, error: RedisAwayError | RedisAnswerError, /) -> None: ...


class Wire(asyncio.Protocol):
    """One TCP connection: bytes out, answers in, in order."""

    def __init__(self, on_lost: Callable[["Wire"], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[Waiter, float]] = deque()
        """Whose answers are to come, and when each command was sent."""
        self._out: list[bytes] = []
        """What leaves at the end of this turn of the event loop."""
        self._turn_s = 0.0
        """The loop's time in this turn."""
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only

    def send(self, *parts: Bytes) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self.ask(hiredis.pack_command(parts), future)
        return future

    def ask(self, command: bytes, waiter: Waiter) -> None:
        """Send a command, as Redis's protocol has it. What cannot be sent is told the waiter before this returns."""
        waiting, out = self._waiting, self._out
        if self.lost or len(waiting) >= WAITING_MAX:
            waiter.set_exception(RedisAwayError("connection lost" if self.lost else "too many commands in flight"))
            return
        if not out:
            self._begin_turn()
        out.append(command)
        waiting.append((waiter, self._turn_s))

    def _begin_turn(self) -> None:
        self._turn_s = self._loop.time()
        self._loop.call_soon(self._flush)
        if self._watch is None:
            self._watch = self._loop.call_later(ANSWER_S_MAX / 4, self._check_lateness)

    def _flush(self) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        next_answer, next_in_line = self._reader.gets, self._waiting.popleft
        try:
            self._reader.feed(data)
            while (answer := next_answer()) is not False:
                waiter, _ = next_in_line()
                try:
                    if isinstance(answer, ReplyError):
                        waiter.set_exception(RedisAnswerError(str(answer)))
                    else:
                        waiter.set_result(answer)
                except asyncio.InvalidStateError:
                    pass  # it was cancelled
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
        self._on_lost(self)
        waiting, self._waiting = self._waiting, deque()
        for waiter, _ in waiting:
            with contextlib.suppress(asyncio.InvalidStateError):  # it was cancelled
                waiter.set_exception(RedisAwayError(reason))
                if isinstance(waiter, asyncio.Future):
                    waiter.exception()  # one whose waiter is gone must not be reported as "never retrieved"


def packed(*parts: Bytes) -> bytes:
    """Parts of a command, as Redis's protocol has them."""
    command: bytes = hiredis.pack_command(parts)
    return command[command.index(b"\n") + 1 :]
