"""The model of the truth: what upstream and clients know must be what the books say.

A call that the upstream saw and that is not booked has one excuse: the way to the upstream broke while the call was on
it, before its head came back (it is voided, and its client was told 502, if it was told anything).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from tests.harness.fake_upstream import Served
from tests.swarm.crowd import Seen

NANO_PER_TOKEN: Final = {"gpt-4o-mini": (150, 75, 150, 600), "claude-sonnet-4-5": (3_000, 300, 3_750, 15_000)}
"""Input, cached input, input that is written to the cache, output; a millicredit is a nano-dollar here."""
EXCUSE_S: Final = 1.0
"""A way that broke so shortly before or after an exchange is one that broke within it."""
_CALL_IDS: Final = re.compile(rb'"id":\s*"(?:chatcmpl-|msg_)([0-9a-f-]{36})"')

_EVENTS: Final = """
    SELECT s.event_id, a.external_id, s.outcome, s.evidence, s.tokens_in, s.tokens_out, s.charge_mc, s.late
      FROM sundial.standing_events s JOIN sundial.accounts a USING (account_id)
"""
_BALANCES: Final = """
    SELECT a.external_id, b.balance_mc,
           (SELECT coalesce(sum(amount_mc), 0)::bigint FROM sundial.grants g WHERE g.account_id = a.account_id)
             AS granted_mc
      FROM sundial.accounts a JOIN sundial.balances b USING (account_id) WHERE a.kind = 'person'
"""


class Books(NamedTuple):
    """What stands in Postgres."""

    events: Sequence[Mapping[str, Any]]
    balances: Sequence[Mapping[str, Any]]


async def books(database_url: str) -> Books:
    connection: Any = await asyncpg.connect(database_url)
    try:
        return Books(await connection.fetch(_EVENTS), await connection.fetch(_BALANCES))
    finally:
        await connection.close()


class Truth(NamedTuple):
    """What is known outside of Sundial."""

    seen: Sequence[Seen]
    served: Sequence[Served]
    granted: Callable[[str], int]
    """Millicredits that a user has been given."""
    bad_ways: Sequence[tuple[float, float]]
    journaled: Collection[UUID]
    """Calls that a gateway wrote down as used."""

    def contradictions(self, found: Books) -> list[str]:
        """Everything in which the books differ from the truth."""
        events: dict[UUID, list[Mapping[str, Any]]] = defaultdict(list)
        for event in found.events:
            events[event["event_id"]].append(event)
        served: dict[UUID, list[Served]] = defaultdict(list)
        for one in self.served:
            served[one.event_id].append(one)
        return [
            *(f"{call}: booked {len(rows)} times" for call, rows in events.items() if len(rows) > 1),
            *self._wrong_for_clients(events, served),
            *self._wrong_for_upstream(events, served),
            *(wrong for rows in events.values() for wrong in _invented(rows[0], served[rows[0]["event_id"]])),
            *self._wrong_balances(found),
        ]

    def _wrong_for_clients(
        self, events: Mapping[UUID, list[Mapping[str, Any]]], served: Mapping[UUID, list[Served]]
    ) -> Iterator[str]:
        """Who holds the end of an answer has paid for all of it, once; and nobody holds a piece of another's."""
        for seen in self.seen:
            if others := {UUID(one.decode()) for one in _CALL_IDS.findall(seen.body)} - {seen.call_id}:
                yield f"{seen.call_id}: its client got bytes of {others}"
            if seen.how != "whole":
                continue
            if seen.call_id is None or not events.get(seen.call_id):
                yield f"{seen.call_id}: its client holds the end, and it is not booked"
                continue
            if seen.call_id not in self.journaled:
                yield f"{seen.call_id}: its client holds the end, and no journal has its record"
            event = events[seen.call_id][0]
            if event["external_id"] != seen.user:
                yield f"{seen.call_id}: booked on {event['external_id']}, called by {seen.user}"
            if event["outcome"] == "exhausted":
                continue  # the gateway's own end: less came than the upstream had
            if event["outcome"] != "complete" or event["evidence"] != "provider":
                yield f"{seen.call_id}: its client holds the end, and it stands as {dict(event)}"
            elif event["charge_mc"] not in {truth_mc(one) for one in served[seen.call_id]}:
                yield f"{seen.call_id}: charged {event['charge_mc']} mc, reported {_reports(served[seen.call_id])}"

    def _wrong_for_upstream(
        self, events: Mapping[UUID, list[Mapping[str, Any]]], served: Mapping[UUID, list[Served]]
    ) -> Iterator[str]:
        """What the upstream did is booked; what it refused is not charged."""
        for call, exchanges in served.items():
            rows = events.get(call, [])
            if all(one.ended == "refused" for one in exchanges):
                yield from (f"{call}: refused, and charged {row['charge_mc']} mc" for row in rows if row["charge_mc"])
            elif not rows and not any(self._excused(one) for one in exchanges):
                yield f"{call}: served ({exchanges[0].ended}, {exchanges[0].sent_tokens} tokens), and not booked"

    def _excused(self, one: Served) -> bool:
        return any(
            began - EXCUSE_S <= one.ended_s and one.began_s <= ended + EXCUSE_S for began, ended in self.bad_ways
        )

    def _wrong_balances(self, found: Books) -> Iterator[str]:
        charged: Counter[str] = Counter()
        for event in found.events:
            charged[event["external_id"]] += event["charge_mc"]
        for row in found.balances:
            user = row["external_id"]
            if row["granted_mc"] != self.granted(user):
                yield f"{user}: granted {row['granted_mc']} mc, not {self.granted(user)} mc"
            if row["balance_mc"] != row["granted_mc"] - charged[user]:
                yield f"{user}: {row['balance_mc']} mc left of {row['granted_mc']} mc, charged {charged[user]} mc"


def must_be_booked(seen: Iterable[Seen]) -> set[UUID]:
    """Calls whose clients hold their end."""
    return {one.call_id for one in seen if one.how == "whole" and one.call_id is not None}


def truth_mc(served: Served) -> int | None:
    """What the usage that the upstream reported costs."""
    usage = served.reported
    if usage is None:
        return None
    rates = NANO_PER_TOKEN[served.model]
    if "prompt_tokens" in usage:
        amounts = (usage["prompt_tokens"], 0, 0, usage["completion_tokens"])
    else:
        amounts = (
            usage["input_tokens"],
            usage["cache_read_input_tokens"],
            usage["cache_creation_input_tokens"],
            usage["output_tokens"],
        )
    return sum(int(amount) * rate for amount, rate in zip(amounts, rates, strict=True))


def _invented(event: Mapping[str, Any], served: Sequence[Served]) -> Iterator[str]:
    """What is charged was served: never more output than was sent."""
    if not served:
        if event["charge_mc"]:
            yield f"{event['event_id']}: charged {event['charge_mc']} mc, and the upstream never saw it"
    elif served[0].target.endswith("completions"):
        came, sent = served[0].prompt_tokens, max(one.sent_tokens for one in served)
        if event["evidence"] == "checkpoint":
            sent *= 2  # the output of what was lost is estimated from sizes, and flagged so
        if event["tokens_out"] > sent or event["tokens_in"] > came:
            yield f"{event['event_id']}: {dict(event)}, but at most {came} came in and {sent} went out"


def _reports(served: Iterable[Served]) -> list[Any]:
    return [one.reported for one in served]
