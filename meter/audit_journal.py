"""Proves that nothing is lost (I6) from the other side: what gateways wrote to their journals is in the books.

  settled   has one usage row, which says the same; or is a dead letter, or one that was let go; or is under way
  void      has no usage row, but that of a hold that was lost
  begun     its process runs it, or its hold is open; else it has one usage row, or is under way

What is under way arrives in a moment, so what looks wrong is looked at again. `quiet`: nothing may be under way.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec

from meter import redis_link
from meter.audit_projection import LOOK_AGAIN_S, LOOKS_MAX
from meter.stream import fields_under_way
from meter.violation import Violation
from shared import ids, redis_keys
from shared.events import UsageEvent
from shared.usage import Usage

RULE: Final = "journal"
VIOLATIONS_MAX: Final = 100
"""Violations after which nothing more is read."""

_STANDING: Final = """
    SELECT account_id, event_id, key_id, model_answered, usage, evidence, outcome
      FROM sundial.standing_events WHERE event_id = ANY ($1::uuid[])
"""
_LETTERS: Final = """
    SELECT d.event_id FROM sundial.dead_letters d
      LEFT JOIN sundial.dead_letter_outcomes o ON o.letter_id = d.letter_id AND o.outcome = 'booked'
     WHERE d.event_id = ANY ($1::uuid[]) AND o.letter_id IS NULL
"""
_decode_usage = msgspec.json.Decoder(Usage).decode

Word = Literal["settled", "void", "begun"]
ARRIVED: Final = ("booked", "set aside", "void")
PASSING: Final = {"under way": "but not booked yet", "open": "and not closed yet"}
"""What may become another state, and what is wrong with it where nothing may be under way."""
STATES: Final = (*ARRIVED, *PASSING)


class Call(msgspec.Struct, frozen=True):
    """The last word of a journal about a call. `running`: its process lives."""

    event: UsageEvent
    word: Word
    running: bool


class Found(msgspec.Struct):
    """What the books say of the journals."""

    states: Counter[str]
    violations: list[Violation]


async def audit_journals(pg_url: str, redis_url: str, pages: Iterable[Sequence[Call]], *, quiet: bool) -> Found:
    """Look every call up, a page at a time. Raises asyncpg's, redis-py's and OS errors."""
    connection = await asyncpg.connect(pg_url, server_settings={"application_name": "sundial audit"})
    client = redis_link.connect(redis_url)
    found = Found(Counter(), [])
    try:
        for page in pages:
            await _look_up(connection, client, page, found, quiet=quiet)
            if len(found.violations) >= VIOLATIONS_MAX:
                break
    finally:
        await client.aclose()
        await connection.close()
    return found


async def _look_up(connection: Any, client: Any, calls: Sequence[Call], found: Found, *, quiet: bool) -> None:
    accepted = ARRIVED if quiet else STATES
    judged: list[tuple[Call, str]] = []
    for look in range(LOOKS_MAX):
        if look:
            await asyncio.sleep(LOOK_AGAIN_S)
        books = await _read(connection, client, calls)
        judged = [(call, judge(call, books)) for call in calls]
        found.states.update(state for _, state in judged if state in accepted)
        judged = [(call, state) for call, state in judged if state not in accepted]
        if not judged:
            return
        calls = [call for call, _ in judged]
    for call, wrong in judged:
        subject = f"event {call.event.event_id} of account {call.event.account_id}"
        found.violations.append(Violation(RULE, subject, f"{call.word}, {PASSING.get(wrong, wrong)}"))


class Books(msgspec.Struct):
    """What is known of some calls, by event."""

    rows: dict[UUID, list[Any]]
    letters: set[UUID]
    under_way: set[str]
    """Fields of unposted."""
    held: set[UUID]


async def _read(connection: Any, client: Any, calls: Sequence[Call]) -> Books:
    """Streams before books: what is booked in between is in both."""
    under_way: set[str] = set()
    for shard in {ids.shard_of(call.event.account_id) for call in calls}:
        under_way |= await fields_under_way(client, shard)
    begun = [call.event for call in calls if call.word == "begun"]
    pipeline = client.pipeline(transaction=False)
    for event in begun:
        key = redis_keys.holds(ids.shard_of(event.account_id), event.account_id)
        pipeline.hexists(key, str(event.event_id))
    answers = await pipeline.execute() if begun else []
    held = {event.event_id for event, there in zip(begun, answers, strict=True) if there}
    event_ids = [call.event.event_id for call in calls]
    rows: dict[UUID, list[Any]] = {}
    for row in await connection.fetch(_STANDING, event_ids):
        rows.setdefault(row["event_id"], []).append(row)
    letters = {row["event_id"] for row in await connection.fetch(_LETTERS, event_ids)}
    return Books(rows, letters, under_way, held)


def judge(call: Call, books: Books) -> str:
    """Its state, or what is wrong with it. Pure."""
    event = call.event
    rows = books.rows.get(event.event_id, [])
    if len(rows) > 1:
        return f"but booked on {len(rows)} accounts"
    if call.word == "void":
        return "void" if not rows or rows[0]["outcome"] == "lost" else f"but booked as {rows[0]['outcome']}"
    if rows and (event.lost or rows[0]["outcome"] != "lost"):
        return _difference(event, rows[0]) if call.word == "settled" else "booked"
    if event.event_id in books.letters:
        return "set aside"
    fields = {redis_keys.unposted_field(event.event_id, lost=lost) for lost in (False, True)}
    if fields & books.under_way:
        return "under way"
    if call.word == "begun" and (call.running or event.event_id in books.held):
        return "open"
    if call.word == "begun":
        return "its process is gone, and it is neither held nor booked: start a gateway on this home"
    return "but booked only as lost" if rows else "but neither booked nor under way"


def _difference(event: UsageEvent, row: Any) -> str:
    """`booked` where the books say what the record says."""
    if row["account_id"] != event.account_id:
        return f"but booked on account {row['account_id']}"
    if event.lost:
        return "booked"  # only what was noted last: the books may have another note, or the truth
    said = (event.usage, event.key_id, event.evidence, event.outcome)
    booked = (_decode_usage(row["usage"]), row["key_id"], row["evidence"], row["outcome"])
    for name, one, other in zip(("usage", "key", "evidence", "outcome"), said, booked, strict=True):
        if one != other:
            return f"but booked with another {name}: {_short(other)} instead of {_short(one)}"
    return "booked"


def _short(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, Usage) else str(value)
