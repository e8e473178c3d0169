"""Writes a signed checkpoint each day into a folder outside of the database, where there is one.

One meter at a time makes it, by an advisory lock. Each meter's folder gets the day's file: also one that was made by
another meter or by the command with the same key, and one that could not be written before.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import structlog

from meter import checkpoints, metrics
from meter.audit_chain import CHECKPOINT_RULE

_LOCK: Final = 0x53554E444350  # "SUNDCP"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"
_UNLOCK: Final = "SELECT pg_advisory_unlock($1)"
_OF_TODAY: Final = """
    SELECT checkpoint_id, signature, public_key, statement FROM sundial.checkpoints
     WHERE created_at >= date_trunc('day', now(), 'UTC') AND public_key = $1
     ORDER BY checkpoint_id DESC
     LIMIT 1
"""

log = structlog.get_logger()


class DailyCheckpoint:
    def __init__(self, pool: Any, key: str, folder: Path) -> None:
        self._pool = pool
        self._key = checkpoints.private_key(key)
        self._folder = folder
        metrics.VIOLATIONS.labels(rule=CHECKPOINT_RULE).set(0)

    async def write(self) -> bool:
        """See that the folder has the checkpoint of this day (UTC); a round of meter.rounds. A folder that cannot be
        written to is told, and keeps the meter from nothing else. Raises asyncpg's errors."""
        async with self._pool.acquire() as connection:
            if await connection.fetchval(_TRY_LOCK, _LOCK):
                try:
                    await self._save(await self._of_today(connection))
                finally:
                    await connection.execute(_UNLOCK, _LOCK)
        return False

    async def _of_today(self, connection: Any) -> checkpoints.Checkpoint:
        trusted = checkpoints.public_half(self._key)
        row = await connection.fetchrow(_OF_TODAY, trusted)
        if row is not None:
            kept = checkpoints.Checkpoint(row["statement"], row["signature"], row["public_key"])
            try:
                checkpoints.verify(kept, trusted)
            except checkpoints.CheckpointError as error:
                metrics.VIOLATIONS.labels(rule=CHECKPOINT_RULE).set(1)
                kept_id = str(row["checkpoint_id"])
                log.critical("an invariant is broken", rule=CHECKPOINT_RULE, checkpoint=kept_id, detail=str(error))
            else:
                return kept
        return await checkpoints.create(connection, self._key)

    async def _save(self, checkpoint: checkpoints.Checkpoint) -> None:
        said = checkpoints.read(checkpoint)
        path = self._folder / checkpoints.file_name(said.checkpoint_id)
        if await asyncio.to_thread(path.exists):
            return
        try:
            await asyncio.to_thread(checkpoints.save, checkpoint, path)
        except FileExistsError:
            return
        except OSError as error:
            metrics.FAULTS.labels(task="checkpoint", error=type(error).__name__).inc()
            log.warning("the day's checkpoint is not in its folder", file=str(path), error=str(error))
            return
        log.info("checkpoint written", file=str(path), accounts=len(said.heads), transfers=said.transfers)
