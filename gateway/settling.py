"""Closed calls on their way to Redis: told at once, or as soon as it is back. None is forgotten, and none counts twice.

What waits is bounded, in memory; the journal has all of it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from gateway.account_names import AccountNames, names
from gateway.redis_link import RedisLink
from gateway.redis_wire import Bytes, RedisAnswerError, RedisAwayError
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


class _Telling(msgspec.Struct, eq=False):
    """Waits for Redis's answer to one closed call. No coroutine does, as it mostly says yes."""

    settling: "Settling"
    event_id: str
    fact: UsageEvent | Void

    def set_result(self, _: Any, /) -> None:
        self.settling.confirm(self.event_id)

    def set_exception(self, error: RedisAwayError | RedisAnswerError, /) -> None:
        self.settling.failed(self.event_id, self.fact, error)


class Settling:
    """Closed calls that Redis has not confirmed yet."""

    def __init__(self, link: RedisLink, spawn: Callable[[Awaitable[Any]], object]) -> None:
        self._link = link
        self._spawn = spawn
        self._unsettled: OrderedDict[str, UsageEvent | Void] = OrderedDict()
        """By the event's id."""
        self._retrying = False
        self._retelling = 0
        self._room: asyncio.Event | None = None
        """Set when the next closed call has been confirmed, where somebody waits for that."""
        self.dropped = 0
        """Closed calls that were dropped from memory: only the journal has them, until it is told again."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def __iter__(self) -> Iterator[str]:
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

    def tell(self, event_id: str, account: AccountNames, fact: UsageEvent | Void, payload: bytes = b"") -> None:
        """Tell Redis, now or as soon as it is back. `payload`: the event, where it is encoded already."""
        if len(self._unsettled) >= UNSETTLED_MAX:
            # Its record is in the journal, which is told again when Redis is back.
            dropped, _ = self._unsettled.popitem(last=False)
            self.dropped += 1
            self._say_room()
            log.error("unsettled_overflow", event_id=dropped, limit=UNSETTLED_MAX)
        self._unsettled[event_id] = fact
        telling = _Telling(self, event_id, fact)
        try:
            self._link.tell("settle", account.settle, _arguments(event_id, fact, payload), telling)
        except RedisAwayError as error:
            self._put_off(event_id, fact, error)

    def confirm(self, event_id: str) -> None:
        """Redis has it."""
        self._unsettled.pop(event_id, None)
        if self._room is not None:
            self._say_room()

    def failed(self, event_id: str, fact: UsageEvent | Void, error: RedisAwayError | RedisAnswerError) -> None:
        """Redis may not have it."""
        if isinstance(error, RedisAnswerError) and error.no_script:
            self._spawn(self._settle(event_id, fact))
        else:
            self._put_off(event_id, fact, error)

    async def _settle(self, event_id: str, fact: UsageEvent | Void) -> None:
        """One more attempt."""
        try:
            await self._link.run("settle", names(fact.account_id).settle, _arguments(event_id, fact))
        except (RedisAwayError, RedisAnswerError) as error:
            self._put_off(event_id, fact, error)
        else:
            self.confirm(event_id)

    def _put_off(self, event_id: str, fact: UsageEvent | Void, error: Exception) -> None:
        """It stays in `_unsettled`, for `_settle_rest`."""
        log.warning("settle_failed", event_id=event_id, void=isinstance(fact, Void), error=str(error))
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
        self.tell(str(event.event_id), names(event.account_id), event)

    async def resettle_all(self, calls: Iterable[UsageEvent]) -> None:
        """Report many, a few at a time, however long Redis is away: none is dropped, and live calls go on.

        Returns when Redis has confirmed all of them.
        """
        self._retelling += 1
        told: list[str] = []
        for event in calls:
            while len(self._unsettled) >= RETOLD_WAITING_MAX:
                await self._confirmation()
            self.resettle(event)
            told.append(str(event.event_id))
            if len(told) == RETOLD_AT_ONCE:
                await self._confirmed(told)
                told.clear()
                await asyncio.sleep(RETOLD_PAUSE_S)
        await self._confirmed(told)
        self._retelling -= 1

    async def _confirmed(self, event_ids: Iterable[str]) -> None:
        for event_id in event_ids:
            while event_id in self._unsettled:
                await self._confirmation()

    async def _confirmation(self) -> None:
        if self._room is None:
            self._room = asyncio.Event()
        await self._room.wait()

    def _say_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None


def _arguments(event_id: str, fact: UsageEvent | Void, payload: bytes = b"") -> tuple[Bytes, ...]:
    """Of shared/lua/settle.lua, behind the account. `payload`: the event, where it has been encoded already."""
    if isinstance(fact, Void):
        return event_id, 0, b"", ""
    return event_id, fact.charge_mc, payload or events.encode(fact), redis_keys.LOST if fact.lost else ""
