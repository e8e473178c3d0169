"""Holds in Redis: reserve before a call, extend while it streams, settle or void after it. Each is closed once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from uuid import UUID

import structlog

from gateway import metrics
from gateway.admission import Call
from gateway.bounds import Bounds, affordable_tokens
from gateway.identity import Caller
from gateway.redis_link import RedisAnswerError, RedisAwayError, RedisLink
from gateway.refusals import Refusal
from shared import events, ids, redis_keys
from shared.events import AccountSeen, UsageEvent
from shared.units import format_credits

PLANS_KNOWN_MAX: Final = 100_000
"""Accounts whose plan is remembered because it is not their key's plan."""
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


class PlanDiffersError(Exception):
    """The account has another plan than assumed: price the call again."""

    def __init__(self, plan: str) -> None:
        super().__init__(plan)
        self.plan = plan


class ExhaustedError(Exception):
    """The credit does not cover what was asked for."""

    def __init__(self, spendable_mc: int) -> None:
        super().__init__(spendable_mc)
        self.spendable_mc = spendable_mc


class Hold:
    """Credit set aside for one running call."""

    def __init__(self, call: Call, bounds: Bounds, held_mc: int, mode: str, draft: UsageEvent) -> None:
        self.call = call
        self.bounds = bounds
        self.held_mc = held_mc
        self.mode = mode
        self.draft = draft
        """The event that is booked if this process dies now."""
        self.exhausted = False
        """More was refused, and what is held is used up."""
        self.closing = False
        """Somebody is closing this call: nobody else may."""
        self.closed = False

    @property
    def output_tokens(self) -> int:
        """How much output the hold covers, over all choices."""
        return affordable_tokens(self.bounds, self.held_mc)

    @property
    def capped(self) -> bool:
        """The hold covers less than the answer may be, and nothing but the upstream can end it in time."""
        return self.mode == "enforce" and not self.bounds.stoppable and self.held_mc < self.bounds.full_mc


class Budget:
    """The gateway's side of the projection. Raises Refusal `not_ready` while Redis is away."""

    def __init__(
        self, link: RedisLink, *, ttl_s: int, stream_entries_max: int, spawn: Callable[[Awaitable[Any]], object]
    ) -> None:
        self._link = link
        self._ttl_s = ttl_s
        self._stream_entries_max = stream_entries_max
        self._spawn = spawn
        self._plans: OrderedDict[UUID, str] = OrderedDict()
        self.running: dict[UUID, Hold] = {}
        """Holds that are open: calls between their reservation and their close."""
        self.idle = asyncio.Event()
        """Set while no hold is open."""
        self.idle.set()
        self._unsettled: OrderedDict[UUID, UsageEvent | Call] = OrderedDict()
        self._settling = False
        self._retelling = 0
        self._room = asyncio.Event()
        """Set whenever a closed call has been confirmed."""
        self.dropped = 0
        """Closed calls that were dropped from memory: only the journal has them, until it is told again."""

    @property
    def owing(self) -> bool:
        """Redis may lack a call that the journal holds."""
        return bool(self._unsettled or self.running or self._retelling or self.dropped)

    @property
    def unsettled(self) -> int:
        """Closed calls that Redis has not confirmed yet."""
        return len(self._unsettled)

    def plan_of(self, call_plan: str, account_id: UUID) -> str:
        """The plan to price with: the account's if it is known to differ, else the key's."""
        return self._plans.get(account_id, call_plan)

    async def refuse_blocked(self, caller: Caller) -> None:
        """For requests that hold nothing: one look at the account, which need not exist.

        Raises Refusal `account_blocked`, `not_ready`.
        """
        try:
            epoch = self._link.send("EXISTS", redis_keys.epoch(caller.shard))
            status = self._link.send("HGET", redis_keys.account(caller.shard, caller.account_id), "status")
            known, status_now = await asyncio.gather(epoch, status)
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("look_failed", error=str(error))
            raise Refusal("not_ready") from error
        if not known:
            raise Refusal("not_ready")  # Redis may have forgotten who is blocked
        if status_now not in (None, b"active"):
            raise Refusal("account_blocked")

    async def reserve(self, call: Call, bounds: Bounds, draft: UsageEvent, allowance_mc: int) -> Hold:
        """Hold credit for a call.

        Raises PlanDiffersError, ExhaustedError, and Refusal `account_blocked`, `unknown_account`, `not_ready`.
        """
        caller, shard = call.caller, call.caller.shard
        account = str(caller.account_id)  # text once: it stands in every key
        seen = b""
        if caller.external_id:
            seen = events.encode(
                AccountSeen(
                    account_id=caller.account_id,
                    directory_id=caller.key.directory_id,
                    external_id=caller.external_id,
                    plan=call.rates.plan,
                    allowance_mc=allowance_mc,
                    seen_at_us=call.started_at_us,
                    email=caller.labels.email,
                    name=caller.labels.name,
                    role=caller.labels.role,
                )
            )
        keys = (
            redis_keys.epoch(shard),
            redis_keys.account(shard, account),
            redis_keys.holds(shard, account),
            redis_keys.deadlines(shard),
            redis_keys.usage_stream(shard),
        )
        arguments = (
            account,
            str(call.event_id),
            call.rates.plan,
            bounds.slice_mc if bounds.stoppable else bounds.full_mc,
            bounds.slice_mc,
            bounds.least_mc,
            self._ttl_s,
            self._stream_entries_max,
            events.encode(draft),
            seen,
            allowance_mc,
        )
        try:
            verdict, *facts = await self._link.run("reserve", keys, arguments)
        except asyncio.CancelledError:
            self._enqueue(call.event_id, call)  # the client left: whatever was held is given back
            raise
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("reserve_failed", error=str(error))
            if isinstance(error, RedisAwayError):
                self._enqueue(call.event_id, call)  # the hold may stand, only its answer was lost: it is given back
            raise Refusal("not_ready") from error
        match verdict:
            case b"ok":
                hold = Hold(call, bounds, facts[0], facts[2].decode(), draft)
                self.running[call.event_id] = hold
                self.idle.clear()
                return hold
            case b"plan":
                self._remember_plan(caller.account_id, facts[0].decode())
                raise PlanDiffersError(facts[0].decode())
            case b"exhausted":
                raise ExhaustedError(facts[0])
            case b"blocked":
                raise Refusal("account_blocked")
            case b"unknown":
                raise Refusal("unknown_account")
            case _:
                log.warning("admission_closed", reason=verdict.decode(), shard=shard)
                raise Refusal("not_ready")

    async def extend(self, hold: Hold, more_mc: int) -> bool:
        """Keep a hold alive, note its draft, hold more. False: the credit does not suffice.

        One that expired while this process slept, or that Redis has forgotten, is made again: others of the account
        must see it. While Redis is away the answer is True: running streams finish.
        """
        try:
            verdict, *facts = await self._extend(hold, more_mc)
            if verdict == b"gone" and not hold.closing:  # one that is being closed must not come back behind its close
                verdict, *facts = await self._extend(hold, more_mc, again_mc=hold.held_mc)
                metrics.HOLDS_AGAIN.inc(verdict != b"gone")
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("extend_failed", error=str(error))
            return True
        if verdict != b"gone":
            hold.held_mc = facts[0]
        return bool(verdict != b"refused")

    async def _extend(self, hold: Hold, more_mc: int, *, again_mc: int | None = None) -> list[Any]:
        caller, shard = hold.call.caller, hold.call.caller.shard
        keys = (
            redis_keys.account(shard, caller.account_id),
            redis_keys.holds(shard, caller.account_id),
            redis_keys.deadlines(shard),
            redis_keys.unposted(shard, caller.account_id),
            redis_keys.epoch(shard),
        )
        arguments = (
            str(caller.account_id),
            str(hold.call.event_id),
            more_mc,
            self._ttl_s,
            hold.draft.charge_mc,
            events.encode(hold.draft),
            "" if again_mc is None else again_mc,
        )
        return await self._link.run("extend", keys, arguments)

    async def keep_alive(self) -> None:
        """Renew every open hold, twice within its time to live, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            if self._link.ready:
                await self.renew()

    async def renew(self) -> None:
        """Keep every open hold alive, and make those again that are gone."""
        await asyncio.gather(*(self.extend(hold, 0) for hold in list(self.running.values())))

    def settle(self, hold: Hold, event: UsageEvent) -> None:
        """Report a closed call, now or as soon as Redis is back. Its S record is on disk already."""
        self._close(hold, event)

    def void(self, hold: Hold) -> None:
        """Give a hold back: the call came to nothing."""
        self._close(hold, hold.call)

    def resettle(self, event: UsageEvent) -> None:
        """Report a call that a journal holds; harmless where it was reported before."""
        self._enqueue(event.event_id, event)

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

    def _close(self, hold: Hold, fact: UsageEvent | Call) -> None:
        assert not hold.closed, "a hold is closed once"
        hold.closed = True
        del self.running[hold.call.event_id]
        if not self.running:
            self.idle.set()
        self._enqueue(hold.call.event_id, fact)

    def _enqueue(self, event_id: UUID, fact: UsageEvent | Call) -> None:
        if len(self._unsettled) >= UNSETTLED_MAX:
            # Its record is in the journal, which is told again when Redis is back.
            dropped, _ = self._unsettled.popitem(last=False)
            self.dropped += 1
            self._room.set()
            log.error("unsettled_overflow", event_id=str(dropped), limit=UNSETTLED_MAX)
        self._unsettled[event_id] = fact
        self._spawn(self._settle(event_id, fact))

    async def _settle(self, event_id: UUID, fact: UsageEvent | Call) -> None:
        """One attempt. What fails stays in `_unsettled` for `settle_rest`."""
        void = isinstance(fact, Call)
        account_id = fact.caller.account_id if isinstance(fact, Call) else fact.account_id
        shard, account = ids.shard_of(account_id), str(account_id)
        keys = (
            redis_keys.account(shard, account),
            redis_keys.holds(shard, account),
            redis_keys.unposted(shard, account),
            redis_keys.deadlines(shard),
            redis_keys.usage_stream(shard),
        )
        charge_mc = 0 if isinstance(fact, Call) else fact.charge_mc
        payload = b"" if isinstance(fact, Call) else events.encode(fact)
        kind = redis_keys.LOST if isinstance(fact, UsageEvent) and fact.lost else ""
        try:
            await self._link.run("settle", keys, (account, str(event_id), charge_mc, payload, kind))
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("settle_failed", event_id=str(event_id), void=void, error=str(error))
            self._retry_later()
            return
        self._unsettled.pop(event_id, None)
        self._room.set()

    def _retry_later(self) -> None:
        if not self._settling:
            self._settling = True
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
            self._settling = False

    def _remember_plan(self, account_id: UUID, plan: str) -> None:
        self._plans[account_id] = plan
        self._plans.move_to_end(account_id)
        if len(self._plans) > PLANS_KNOWN_MAX:
            self._plans.popitem(last=False)


def exhausted(error: ExhaustedError, credits_url: str, language: str) -> Refusal:
    """The refusal of a call whose exact cost does not fit."""
    link = f" {credits_url}" if credits_url else ""
    return Refusal("credit_exhausted", balance=format_credits(max(0, error.spendable_mc), language), link=link)
