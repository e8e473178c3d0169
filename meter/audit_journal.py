"""Proves what the gateways' journals say: that nothing is lost (I6), and how answers ended (I7, I8, I10).

Rule `journal`: what they wrote is in the books.

  settled   has one usage row, which says the same; or is a dead letter, or one that was let go; or is under way
  void      has no usage row, but that of a hold that was lost
  begun     its process runs it, or its hold is open; else it has one usage row, or is under way

What is under way arrives in a moment, so what looks wrong is looked at again. `quiet`: nothing may be under way.

Of each answer that ended well for its client the journal has what it came to (shared.ends):

  client_last  the record of its call stands before it; where it is missing (a full disk) the books have the call
  bytes        the client's bytes are the upstream's, less what was taken out; a call that broke has no clean end
  floor        the call costs no more than was held for it and one slice
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec

from meter import redis_link
from meter.audit_projection import LOOK_AGAIN_S, LOOKS_MAX
from meter.stream import fields_under_way
from meter.violation import Violation
from shared import ids, redis_keys
from shared.ends import End
from shared.events import UsageEvent
from shared.usage import Usage

RULE: Final = "journal"
CLIENT_LAST: Final = "client_last"
BYTES: Final = "bytes"
FLOOR: Final = "floor"
BROKEN: Final = ("lost", "timeout", "drained", "client_gone")
"""Outcomes of calls whose clients have no clean end."""
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

Word = Literal["settled", "void", "begun", "ended"]
ARRIVED: Final = ("booked", "set aside", "void")
PASSING: Final = {"under way": "but not booked yet", "open": "and not closed yet"}
"""What may become another state, and what is wrong with it where nothing may be under way."""
STATES: Final = (*ARRIVED, *PASSING)


class Call(msgspec.Struct, frozen=True):
    """The last word of a journal about a call. `running`: its process lives.

    `end`: what its answer came to, where that ended well. Word `ended`: there is nothing but that, and no `event`.
    `late`: the record of its close stands behind its end.
    """

    event: UsageEvent | None
    word: Word
    running: bool
    end: End | None = None
    late: bool = False

    @property
    def event_id(self) -> UUID:
        if self.event is not None:
            return self.event.event_id
        assert self.end is not None
        return self.end.event_id


class Found(msgspec.Struct):
    """What the books say of the journals."""

    states: Counter[str]
    violations: list[Violation]
    ends: int = 0
    """Answers that ended well and were looked at."""


async def audit_journals(pg_url: str, redis_url: str, pages: Iterable[Sequence[Call]], *, quiet: bool) -> Found:
    """Look every call up, a page at a time. Raises asyncpg's, redis-py's and OS errors."""
    connection = await asyncpg.connect(pg_url, server_settings={"application_name": "sundial audit"})
    client = redis_link.connect(redis_url)
    found = Found(Counter(), [])
    try:
        for page in pages:
            await _look_up(connection, client, page, found, quiet=quiet)
            _judge_ends(page, found)
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
        rule = CLIENT_LAST if call.word == "ended" else RULE
        found.violations.append(Violation(rule, _subject(call), f"{call.word}, {PASSING.get(wrong, wrong)}"))


def _subject(call: Call) -> str:
    return f"event {call.event_id}" + (f" of account {call.event.account_id}" if call.event is not None else "")


def _judge_ends(calls: Sequence[Call], found: Found) -> None:
    for call in calls:
        if call.end is not None:
            found.ends += 1
            found.violations.extend(Violation(rule, _subject(call), wrong) for rule, wrong in wrong_end(call, call.end))


def wrong_end(call: Call, end: End) -> Iterator[tuple[str, str]]:
    """Which rules the end of an answer breaks, and how. Pure."""
    if call.late or end.early:
        yield CLIENT_LAST, "its end left before its record was written"
    if not end.same:
        yield BYTES, "what left is not what came"
    elif not end.adds_up:
        yield BYTES, f"{end.came} bytes came, {end.stayed} stayed, {end.added} were added, but {end.sent} left"
    event = call.event
    if event is None or call.word != "settled":
        return
    if event.outcome in BROKEN:
        yield BYTES, f"it has a clean end, though it was closed as {event.outcome}"
    if 0 <= end.slice_mc < event.charge_mc - event.hold_mc:
        yield FLOOR, f"costs {event.charge_mc} mc; {event.hold_mc} mc were held, and a slice is {end.slice_mc} mc"


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
    accounts = {call.event.account_id for call in calls if call.event is not None}
    # Where only the end of a call is known, it may be under way in any shard.
    shards = {ids.shard_of(account) for account in accounts} if all(call.event for call in calls) else range(ids.SHARDS)
    for shard in shards:
        under_way |= await fields_under_way(client, shard)
    begun = [call.event for call in calls if call.event is not None and call.word == "begun"]
    pipeline = client.pipeline(transaction=False)
    for event in begun:
        key = redis_keys.holds(ids.shard_of(event.account_id), event.account_id)
        pipeline.hexists(key, str(event.event_id))
    answers = await pipeline.execute() if begun else []
    held = {event.event_id for event, there in zip(begun, answers, strict=True) if there}
    event_ids = [call.event_id for call in calls]
    rows: dict[UUID, list[Any]] = {}
    for row in await connection.fetch(_STANDING, event_ids):
        rows.setdefault(row["event_id"], []).append(row)
    letters = {row["event_id"] for row in await connection.fetch(_LETTERS, event_ids)}
    return Books(rows, letters, under_way, held)


def judge(call: Call, books: Books) -> str:
    """Its state, or what is wrong with it. Pure."""
    event = call.event
    rows = books.rows.get(call.event_id, [])
    if len(rows) > 1:
        return f"but booked on {len(rows)} accounts"
    if call.word == "void":
        return "void" if not rows or rows[0]["outcome"] == "lost" else f"but booked as {rows[0]['outcome']}"
    if event is None:
        return _judge_end_alone(call, books)
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


def _judge_end_alone(call: Call, books: Books) -> str:
    """Its record is in no journal, or in one that is older than a day: then the books have it."""
    if any(row["outcome"] != "lost" for row in books.rows.get(call.event_id, [])):
        return "booked"
    if call.event_id in books.letters:
        return "set aside"
    if redis_keys.unposted_field(call.event_id, lost=False) in books.under_way:
        return "under way"
    return "but it is neither recorded nor booked"


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
