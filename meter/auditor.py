"""Follows each account's chain of digests while the meter works: what was recorded since the last look, account by
account, in small pieces, so that posting never waits for it. One meter at a time does it, by an advisory lock.

It starts at the beginning of every chain, so the first rotation proves all of them, and of each transfer what must hold
beside its digest (meter.audit_steps). It remembers where each chain stood: so it also sees one that was written anew,
or cut off, while it runs. What it found is told until the meter restarts.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from meter import database, metrics
from meter.audit import wrong_booking
from meter.audit_chain import OF_ACCOUNT, RULE, Head, follow, step
from meter.audit_steps import STEP_RULES, usage_record, wrong_step
from meter.posting import recompute
from meter.tariffs import Tariffs
from shared.usage import Usage

ONCE: Final = "once"
CHARGES: Final = "charges"
AUDITED_RULES: Final = (RULE, *STEP_RULES, ONCE, CHARGES)
LOOK_ACCOUNTS_MAX: Final = 500
"""Accounts of one look: what stands in `balances` is compared with what was seen."""
LOOK_TRANSFERS_MAX: Final = 500
"""Transfers of one look that are recomputed, some 60 ms of work: more than that wait for the next."""
PIECE_TRANSFERS_MAX: Final = 100
"""Transfers that are recomputed at once, while nothing else runs in the meter."""
LOOK_S_MAX: Final = 30.0
"""Longest time of one look, in seconds: then the connection is given up."""

_LOCK: Final = 0x53554E444155  # "SUNDAU"
_NIL: Final = UUID(int=0)
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"
_BALANCES: Final = """
    SELECT account_id, seq, coalesce(digest, '') AS digest FROM sundial.balances
     WHERE account_id > $1 ORDER BY account_id LIMIT $2
"""
_BOOKED_TWICE: Final = """
    SELECT event_id FROM sundial.usage_events WHERE event_id = ANY ($1::uuid[]) GROUP BY event_id HAVING count(*) > 1
"""
_decode_usage = msgspec.json.Decoder(Usage).decode

log = structlog.get_logger()


class Auditor:
    def __init__(self, url: str, tariffs: Tariffs, *, transfers_max: int = LOOK_TRANSFERS_MAX) -> None:
        self._url = url
        self._tariffs = tariffs
        self._transfers_max = transfers_max
        self._connection: Any = None
        self._alone = False
        self._anew = False
        self._heads: dict[UUID, Head] = {}
        self._unseen: set[UUID] = set()
        """Accounts that this rotation has not come to."""
        self._after = _NIL
        self._found: dict[str, dict[UUID, str]] = {}
        self._forget()

    @property
    def broken(self) -> dict[UUID, str]:
        """What is wrong with chains, by account."""
        return dict(self._found[RULE])

    @property
    def found(self) -> dict[str, dict[UUID, str]]:
        """What is wrong, by rule and account: of each account the last that was found."""
        return {rule: dict(found) for rule, found in self._found.items() if found}

    def begin_anew(self) -> None:
        """Forget where the chains stood, and what was found, at the next look: Postgres was put back, which is told
        elsewhere."""
        self._anew = True

    def _forget(self) -> None:
        self._after = _NIL
        self._heads.clear()
        self._found = {rule: {} for rule in AUDITED_RULES}
        for rule in AUDITED_RULES:
            metrics.VIOLATIONS.labels(rule=rule).set(0)

    async def look(self) -> bool:
        """Look at the next accounts; a round of meter.rounds. Raises asyncpg's and OS errors."""
        if self._anew:
            self._anew = False
            self._forget()
        try:
            async with asyncio.timeout(LOOK_S_MAX):
                await self._look()
        except TimeoutError:
            self.cut_off()
            raise
        return False

    async def _look(self) -> None:
        if not await self._is_alone():
            return
        if self._after == _NIL:
            self._unseen = set(self._heads)
        broken = self._found[RULE]
        left = self._transfers_max
        rows = await self._connection.fetch(_BALANCES, self._after, LOOK_ACCOUNTS_MAX)
        for row in rows:
            account_id = UUID(bytes=row["account_id"].bytes)
            self._after = account_id
            self._unseen.discard(account_id)
            if account_id not in broken:
                left -= await self._follow(account_id, row["seq"], row["digest"], left)
            if left <= 0:
                return
        if len(rows) < LOOK_ACCOUNTS_MAX:
            self._after = _NIL
            for account_id in self._unseen - broken.keys():
                self._tell(RULE, account_id, f"it is gone: it stood at seq {self._heads[account_id].seq}")

    async def _follow(self, account_id: UUID, seq: int, digest: bytes, left: int) -> int:
        """Walk an account's chain on, by `left` transfers at most. Returns how many."""
        known = head = self._heads.get(account_id, Head())
        broken = ""
        if seq < head.seq:
            broken = f"seq {head.seq} is gone: its balance stands at seq {seq}, its tail was cut off"
        elif seq == head.seq and digest != head.digest:
            broken = f"seq {seq} has another digest than it had: the chain was written anew"
        while not broken and head.seq < seq and head.seq - known.seq < left:
            before = head
            rows_max = min(left, PIECE_TRANSFERS_MAX)
            rows = await self._connection.fetch(OF_ACCOUNT, account_id, head.seq, rows_max)
            head, broken = follow(head, rows, to_the_end=len(rows) < rows_max)
            if not broken and head == before:
                broken = f"its balance stands at seq {seq}, its transfers end at seq {head.seq}"
            await self._look_at_steps(account_id, before, rows)
        if broken:
            self._tell(RULE, account_id, broken)
        else:
            self._heads[account_id] = head
        metrics.AUDITED_TRANSFERS.inc(head.seq - known.seq)
        return head.seq - known.seq

    async def _look_at_steps(self, account_id: UUID, head: Head, rows: Sequence[Any]) -> None:
        """What must hold of each transfer beside its digest."""
        records = []
        for row in rows:
            for rule, detail in wrong_step(head, row):
                self._tell(rule, account_id, detail)
            head, _ = step(head, row)
            if record := usage_record(row):
                records.append(record)
        event_ids = [record["event_id"] for record in records]
        for row in await self._connection.fetch(_BOOKED_TWICE, event_ids) if event_ids else ():
            self._tell(ONCE, account_id, f"event {row['event_id']} is booked more than once")
        tariff = self._tariffs.at_hand()
        for record in records:
            version, card = record["price_version"], record["card"]
            if version in tariff.models and card in tariff.cards:
                charged = recompute(
                    tariff,
                    _decode_usage(record["usage"]),
                    record["evidence"],
                    record["priced_as"],
                    version,
                    card,
                    record["service_tier"],
                    record["flags"],
                )
                if detail := wrong_booking(record, charged):
                    self._tell(CHARGES, account_id, f"event {record['event_id']} {detail}")

    def _tell(self, rule: str, account_id: UUID, detail: str) -> None:
        self._found[rule][account_id] = detail
        metrics.VIOLATIONS.labels(rule=rule).set(len(self._found[rule]))
        log.critical("an invariant is broken", rule=rule, account=str(account_id), detail=detail)

    async def _is_alone(self) -> bool:
        """Whether this meter is the one that audits: as long as its connection lives."""
        if self._connection is None or self._connection.is_closed():
            self._alone = False
            self._connection = await database.connect(self._url)
            await database.speak_microseconds(self._connection)
        if not self._alone:
            self._alone = await self._connection.fetchval(_TRY_LOCK, _LOCK)
        return self._alone

    def cut_off(self) -> None:
        """End the connection at once, and so whatever waits for an answer on it."""
        if self._connection is not None:
            self._connection.terminate()

    async def aclose(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._connection.close(timeout=database.CLOSE_TIMEOUT_S)
