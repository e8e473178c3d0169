"""Holds in Redis: reserve before a call, extend while it streams, settle or void after it. Each is closed once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog

from gateway import metrics
from gateway.account_names import names_by_text
from gateway.admission import Call
from gateway.bounds import Bounds, affordable_tokens
from gateway.identity import Caller
from gateway.redis_link import RedisLink
from gateway.redis_wire import RedisAnswerError, RedisAwayError
from gateway.refusals import Refusal
from gateway.settling import Settling, Void
from shared import events, redis_keys
from shared.events import AccountSeen, UsageEvent
from shared.units import format_credits

PLANS_KNOWN_MAX: Final = 100_000
"""Accounts whose plan is remembered because it is not their key's plan."""

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


class Hold(msgspec.Struct, eq=False):
    """Credit set aside for one running call."""

    call: Call
    bounds: Bounds
    held_mc: int
    mode: str
    draft: UsageEvent
    """The event that is booked if this process dies now."""
    noted: bytes
    """The same as the journal and Redis keep it."""
    exhausted: bool = False
    """More was refused, and what is held is used up."""
    closing: bool = False
    """Somebody is closing this call: nobody else may."""
    closed: bool = False
    recorded: bool = False
    """The journal has its close."""
    charge_mc: int = 0
    """What it was closed at."""
    unheld: bool = False
    """It went on while Redis could not be asked for more: nothing bounds what it may cost."""

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
        self._plans: OrderedDict[str, str] = OrderedDict()
        """Of accounts, by their id, whose plan is not their key's."""
        self.running: dict[str, Hold] = {}
        """Holds that are open, by the event's id: calls between their reservation and their close."""
        self._ended: asyncio.Event | None = None
        """Set when no hold is open any more, where somebody waits for that."""
        self.closed = Settling(link, spawn)
        """Calls that were closed, until Redis has confirmed them."""

    @property
    def owing(self) -> bool:
        """Redis may lack a call that the journal holds."""
        return bool(self.running) or self.closed.owing

    async def idle(self) -> None:
        """Wait until no hold is open."""
        while self.running:
            if self._ended is None:
                self._ended = asyncio.Event()
            await self._ended.wait()

    def plan_of(self, caller: Caller) -> str:
        """The plan to price with: the account's if it is known to differ, else the key's."""
        return self._plans.get(caller.account_text, caller.key.plan)

    async def learn_plan(self, caller: Caller) -> bool:
        """Ask for the account's plan, where its key's, or one that it had, refuses something. True: it is another one
        than `plan_of` said, and is known now.

        Raises Refusal `not_ready`.
        """
        try:
            told = await self._link.send("HGET", redis_keys.account(caller.shard, caller.account_id), "plan")
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("look_failed", error=str(error))
            raise Refusal("not_ready") from error
        if not told or told.decode() == self.plan_of(caller):
            return False
        self._remember_plan(caller, told.decode())
        return True

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
        caller, noted = call.caller, events.encode(draft)
        account = names_by_text(caller.account_text)
        amounts = (
            call.event_text,
            call.rates.plan,
            bounds.slice_mc if bounds.stoppable else bounds.full_mc,
            bounds.slice_mc,
            bounds.least_mc,
            self._ttl_s,
            self._stream_entries_max,
            noted,
        )
        run, keys = self._link.run, account.reserve
        try:
            verdict, *facts = await run("reserve", keys, (*amounts, "?" if caller.external_id else "", allowance_mc))
            if verdict == b"announce":  # the user's first call; no other one carries it
                seen = _announcement(call, allowance_mc)
                verdict, *facts = await run("reserve", keys, (*amounts, seen, allowance_mc))
        except asyncio.CancelledError:
            # The client left: whatever was held is given back.
            self.closed.tell(call.event_text, account, Void(caller.account_id))
            raise
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("reserve_failed", error=str(error))
            if isinstance(error, RedisAnswerError):
                self._link.refused(error)
            else:  # the hold may stand, only its answer was lost: it is given back
                self.closed.tell(call.event_text, account, Void(caller.account_id))
            raise Refusal("not_ready") from error
        match verdict:
            case b"ok":
                hold = Hold(call, bounds, facts[0], facts[2].decode(), draft, noted)
                self.running[call.event_text] = hold
                return hold
            case b"plan":
                self._remember_plan(caller, facts[0].decode())
                raise PlanDiffersError(facts[0].decode())
            case b"exhausted":
                raise ExhaustedError(facts[0])
            case b"blocked":
                raise Refusal("account_blocked")
            case b"unknown":
                raise Refusal("unknown_account")
            case _:
                log.warning("admission_closed", reason=verdict.decode(), shard=caller.shard)
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
            hold.unheld = hold.unheld or more_mc > 0
            return True
        if verdict != b"gone":
            hold.held_mc = facts[0]
        elif more_mc:
            hold.unheld = True
        return bool(verdict != b"refused")

    async def _extend(self, hold: Hold, more_mc: int, *, again_mc: int | None = None) -> list[Any]:
        caller = hold.call.caller
        arguments = (
            hold.call.event_text,
            more_mc,
            self._ttl_s,
            hold.draft.charge_mc,
            hold.noted,
            "" if again_mc is None else again_mc,
        )
        return await self._link.run("extend", names_by_text(caller.account_text).extend, arguments)

    async def keep_alive(self) -> None:
        """Renew every open hold, twice within its time to live, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            if self._link.ready:
                await self.renew()

    async def renew(self) -> None:
        """Keep every open hold alive, and make those again that are gone."""
        await asyncio.gather(*(self.extend(hold, 0) for hold in list(self.running.values())))

    def settle(self, hold: Hold, fact: UsageEvent | Void, payload: bytes = b"") -> None:
        """Report how a call was closed, now or as soon as Redis is back: as an event, whose S record is on disk already
        (`payload` is what that says, where it is at hand), or as nothing."""
        assert not hold.closed, "a hold is closed once"
        hold.closed = True
        call = hold.call
        del self.running[call.event_text]
        if self._ended is not None and not self.running:
            self._ended.set()
            self._ended = None
        self.closed.tell(call.event_text, names_by_text(call.caller.account_text), fact, payload)

    def void(self, hold: Hold) -> None:
        """Give a hold back: the call came to nothing."""
        self.settle(hold, Void(hold.call.caller.account_id))

    def _remember_plan(self, caller: Caller, plan: str) -> None:
        if plan == caller.key.plan:
            self._plans.pop(caller.account_text, None)
            return
        self._plans[caller.account_text] = plan
        self._plans.move_to_end(caller.account_text)
        if len(self._plans) > PLANS_KNOWN_MAX:
            self._plans.popitem(last=False)


def _announcement(call: Call, allowance_mc: int) -> bytes:
    caller = call.caller
    return events.encode(
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


def exhausted(error: ExhaustedError, credits_url: str, language: str) -> Refusal:
    """The refusal of a call whose exact cost does not fit."""
    link = f" {credits_url}" if credits_url else ""
    return Refusal("credit_exhausted", balance=format_credits(max(0, error.spendable_mc), language), link=link)
