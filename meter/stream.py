"""One shard's usage stream, as a member of the meter's consumer group: read, claim, acknowledge, trim.

Nothing leaves the stream before Postgres has it: entries are trimmed below the oldest that is not acknowledged, by
exact id, and only the meter trims.
"""

from contextlib import suppress
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from meter.posting import DeadLetter, Entry, shown
from shared import redis_keys
from shared.events import StreamMessage, UnreadableEntryError, UsageEvent, decode, sketch

BATCH_ENTRIES_MAX: Final = 1_000
BLOCK_MS: Final = 1_000
"""How long a read waits for the first entry: also how long a stop may take, in milliseconds."""
CLAIM_IDLE_MS: Final = 30_000
"""Idle time after which another consumer's entries are taken over: longer than any batch takes."""

_NUL: Final = b"\\u0000"


class Batch(msgspec.Struct):
    """Entries as they were read. `unreadable` go to the dead letters; `entry_ids` also name those that were trimmed
    while they were pending, of which nothing is left."""

    entry_ids: list[bytes]
    entries: list[Entry]
    unreadable: list[DeadLetter]


def unpack(raw: list[tuple[bytes, dict[bytes, bytes] | None]]) -> Batch:
    """Decode what the stream gave."""
    batch = Batch(entry_ids=[entry_id for entry_id, _ in raw], entries=[], unreadable=[])
    for entry_id, fields in raw:
        if not fields:
            continue
        payload = fields.get(b"d")
        if payload is None:
            letter = DeadLetter(entry_id.decode(), repr(fields).encode(), "entry has no field d")
            batch.unreadable.append(letter)
            continue
        one = read(entry_id.decode(), payload)
        if isinstance(one, Entry):
            batch.entries.append(one)
        else:
            batch.unreadable.append(one)
    return batch


def read(entry_id: str, payload: bytes) -> Entry | DeadLetter:
    """An entry, or why it is none."""
    try:
        message = decode(payload)
    except UnreadableEntryError as reason:
        said = sketch(payload)
        return DeadLetter(entry_id, payload, shown(str(reason)), said.account_id, said.event_id, said.lost)
    if _NUL in payload:
        message = without_nul(message)
    return Entry(entry_id, payload, message)


def without_nul(message: StreamMessage) -> StreamMessage:
    """The message with U+0000, which Postgres takes in no text, cut out of its texts: no client escapes its charge by
    naming a conversation so."""
    texts = {
        name: text.replace("\0", "")
        for name in message.__struct_fields__
        if isinstance(text := getattr(message, name), str) and "\0" in text
    }
    return msgspec.structs.replace(message, **texts)


class ShardStream:
    """The stream of one shard, read by one consumer."""

    def __init__(
        self, client: Any, shard: int, consumer: str, *, block_ms: int = BLOCK_MS, claim_idle_ms: int = 0
    ) -> None:
        """`claim_idle_ms`: see CLAIM_IDLE_MS, which it is where it is 0."""
        self._client = client
        self._key = redis_keys.usage_stream(shard)
        self._consumer = consumer
        self._block_ms = block_ms
        self.claim_idle_ms = claim_idle_ms or CLAIM_IDLE_MS
        self._claim_from: bytes | str = "0-0"

    async def join(self) -> None:
        """Create stream and group where they are missing. Raises redis-py's errors.

        They are looked for first: a Redis without memory refuses to create even what is there, and only who reads on
        frees any.
        """
        with suppress(ResponseError):  # there is no stream
            if any(
                one["name"] == redis_keys.METER_GROUP.encode() for one in await self._client.xinfo_groups(self._key)
            ):
                return
        try:
            await self._client.xgroup_create(self._key, redis_keys.METER_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def own_pending(self) -> Batch:
        """What this consumer read in an earlier life, or before an error, and has not acknowledged; oldest first."""
        return await self._read("0", None)

    async def following(self) -> Batch:
        """Entries that nobody has read; waits a moment for the first one."""
        return await self._read(">", self._block_ms)

    async def abandoned(self) -> Batch:
        """Entries that another consumer read and did not acknowledge in `claim_idle_ms`; they are this one's now."""
        answer = await self._client.xautoclaim(
            self._key,
            redis_keys.METER_GROUP,
            self._consumer,
            min_idle_time=self.claim_idle_ms,
            start_id=self._claim_from,
            count=BATCH_ENTRIES_MAX,
        )
        self._claim_from = answer[0]
        return unpack([(entry_id, fields) for entry_id, fields in answer[1] if entry_id is not None])

    async def finish(self, entry_ids: list[bytes]) -> None:
        """Acknowledge committed entries, and trim."""
        await self._client.xack(self._key, redis_keys.METER_GROUP, *entry_ids)
        await self.trim()

    async def trim(self) -> None:
        """Remove what nobody owes any more: all below the oldest entry that is not acknowledged.

        The last entry that was given to anybody is asked for before what is pending: whoever reads on meanwhile reads
        above it.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.xinfo_groups(self._key)
        pipeline.xpending(self._key, redis_keys.METER_GROUP)
        groups, pending = await pipeline.execute()
        given = [one["last-delivered-id"] for one in groups if one["name"] == redis_keys.METER_GROUP.encode()]
        if not given:
            return  # the group was forgotten, and another meter has just made it again
        bound = _after(given[0])
        if pending["pending"]:
            bound = min(bound, pending["min"], key=_numbers)
        await self._client.xtrim(self._key, minid=bound, approximate=False)

    async def _read(self, after: str, block_ms: int | None) -> Batch:
        answer = await self._client.xreadgroup(
            redis_keys.METER_GROUP, self._consumer, {self._key: after}, count=BATCH_ENTRIES_MAX, block=block_ms
        )
        return unpack(answer[0][1] if answer else [])


async def fields_under_way(client: Any, shard: int) -> set[str]:
    """The fields of unposted whose records stand in a shard's stream. Raises redis-py's errors."""
    fields: set[str] = set()
    after = b"-"
    while page := await client.xrange(redis_keys.usage_stream(shard), min=after, count=BATCH_ENTRIES_MAX):
        after = b"(" + page[-1][0]
        batch = unpack(page)
        for message in (entry.message for entry in batch.entries):
            if isinstance(message, UsageEvent):
                fields.add(redis_keys.unposted_field(message.event_id, lost=message.lost))
        fields.update(
            redis_keys.unposted_field(one.event_id, lost=one.lost) for one in batch.unreadable if one.event_id
        )
    return fields


def _numbers(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


def _after(entry_id: bytes) -> bytes:
    """The smallest id above `entry_id`."""
    milliseconds, number = _numbers(entry_id)
    return b"%d-%d" % (milliseconds, number + 1)
