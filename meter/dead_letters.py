"""Deals with dead letters as people order it: tries an entry again, or lets it go. Only the meter does either.

An order is one of
  requeue, and the entry can be booked now, or is      → booked, in the transaction that says so
  requeue, and it cannot                               → kept, with the new reason
  discard                                              → its charge leaves unposted; a repeat is passed over
  discard, of a call that has been booked meanwhile    → not let go, but booked: the charge stands, and it says so
  of a letter that is closed                           → refused

An order leaves its queue when Redis has been told; until then the whole may be repeated, by this meter or another.
"""

from collections.abc import Sequence
from typing import Any, Final

import structlog

from meter import books, metrics
from meter.database import is_data_fault, transaction
from meter.ledger import Ledger
from meter.posting import DeadLetter, shown
from meter.projection import Projection
from meter.queries import QUERIES
from meter.stream import read
from shared import redis_keys

CHANNEL: Final = "sundial_dead_letters"
"""Notified by whoever queues an order about a dead letter."""
ALREADY_BOOKED: Final = "its call has been booked meanwhile: the charge stands, and the letter is closed"
LETTERS_MAX: Final = 100
"""Orders about dead letters in one round."""

_QUEUED: Final = QUERIES["queued_dead_letter_orders"]
_TAKE: Final = QUERIES["take_dead_letter_order"]
_CLOSING: Final = QUERIES["closing_of_dead_letter"]
_INSERT_OUTCOME: Final = QUERIES["insert_dead_letter_outcome"]
_ANNOUNCE_ACCOUNTS: Final = QUERIES["announce_accounts"]
_ALONE_WITH_UNKNOWN: Final = QUERIES["alone_with_unknown_accounts"]
_DEQUEUE: Final = QUERIES["dequeue_dead_letter_order"]

log = structlog.get_logger()


class DeadLetters:
    """Answers the orders about the dead letters of some shards."""

    def __init__(self, pool: Any, ledger: Ledger, projection: Projection, shards: Sequence[int]) -> None:
        self._pool = pool
        self._ledger = ledger
        self._projection = projection
        self._shards = list(shards)

    async def answer(self) -> bool:
        """Do what is queued; True where there may be more. Raises asyncpg's and redis-py's errors."""
        rows = await self._pool.fetch(_QUEUED, self._shards, LETTERS_MAX)
        for row in rows:
            outcome = await self._outcome(row)
            if outcome in ("booked", "discarded"):
                await self._tell(row, outcome)
            await self._pool.execute(_DEQUEUE, row["order_id"])
        return len(rows) == LETTERS_MAX

    async def _outcome(self, row: Any) -> str:
        """What has become of the order, by this meter or whoever came first."""
        try:
            return await self._close(row)
        except Exception as error:
            if not is_data_fault(error):
                raise
            return await self._close(row, shown(f"{type(error).__name__}: {error}"))

    async def _close(self, row: Any, fault: str = "") -> str:
        """One transaction; `fault` is why an earlier one was undone."""
        async with transaction(self._pool) as connection:
            known = await connection.fetchrow(_TAKE, row["order_id"])
            if known is None:
                return "answered"
            if known["outcome"] is not None:
                return str(known["outcome"])
            closed = await connection.fetchval(_CLOSING, row["letter_id"])
            if closed is not None:
                outcome, detail = "refused", f"it is {closed} already"
            elif row["action"] == "discard":
                detail = ALREADY_BOOKED if await self._is_booked(connection, row) else ""
                outcome = "booked" if detail else "discarded"
            else:
                detail = fault or await self._book(connection, row)
                outcome = "kept" if detail else "booked"
            await connection.execute(_INSERT_OUTCOME, row["order_id"], row["letter_id"], outcome, detail)
        metrics.DEAD_LETTER_ORDERS.labels(outcome=outcome).inc()
        log.info("dead letter dealt with", letter=str(row["letter_id"]), outcome=outcome, detail=detail)
        return outcome

    async def _book(self, connection: Any, row: Any) -> str:
        """Why it cannot be booked, or nothing where it is."""
        entry = read(row["entry_id"], row["payload"])
        if isinstance(entry, DeadLetter):
            return entry.reason
        posting = await self._ledger.book(connection, [entry])
        if posting.dead:
            return posting.dead[0].reason
        # Redis is told directly, too: the announcement is what its mark counts (meter.marks).
        await connection.execute(_ANNOUNCE_ACCOUNTS, list(posting.accounts))
        metrics.count(posting)
        return ""

    async def _is_booked(self, connection: Any, row: Any) -> bool:
        """Whether the letter's record is booked, from a journal perhaps; until the transaction ends nobody books it.

        Its account is locked; where there is none yet, so is the opening of accounts.
        """
        account_id, event_id = row["account_id"], row["event_id"]
        if account_id is None or event_id is None:
            return False
        accounts, _ = await books.lock(connection, [account_id])
        if not accounts:
            await connection.execute(_ALONE_WITH_UNKNOWN)
            await books.lock(connection, [account_id])
        standing = (await books.known_events(connection, [(account_id, event_id)])).events.get(event_id)
        # What is booked as lost is no truth: a true record is let go, and what was lost stands.
        return standing is not None and (row["lost"] or not standing.lost)

    async def _tell(self, row: Any, outcome: str) -> None:
        account_id = row["account_id"]
        if account_id is None:
            return
        posted: dict[Any, list[str]] = {}
        if row["event_id"] is not None:
            posted[account_id] = [redis_keys.unposted_field(row["event_id"], lost=row["lost"])]
        # Of what was discarded nothing is booked, and its account may be none.
        await self._projection.apply_by_id([account_id] if outcome == "booked" else [], posted)
