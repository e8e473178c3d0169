"""Corrects what was booked without a price, once its price has come.

An event that the meter could not price waits in `unpriced_events`, queued in the transaction that booked it, and is
looked at once for each price version. Its correction, the end of its waiting and what Redis must be told are one
transaction under the account's lock; the book `price_corrections` has one row at most per record. So whatever crashes,
and however many meters look at once, a record is corrected once. An event has a second record where it was booked as
lost first: then the first waits no more, and the second may (see meter.posting).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from meter import books, metrics
from meter.correction_posting import Correction, CorrectionPosting, Unpriced, correction, post_corrections
from meter.database import is_data_fault, transaction
from meter.queries import QUERIES
from meter.tariffs import Tariffs
from shared.usage import Usage

CORRECTIONS_MAX: Final = 200
"""Events that wait for a price and are looked at in one transaction."""

_DUE_CORRECTIONS: Final = QUERIES["due_corrections"]
_CORRECTED_EVENTS: Final = QUERIES["corrected_events"]
_DEQUEUE_UNPRICED: Final = QUERIES["dequeue_unpriced"]
_NOTE_TRIED: Final = QUERIES["note_tried"]
_ANNOUNCE_ACCOUNTS: Final = QUERIES["announce_accounts"]
_NOTIFY_PROJECTION: Final = QUERIES["notify_projection"]

_decode_usage = msgspec.json.Decoder(Usage).decode

log = structlog.get_logger()


class Corrections:
    """Corrects the events of some shards."""

    def __init__(self, pool: Any, tariffs: Tariffs, shards: Sequence[int]) -> None:
        self._pool = pool
        self._tariffs = tariffs
        self._shards = list(shards)

    async def correct(self) -> bool:
        """Look at events that the newest price version has not been tried on; True where there may be more.

        Raises asyncpg's errors.
        """
        rows = await self._pool.fetch(_DUE_CORRECTIONS, self._shards, CORRECTIONS_MAX)
        if not rows:
            return False
        version = rows[0]["price_version"]
        due = sorted(map(_unpriced, rows), key=_key)
        async with self._pool.acquire() as connection:
            tariff = await self._tariffs.holding(connection, {version}, {event.card for event in due})
        found = {event.event_id: correction(event, version, tariff.models[version], tariff.cards) for event in due}
        without = [_key(event) for event in due if found[event.event_id] is None]
        if without:
            await self._pool.execute(_NOTE_TRIED, version, *books.columns(without))
        priced = [one for one in found.values() if one is not None]
        if priced:
            try:
                await self._post(priced)
            except Exception as error:
                if not is_data_fault(error):
                    raise
                await self._post_singly(priced)
        return len(rows) == CORRECTIONS_MAX

    async def _post(self, corrections: Sequence[Correction]) -> None:
        async with transaction(self._pool) as connection:
            account_ids = {one.event.account_id for one in corrections}
            keys = [_key(one.event) for one in corrections]
            accounts, now_us = await books.lock(connection, account_ids)
            rows = await connection.fetch(_CORRECTED_EVENTS, *books.columns(keys))
            corrected = {(row["event_id"], row["late"]) for row in rows}
            posting = post_corrections(corrections, accounts, corrected, now_us)
            await books.write(connection, posting.rows, accounts.values())
            refused = [_key(one.correction.event) for one in posting.refused]
            if refused:
                await connection.execute(_NOTE_TRIED, corrections[0].price_version, *books.columns(refused))
            if done := [key for key in keys if key not in refused]:
                await connection.execute(_DEQUEUE_UNPRICED, *books.columns(done))
            await connection.execute(_ANNOUNCE_ACCOUNTS, list(account_ids))
            await connection.execute(_NOTIFY_PROJECTION)
        _tell(posting)

    async def _post_singly(self, corrections: Iterable[Correction]) -> None:
        """Find the correction that the books cannot take, and let its event wait for the next price."""
        for one in corrections:
            try:
                await self._post([one])
            except Exception as error:
                if not is_data_fault(error):
                    raise
                log.exception("correction refused", event_id=str(one.event.event_id))
                await self._pool.execute(_NOTE_TRIED, one.price_version, *books.columns([_key(one.event)]))
                metrics.CORRECTIONS.labels(result="failed").inc()


def _key(event: Unpriced) -> tuple[UUID, UUID, bool]:
    return event.account_id, event.event_id, event.late


def _tell(posting: CorrectionPosting) -> None:
    for one in posting.posted:
        result = "same" if not one.amount_mc else "cheaper" if one.amount_mc > 0 else "dearer"
        metrics.CORRECTIONS.labels(result=result).inc()
    for refused in posting.refused:
        log.error("correction refused", event_id=str(refused.correction.event.event_id), reason=refused.reason)
        metrics.CORRECTIONS.labels(result="failed").inc()
    if posting.posted:
        log.info("charges corrected", events=len(posting.posted), price_version=posting.posted[0].price_version)


def _unpriced(row: Any) -> Unpriced:
    fields = dict(row)
    del fields["price_version"]
    return Unpriced(**fields | {"usage": _decode_usage(fields["usage"])})
