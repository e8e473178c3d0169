"""Tells Redis again what it may have forgotten, out of our journal and those of processes that ended in order.

A call that Redis has confirmed and then lost, before the meter could book it, is in a journal alone. The epoch of its
shard tells (shared.epochs):
  the same          nothing is lost
  missing           Redis has forgotten; admission is closed until the meter has set another one: judged then
  another origin    Redis had forgotten everything: all that the journal holds is told
  another one       it was restarted, or another server took its place: what was written of late is told
Repeats do no harm: the meter knows an event by its id. Only S records are told: what came to nothing (V) never reached
the stream, and running calls (D, C) will still be closed by whoever runs them. Their holds are made again at once.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from gateway import metrics
from gateway.budget import Budget
from gateway.journal import NO_SEGMENT, DeadJournal, Journal, dead_journals, number_of, read, segments
from gateway.redis_link import RedisLink
from gateway.redis_wire import RedisAnswerError, RedisAwayError
from shared import epochs, events, ids, redis_keys
from shared.events import UnreadableEntryError, UsageEvent

LOOK_S: Final = 1.0
"""Seconds between two looks at the epochs."""
DEAD_LOOK_S: Final = 60.0
"""Seconds between two looks at the journals of processes that ended in order."""
RESTART_LOSS_S_MAX: Final = 2 * 3600
"""How much a restart, or a replica that lags, may lose, in seconds: with the append-only file two seconds, with Redis's
own default of snapshots an hour."""

log = structlog.get_logger()


def lost(told: Sequence[str], present: Sequence[str], stood_at_s: float) -> dict[int, float]:
    """Shard → Unix time since which what was told may be lost, 0 for everything. Pure.

    `told`: the epochs in which it was told, which last stood at `stood_at_s`; '' where unknown. `present`: '' where one
    is missing.
    """
    found: dict[int, float] = {}
    for shard, now in enumerate(present):
        before = told[shard] if shard < len(told) else ""
        if now and now != before:
            same = bool(before) and epochs.origin_of(before) == epochs.origin_of(now)
            found[shard] = max(0.0, stood_at_s - RESTART_LOSS_S_MAX) if same else 0.0
    return found


def closed_calls(segment: Path, lost_since: Mapping[int, float]) -> list[UsageEvent]:
    """The S records of a segment that these shards may have lost: all of it or nothing, by when it was last written to,
    as a record may have been told long after its call."""
    try:
        written_s = segment.stat().st_mtime
        shards = {shard for shard, since_s in lost_since.items() if written_s >= since_s}
        payloads = [record[1] for record in read(segment) if record and record[0] == b"S"] if shards else []
    except FileNotFoundError:
        return []  # its age has removed it
    found = []
    for payload in payloads:
        try:
            event = events.decode(payload)
        except UnreadableEntryError as error:
            log.error("journal_record_unreadable", error=str(error))  # noqa: TRY400
            continue
        if isinstance(event, UsageEvent) and ids.shard_of(event.account_id) in shards:
            found.append(event)
    return found


class Retelling:
    """Looks at the epochs for as long as the gateway runs."""

    def __init__(self, link: RedisLink, budget: Budget, journal: Journal, home: Path) -> None:
        self._link = link
        self._budget = budget
        self._journal = journal
        self._home = home
        self._stood_at_s = 0.0
        self._dead_at_s = 0.0
        self._connected = asyncio.Event()
        self.needs_from = 0
        """Segments of our journal from this one on must stay: Redis may have lost what is in them."""
        self.told: list[str] = [""] * ids.SHARDS
        """The epochs in which all of our journal was told that is not being told now, by shard; '' where unknown."""

    async def start(self) -> None:
        """Note the epochs from which the first call sets out. What is unknown is told again when it is known."""
        self._link.on_connect.append(self._on_connect)
        try:
            self.told = await self._present()
        except (RedisAwayError, RedisAnswerError) as error:
            log.warning("epochs_unknown", error=str(error))
        self._stood_at_s = time.time()

    def _on_connect(self) -> None:
        self.needs_from = 0  # until it is known what this Redis has
        self._connected.set()

    async def keep(self) -> None:
        """A look each second and after each connection."""
        while True:
            try:
                await self._look()
            except RedisAwayError:
                self.needs_from = 0  # said by the link
            except RedisAnswerError as error:
                self.needs_from = 0
                log.error("retelling_refused", error=str(error))  # noqa: TRY400
            except OSError as error:
                log.error("retelling_failed", error=str(error))  # noqa: TRY400
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._connected.wait()
            except TimeoutError:
                pass
            self._connected.clear()

    async def _look(self) -> None:
        looked_at_s = time.time()
        present = await self._present()
        lost_since = lost(self.told, present, self._stood_at_s)
        dropped = self._budget.closed.dropped
        if dropped:
            lost_since = dict.fromkeys(range(ids.SHARDS), 0.0)
        if lost_since:
            self.needs_from = 0
            await self._budget.renew()
            await self._tell(self._journal.folder, lost_since)
            self.told = _merged(self.told, present)
            self._budget.closed.dropped -= dropped
        self._stood_at_s = looked_at_s
        self.needs_from = NO_SEGMENT if all(present) and not self._connected.is_set() else 0
        if lost_since or time.monotonic() >= self._dead_at_s:
            await self._tell_dead(present)
            self._dead_at_s = time.monotonic() + DEAD_LOOK_S

    async def _present(self) -> list[str]:
        """One command for each: in a cluster the shards are on several servers."""
        asked = [self._link.send("GET", redis_keys.epoch(shard)) for shard in range(ids.SHARDS)]
        return [one.decode() if one else "" for one in await asyncio.gather(*asked)]

    async def _tell(self, folder: Path, lost_since: Mapping[int, float]) -> None:
        """One segment in memory at a time. Returns when Redis has confirmed all."""
        told = 0
        for segment in segments(folder):
            if folder == self._journal.folder:
                self.needs_from = number_of(segment)  # those before it are told
            calls = await asyncio.to_thread(closed_calls, segment, lost_since)
            await self._budget.closed.resettle_all(calls)
            metrics.RETOLD.inc(len(calls))
            told += len(calls)
        if told:
            log.warning("told_again", journal=folder.name, calls=told, shards=len(lost_since))

    async def _tell_dead(self, present: Sequence[str]) -> None:
        """Those of processes that ended without order are told by who takes them over (`replay.py`). One that nobody
        has written to for a day goes."""
        left = dead_journals(self._home, but=self._journal.folder, settled=True)
        try:
            for dead in left:
                try:
                    if dead.outdated:
                        dead.remove()
                    else:
                        await self._tell_settled(dead, present)
                except OSError as error:
                    log.error("retelling_failed", journal=dead.folder.name, error=str(error))  # noqa: TRY400
                dead.release()
        finally:
            for dead in left:
                dead.release()

    async def _tell_settled(self, dead: DeadJournal, present: Sequence[str]) -> None:
        told = dead.told
        lost_since = lost(told, present, dead.told_at_s)
        if lost_since:
            await self._tell(dead.folder, lost_since)
            dead.mark(_merged(told, present))


def _merged(told: Sequence[str], present: Sequence[str]) -> list[str]:
    """A missing epoch leaves what was known: it is not told yet."""
    known = [*told, *[""] * len(present)]
    return [now or before for now, before in zip(present, known, strict=False)]
