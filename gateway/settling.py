"""Closed calls on their way to Redis: told at once, or as soon as it is back. None is forgotten, and none counts twice.

What waits is bounded, in memory; the journal has all of it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from gateway.account_names import names
from gateway.redis_link import Bytes, RedisAnswerError, RedisAwayError, RedisLink
from shared import events, redis_keys
from shared.events import UsageEvent

UNSETTLED_MAX: Final = 50_000
"""Closed calls that wait in memory for Redis to come back; their S records are on disk."""
RETOLD_WAITING_MAX: Final = 1_000
"""Closed calls that wait for Redis at which none of a journal are added: live calls come first, none is dropped."""
RETOLD_AT_ONCE: Final = 100
"""Calls of a journal that Redis is told before a pause."""
RETOLD_PAUSE_S: Final = 0.05
"""Pause after so many, in seconds: at most 2,000 calls of a journal a second, so that live calls do not wait."""
SETTLE_RETRY_S: Final = 0.5

log = structlog.get_logger()


class Void(msgspec.Struct, frozen=True):
    """A call that came to nothing: its hold is given back."""

    account_id: UUID


class Settling:
    """Closed calls that Redis has not confirmed yet."""

    def __init__(self, link: RedisLink, spawn: Callable[[Awaitable[Any]], object]) -> None:
        self._link = link
        self._spawn = spawn
        self._unsettled: OrderedDict[UUID, UsageEvent | Void] = OrderedDict()
        self._retrying = False
        self._retelling = 0
        self._room = asyncio.Event()
        """Set whenever a closed call has been confirmed."""
        self.dropped = 0
        """Closed calls that were dropped from memory: only the journal has them, until it is told again."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def __iter__(self) -> Iterator[UUID]:
        return iter(self._unsettled)

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._unsettled

    @property
    def owing(self) -> bool:
        """Redis may lack a call that was closed."""
        return bool(self._unsettled or self._retelling or self.dropped)

    async def confirmed(self) -> None:
        """Wait until Redis has confirmed every call that was closed."""
        while self._unsettled:
            await self._confirmation()

    def tell(self, event_id: UUID, fact: UsageEvent | Void, payload: bytes = b"") -> None:
        """Tell Redis, now or as soon as it is back. `payload`: the event, where it is encoded already."""
        if len(self._unsettled) >= UNSETTLED_MAX:
            # Its record is in the journal, which is told again when Redis is back.
            dropped, _ = self._unsettled.popitem(last=False)
            self.dropped += 1
            self._room.set()
            log.error("unsettled_overflow", event_id=str(dropped), limit=UNSETTLED_MAX)
        self._unsettled[event_id] = fact
        try:
            answer = self._link.call("settle", *_settling(event_id, fact, payload))
        except RedisAwayError as error:
            self._put_off(event_id, fact, error)
        else:
            answer.add_done_callback(partial(self._told, event_id, fact))

    def _told(self, event_id: UUID, fact: UsageEvent | Void, answer: "asyncio.Future[Any]") -> None:
        """Redis has answered: no coroutine waits for it, as it mostly says yes."""
        error = answer.exception()
        if error is None:
            self._confirm(event_id)
        elif isinstance(error, RedisAnswerError) and error.no_script:
            self._spawn(self._settle(event_id, fact))
        else:
            self._put_off(event_id, fact, error)

    async def _settle(self, event_id: UUID, fact: UsageEvent | Void) -> None:
        """One more attempt."""
        try:
            await self._link.run("settle", *_settling(event_id, fact))
        except (RedisAwayError, RedisAnswerError) as error:
            self._put_off(event_id, fact, error)
        else:
            self._confirm(event_id)

    def _confirm(self, event_id: UUID) -> None:
        self._unsettled.pop(event_id, None)
        self._room.set()

    def _put_off(self, event_id: UUID, fact: UsageEvent | Void, error: BaseException) -> None:
        """It stays in `_unsettled`, for `_settle_rest`."""
        log.warning("settle_failed", event_id=str(event_id), void=isinstance(fact, Void), error=str(error))
        self._retry_later()

    def _retry_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._spawn(self._settle_rest())

    async def _settle_rest(self) -> None:
        """Try again what failed, in order, until all is confirmed."""
        try:
            while self._unsettled:
                await asyncio.sleep(SETTLE_RETRY_S)
                if self._link.ready:
                    for event_id, fact in list(self._unsettled.items()):
                        await self._settle(event_id, fact)
        finally:
            self._retrying = False

    def resettle(self, event: UsageEvent) -> None:
        """Report a call that a journal holds; harmless where it was reported before."""
        self.tell(event.event_id, event)

    async def resettle_all(self, calls: Iterable[UsageEvent]) -> None:
        """Report many, a few at a time, however long Redis is away: none is dropped, and live calls go on.

        Returns when Redis has confirmed all of them.
        """
        self._retelling += 1
        told: list[UUID] = []
        for event in calls:
            while len(self._unsettled) >= RETOLD_WAITING_MAX:
                await self._confirmation()
            self.resettle(event)
            told.append(event.event_id)
            if len(told) == RETOLD_AT_ONCE:
                await self._confirmed(told)
                told.clear()
                await asyncio.sleep(RETOLD_PAUSE_S)
        await self._confirmed(told)
        self._retelling -= 1

    async def _confirmed(self, event_ids: Iterable[UUID]) -> None:
        for event_id in event_ids:
            while event_id in self._unsettled:
                await self._confirmation()

    async def _confirmation(self) -> None:
        self._room.clear()
        await self._room.wait()


def _settling(event_id: UUID, fact: UsageEvent | Void, payload: bytes = b"") -> tuple[tuple[str, ...], list[Bytes]]:
    """Keys and arguments of shared/lua/settle.lua. `payload`: the event, where it has been encoded already."""
    account = names(fact.account_id)
    if isinstance(fact, Void):
        return account.settle, [account.text, str(event_id), 0, b"", ""]
    kind = redis_keys.LOST if fact.lost else ""
    return account.settle, [account.text, str(event_id), fact.charge_mc, payload or events.encode(fact), kind]
