"""The loop of one shard: read, post, tell Redis, acknowledge. Each step may be repeated from any earlier one.

A batch goes wrong in one of three ways
  slow down   Postgres or Redis is away, busy or full: the same entries are tried again, later, and in smaller parts
              where a statement or a lock took too long
  poison      the rows are at fault: the batch is halved until one entry is left, which is put away
  the meter   everything looks like poison: the reader stops and a person is called, before all is put away
"""

import asyncio
import time
from typing import Final

import structlog

from meter import metrics
from meter.database import is_data_fault, is_too_slow
from meter.health import Health
from meter.ledger import Ledger, PoisonedStreamError
from meter.posting import DeadLetter, Entry, Posting, dead_letter
from meter.projection import Projection
from meter.rounds import Retries, passing
from meter.stream import BATCH_ENTRIES_MAX, Batch, ShardStream

POISON_RUN_MAX: Final = 100
"""Entries in a row that may turn out unbookable before the reader stops: one mistake must not empty a stream."""

log = structlog.get_logger()


class Reader:
    """Reads one shard's stream and books it."""

    def __init__(
        self,
        shard: int,
        stream: ShardStream,
        ledger: Ledger,
        projection: Projection,
        health: Health,
        stop: asyncio.Event,
    ) -> None:
        self._shard = shard
        self._stream = stream
        self._ledger = ledger
        self._projection = projection
        self._marks = projection.marks
        self._stop = stop
        self._health = health
        self._task = f"reader {shard}"
        self._retries = Retries(self._task, health, stop)
        self._rejoin = True
        self._claim_at_s = 0.0
        self._poison_run = 0
        self._part_entries = BATCH_ENTRIES_MAX
        self._told = 0
        """Entries of the stream that Postgres has dealt with, as Redis was told or this reader has seen."""

    async def run(self) -> None:
        """Until told to stop. A batch that has been read is finished first."""
        while not self._stop.is_set():
            try:
                batch = await self._next_batch()
                if batch.entry_ids:
                    with metrics.BATCH_SECONDS.labels(step="post").time():
                        postings = await self._post_in_parts(batch)
                    with metrics.BATCH_SECONDS.labels(step="apply").time():
                        await self._marks.tell_booked(self._shard, self._told)
                        for posting in postings:
                            await self._projection.apply(posting.accounts.values(), posting.reported)
                    with metrics.BATCH_SECONDS.labels(step="finish").time():
                        await self._stream.finish(batch.entry_ids)
            except PoisonedStreamError as reason:
                self._health.ill(self._task, str(reason))
                metrics.SHARDS_STOPPED.inc()
                log.critical("reader stopped", shard=self._shard, reason=str(reason))
                return
            except Exception as error:
                if not passing(error):
                    raise
                self._rejoin = True
                await self._retries.failed(error)
            else:
                self._retries.succeeded()

    async def _next_batch(self) -> Batch:
        """What this consumer still owes comes first, then what others left behind, then what nobody has read."""
        if self._rejoin:
            await self._stream.join()
            batch = await self._stream.own_pending()
            if batch.entry_ids:
                return batch
            await self._stream.trim()  # whoever acknowledged last may have been killed before it could
            self._rejoin = False
        now_s = time.monotonic()
        if now_s >= self._claim_at_s:
            batch = await self._stream.abandoned()
            if batch.entry_ids:
                return batch
            self._claim_at_s = now_s + self._stream.claim_idle_ms / 2000
        return await self._stream.following()

    async def _post_in_parts(self, batch: Batch) -> list[Posting]:
        """Commit a batch: whole, or in ever smaller parts while Postgres takes too long over them.

        Parts grow again after a whole batch only: what is repeated costs little, and would let them grow too early.
        """
        size = self._part_entries
        self._told = await self._marks.booked(self._shard)
        postings: list[Posting] = []
        unreadable = batch.unreadable
        for start in range(0, max(1, len(batch.entries)), size):
            part = batch.entries[start : start + size]
            try:
                postings += await self._post(part, unreadable)
            except Exception as error:
                if is_too_slow(error):
                    self._part_entries = max(1, len(part) // 2)
                raise
            unreadable = []
        self._part_entries = min(BATCH_ENTRIES_MAX, 2 * size)
        return postings

    async def _post(self, entries: list[Entry], unreadable: list[DeadLetter]) -> list[Posting]:
        """Commit them, in as many parts as it takes to find those that cannot be booked."""
        try:
            posting = await self._ledger.post(
                self._shard, entries, unreadable, dead_max=POISON_RUN_MAX - self._poison_run, told=self._told
            )
        except Exception as error:
            if not entries or not is_data_fault(error):
                raise
            if len(entries) == 1:
                return await self._post([], [*unreadable, dead_letter(entries[0], f"{type(error).__name__}: {error}")])
            middle = len(entries) // 2
            return [*await self._post(entries[:middle], unreadable), *await self._post(entries[middle:], [])]
        self._told = max(self._told, posting.position)
        self._poison_run = 0 if posting.booked or posting.repeated else self._poison_run + len(posting.dead)
        metrics.count(posting)
        for letter in posting.dead:
            log.error("entry set aside", shard=self._shard, entry=letter.entry_id, reason=letter.reason)
        return [posting]
