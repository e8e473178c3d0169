"""Messages of the usage stream to rows of the books. Pure: no clock, no I/O; the same input gives the same rows.

A message is one of
  a usage event to book             → a usage row, a transfer, its draws
  a usage event that is booked      → nothing, but Redis is told again that it is
  one that is booked as lost, truly → a correction: the record as it is, and a transfer of the difference
  one that a person has discarded   → nothing, but Redis is told that it counts no more
  the first sight of an account     → the grant of its plan's allowance and the transfer
  of an account that was there      → nothing
  one that no row can hold          → a dead letter, with the reason

What was lost is the last note of a gateway that was not heard of any more: what it says is less than the truth, or
another truth. So the true record of an event always outranks it, whichever comes first: an event comes to the same
charge for every order, and has one row and one correction at most.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from meter.accounts import Account, Credit, Rows, Transfer, UnbookableError, charge, credit
from meter.correction_posting import book_correction
from meter.usage_rows import Judged, late_row, usage_row
from shared import ids, redis_keys
from shared.events import AccountSeen, StreamMessage, UsageEvent
from shared.pricing import Charge, PricedModel, RateCard, is_provisional, provisional_of
from shared.pricing import charge as price
from shared.units import MC_MAX
from shared.usage import Evidence, Usage

FLAG_UNPRICED: Final = "unpriced"
"""The meter has no rates for the event: booked at the gateway's charge."""
FLAG_CHARGE_DIFFERS: Final = "charge_differs"
"""The gateway had counted another charge than the one that is booked."""
FLAG_OFF_TIME: Final = "off_time"
"""A time of the event is far from when it was booked: a wrong clock, or an event that was kept back."""

LATE_MEMO: Final = "the call's own record came after all"
ACCOUNT_UNKNOWN: Final = "account unknown: no such directory, or the message does not say whose account it is"

REASON_LENGTH_MAX: Final = 500
"""Characters of the reason of a dead letter; a longer one is cut."""

OFF_TIME_MS_MAX: Final = 2 * 24 * 3600 * 1000
"""Distance in ms between an event's own time and its booking from which on it is flagged: two days, because a journal
may bring an event a day late."""

_MOMENT_US_MAX: Final = 4_102_444_800_000_000
"""2100-01-01 in Unix microseconds: a gateway that says later, or earlier than 1970, has no clock."""

_NO_CHARGE: Final = Charge(charge_mc=0, cost_nano=0, priced=True)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of a shard's stream that could be read."""

    entry_id: str
    payload: bytes
    message: StreamMessage


class DeadLetter(msgspec.Struct, frozen=True):
    """An entry that cannot be booked. The ids are those of a usage event that could be read, else None."""

    entry_id: str
    payload: bytes
    reason: str
    account_id: UUID | None = None
    event_id: UUID | None = None
    lost: bool = False
    """Whether that event says what was lost."""


class Tariff(msgspec.Struct):
    """Rates by price version and model, and the rate cards: whatever a batch may need, as far as it exists."""

    models: Mapping[int, Mapping[str, PricedModel]]
    cards: Mapping[str, RateCard]


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a booked event stands: whether only what was lost is known of it, and what it has come to."""

    lost: bool
    charge_mc: int


class Known(msgspec.Struct):
    """What the books hold of this batch already, read under the locks of its accounts."""

    events: dict[UUID, Standing]
    """Events among the batch's that are booked, on the account that they name."""
    newcomers: set[UUID]
    """Accounts that are announced for the first time by this batch: they get their allowance."""
    discarded: set[str] = set()
    """Dead letters that people have discarded, as fields of unposted."""

    def discards(self, event_id: UUID, *, lost: bool) -> bool:
        """Whether a person has decided that this record is not booked. The true one takes the lost one with it."""
        kinds = (False, True) if lost else (False,)
        return any(redis_keys.unposted_field(event_id, lost=kind) in self.discarded for kind in kinds)


class Posting(msgspec.Struct):
    """What one batch comes to."""

    rows: Rows
    accounts: dict[UUID, Account]
    """Every account that Redis must be told about, as it is after the batch."""
    reported: dict[UUID, list[str]]
    """Fields of unposted by account that are dealt with, by this batch or an earlier one."""
    dead: list[DeadLetter]
    evidence: Counter[str]
    """Booked usage events by their evidence."""
    late: Counter[str]
    """Lost events whose true record came, by what it made of them: dearer, cheaper or same."""
    position: int = 0
    """Entries of the shard's stream that are dealt with after it; 0 where it held none."""
    booked: int = 0
    repeated: int = 0
    unpriced: int = 0
    provisional: int = 0
    differing: int = 0
    off_time: int = 0
    costs: list[tuple[int, int, Usage]] = []
    """Our cost and the upstream's own, in nano-USD, where it told one: see meter.cost_check."""

    def report(self, account_id: UUID, event_id: UUID, *, lost: bool) -> None:
        """Nothing of this record counts as unposted any more."""
        self.reported.setdefault(account_id, []).append(redis_keys.unposted_field(event_id, lost=lost))


def recompute(
    tariff: Tariff,
    usage: Usage,
    evidence: Evidence,
    priced_as: str,
    version: int,
    card: str,
    service_tier: str,
    flags: Collection[str] = (),
) -> Charge | None:
    """The charge that the books must show, from what an event says of itself; None where there are no rates for it."""
    if evidence == "none":
        return _NO_CHARGE
    model = tariff.models.get(version, {}).get(priced_as) or provisional_of(priced_as, flags)
    rate_card = tariff.cards.get(card)
    if model is None or rate_card is None:
        return None
    charged = price(usage, model, rate_card, service_tier)
    return charged if charged.priced else None


def post(
    entries: Sequence[Entry], accounts: Mapping[UUID, Account], known: Known, tariff: Tariff, now_us: int
) -> Posting:
    """Book `entries` on `accounts` (moved on in place), of which `known` is booked; `now_us` is Postgres's clock."""
    posting = Posting(rows=Rows(), accounts={}, reported={}, dead=[], evidence=Counter(), late=Counter())
    for entry in entries:
        message = entry.message
        account = accounts.get(message.account_id)
        if known.discarded and type(message) is UsageEvent and known.discards(message.event_id, lost=message.lost):
            posting.repeated += 1
            posting.report(message.account_id, message.event_id, lost=message.lost)
            continue
        try:
            if account is None:
                posting.dead.append(dead_letter(entry, ACCOUNT_UNKNOWN))
                continue
            if type(message) is UsageEvent:
                standing = known.events.get(message.event_id)
                if standing is None:
                    charge_mc = _book_usage(posting, account, message, tariff, now_us)
                    known.events[message.event_id] = Standing(message.lost, charge_mc)
                elif standing.lost and not message.lost:
                    charge_mc = _book_late(posting, account, message, standing, tariff, now_us)
                    known.events[message.event_id] = Standing(False, charge_mc)
                else:
                    posting.repeated += 1
                posting.report(account.account_id, message.event_id, lost=message.lost)
            elif isinstance(message, AccountSeen):
                if message.account_id in known.newcomers:
                    known.newcomers.remove(message.account_id)
                    _book_allowance(posting, account, message, now_us)
                else:
                    posting.repeated += 1
            posting.accounts[account.account_id] = account
        except UnbookableError as reason:
            posting.dead.append(dead_letter(entry, str(reason)))
    return posting


def dead_letter(entry: Entry, reason: str) -> DeadLetter:
    message = entry.message
    reason = shown(reason)
    if isinstance(message, UsageEvent):
        ids_of_event = message.account_id, message.event_id, message.lost
        return DeadLetter(entry.entry_id, entry.payload, reason, *ids_of_event)
    return DeadLetter(entry.entry_id, entry.payload, reason, message.account_id)


def shown(reason: str) -> str:
    """A reason that a row and a terminal can hold: it may repeat what the entry says, U+0000 among it, which Postgres
    takes in no text."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in reason[:REASON_LENGTH_MAX])


def _book_allowance(posting: Posting, account: Account, seen: AccountSeen, now_us: int) -> None:
    """The id of the grant follows from the account and its plan, that of its transfer from the grant and the time."""
    if not 0 <= seen.allowance_mc <= MC_MAX:
        raise UnbookableError(f"allowance of {seen.allowance_mc} mc is out of bounds")
    if not seen.allowance_mc:
        return
    grant_id = ids.allowance_id(seen.account_id, seen.plan, "first")
    transfer = Transfer(
        transfer_id=ids.uuid7(now_us // 1000, grant_id.bytes[-10:]),
        kind="grant",
        contra="grant",
        occurred_at_us=_moment(seen.seen_at_us, now_us),
        link_id=grant_id,
        memo=f"allowance of plan {seen.plan}",
    )
    given = Credit(grant_id=grant_id, kind="allowance", amount_mc=seen.allowance_mc)
    credit(account, posting.rows, transfer, given, now_us)
    posting.booked += 1


def _judge(posting: Posting, event: UsageEvent, tariff: Tariff, now_us: int) -> Judged:
    """Raises UnbookableError where its charge is out of bounds."""
    flags = event.flags
    charged = recompute(
        tariff, event.usage, event.evidence, event.priced_as, event.price_version, event.card, event.service_tier, flags
    )
    for_now = event.evidence != "none" and is_provisional(event.priced_as, flags)
    posting.provisional += for_now
    if charged is None:
        charge_mc, cost_nano = event.charge_mc, event.cost_nano
        if not for_now:
            flags = _with(flags, FLAG_UNPRICED)
            posting.unpriced += 1
    else:
        charge_mc, cost_nano = charged.charge_mc, charged.cost_nano
        for flag in charged.flags:
            flags = _with(flags, flag)
        if charge_mc != event.charge_mc:
            flags = _with(flags, FLAG_CHARGE_DIFFERS)
            posting.differing += 1
    started_at_us, settled_at_us = _moment(event.started_at_us, now_us), _moment(event.settled_at_us, now_us)
    if (
        abs(ids.uuid7_ms(event.event_id) - now_us // 1000) > OFF_TIME_MS_MAX
        or settled_at_us != event.settled_at_us
        or started_at_us != event.started_at_us
    ):
        flags = _with(flags, FLAG_OFF_TIME)
        posting.off_time += 1
    if not 0 <= charge_mc <= MC_MAX:
        raise UnbookableError(f"charge of {charge_mc} mc is out of bounds")
    return Judged(charge_mc, cost_nano, flags, started_at_us, settled_at_us, for_now or charged is None)


def _note_price(posting: Posting, account: Account, event: UsageEvent, judged: Judged, *, late: bool) -> None:
    """What has no price waits for one; what has is compared with the upstream's own figure."""
    if judged.waiting:
        posting.rows.unpriced.append((event.account_id, event.event_id, account.shard, late))
    elif event.upstream_cost_nano and event.evidence == "provider":
        posting.costs.append((judged.cost_nano, event.upstream_cost_nano, event.usage))


def _book_usage(posting: Posting, account: Account, event: UsageEvent, tariff: Tariff, now_us: int) -> int:
    """Returns the charge."""
    judged = _judge(posting, event, tariff, now_us)
    transfer = Transfer(transfer_id=event.event_id, kind="usage", contra="usage", occurred_at_us=judged.settled_at_us)
    charge(account, posting.rows, transfer, judged.charge_mc, now_us)
    _note_price(posting, account, event, judged, late=False)
    posting.rows.usage_events.append(usage_row(event, judged, account.recorded_at_us))
    posting.booked += 1
    posting.evidence[event.evidence] += 1
    return judged.charge_mc


def _book_late(
    posting: Posting, account: Account, event: UsageEvent, standing: Standing, tariff: Tariff, now_us: int
) -> int:
    """The true record of an event that is booked as lost, written also where nothing differs: it is what says that the
    charge is the truth. Returns the charge."""
    judged = _judge(posting, event, tariff, now_us)
    amount_mc = standing.charge_mc - judged.charge_mc
    transfer_id = book_correction(posting.rows, account, event.event_id, "late record", amount_mc, LATE_MEMO, now_us)
    # Of this batch, perhaps; what an earlier one left in the queue is taken out when the rows are written.
    posting.rows.unpriced = [row for row in posting.rows.unpriced if row[1] != event.event_id]
    _note_price(posting, account, event, judged, late=True)
    row = usage_row(event, judged, account.recorded_at_us)
    posting.rows.event_corrections.append(late_row(row, transfer_id))
    posting.booked += 1
    posting.late["same" if not amount_mc else "cheaper" if amount_mc > 0 else "dearer"] += 1
    return judged.charge_mc


def _moment(said_us: int, now_us: int) -> int:
    """A time that a gateway said, or now where it cannot be one."""
    return said_us if 0 < said_us < _MOMENT_US_MAX else now_us


def _with(flags: tuple[str, ...], flag: str) -> tuple[str, ...]:
    return flags if flag in flags else (*flags, flag)
