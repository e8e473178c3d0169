"""One batch of a shard's stream in one transaction: the commit point of money.

What a transaction does, whatever the size of the batch: lock the accounts and open those that are missing; read the
clock, the open grants and what is booked already; compute; append the rows, bring the caches up to date, put away what
cannot be booked, note how far the stream is booked. It may be repeated as often as one likes: what is booked is known
by its id, so an answer to COMMIT that is lost does no harm.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from meter import books
from meter.database import transaction
from meter.introductions import introductions
from meter.marks import check
from meter.posting import DeadLetter, Entry, Posting, post
from meter.queries import QUERIES
from meter.tariffs import Tariffs
from shared.events import UsageEvent

_INSERT_DEAD_LETTERS: Final = QUERIES["insert_dead_letters"]
_UPSERT_STREAM_POSITION: Final = QUERIES["upsert_stream_position"]


class PoisonedStreamError(Exception):
    """So many entries in a row cannot be booked that the fault must be the meter's or the tables', not the entries'."""


class Ledger:
    """Posts batches. One for all readers of a meter."""

    def __init__(self, pool: Any, tariffs: Tariffs) -> None:
        self._pool = pool
        self._tariffs = tariffs

    async def post(
        self,
        shard: int,
        entries: Sequence[Entry],
        unreadable: Sequence[DeadLetter] = (),
        *,
        dead_max: int = 0,
        told: int = 0,
    ) -> Posting:
        """Book `entries` and put `unreadable` away, all or nothing. Raises what asyncpg raises (see meter.database).

        Raises PoisonedStreamError, with nothing done, where more than `dead_max` dead letters and not one known or
        booked entry are what it comes to; LedgerBehindError where Postgres had dealt with fewer entries of the shard's
        stream than `told`, which Redis said before.
        """
        async with transaction(self._pool) as connection:
            posting = await self.book(connection, entries, unreadable)
            if len(posting.dead) > dead_max and not posting.booked and not posting.repeated:
                raise PoisonedStreamError(f"the last: {posting.dead[-1].reason}")
            dealt_with = {one.entry_id for one in entries} | {one.entry_id for one in unreadable}
            posting.position = await self._note(connection, shard, dealt_with, posting.dead)
            if dealt_with:
                check(f"entries of shard {shard}", posting.position - len(dealt_with), told)
        return posting

    async def book(self, connection: Any, entries: Sequence[Entry], unreadable: Sequence[DeadLetter] = ()) -> Posting:
        """Book `entries` within the caller's transaction; say which of them and of `unreadable` are dead letters."""
        messages = [entry.message for entry in entries]
        tariff = await self._tariffs.covering(connection, messages)
        accounts, now_us = await books.lock(connection, {message.account_id for message in messages})
        newcomers: set[UUID] = set()
        if unknown := introductions(messages, accounts):
            newcomers = await books.open_accounts(connection, unknown)
            opened, now_us = await books.lock(connection, {one.account_id for one in unknown})
            accounts.update(opened)
        events = [(message.account_id, message.event_id) for message in messages if type(message) is UsageEvent]
        events += [(one.account_id, one.event_id) for one in unreadable if one.account_id and one.event_id]
        known = await books.known_events(connection, events)
        known.newcomers |= newcomers
        posting = post(entries, accounts, known, tariff, now_us)
        for letter in unreadable:
            if letter.account_id and letter.event_id and known.discards(letter.event_id, lost=letter.lost):
                posting.repeated += 1
                posting.report(letter.account_id, letter.event_id, lost=letter.lost)
            else:
                posting.dead.append(letter)
        await books.write(connection, posting.rows, posting.accounts.values())
        return posting

    async def _note(self, connection: Any, shard: int, dealt_with: set[str], dead: Sequence[DeadLetter]) -> int:
        """Put dead letters away, and note the highest entry that is dealt with. Returns how many are by now."""
        if dead:
            rows = ((one.entry_id, one.reason, one.payload, one.account_id, one.event_id, one.lost) for one in dead)
            await connection.execute(_INSERT_DEAD_LETTERS, shard, *books.columns(rows))
        if dealt_with:
            newest = max(dealt_with, key=stream_order)
            return int(await connection.fetchval(_UPSERT_STREAM_POSITION, shard, newest, len(dealt_with)))
        return 0


def stream_order(entry_id: str) -> tuple[int, int]:
    """The order of entry ids: `milliseconds-number`, both as numbers."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
