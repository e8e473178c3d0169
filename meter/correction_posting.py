"""Corrections of charges whose price was not known when they were booked, to rows of the books. Pure.

An event that waits for a price is one of
  its model has none, or one that cannot express its usage   → nothing: it waits for the next price version
  its price has come, and made it dearer                     → a transfer, drawn from grants like a charge
  or cheaper                                                 → a transfer and a grant of what was taken too much
  or no different                                            → a transfer of nothing, which names the price
  corrected already                                          → nothing: whoever corrected it has told everybody
  one that no row can hold                                   → left to wait, with the reason

What a correction gives back is a grant of its own, which does not expire: the grants that had paid stay drawn. The true
record of a call that had been booked as lost corrects in the same way (see meter.posting); either record may have to
wait for its price.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID, uuid5

import msgspec

from meter.accounts import Account, Credit, Rows, Transfer, UnbookableError, charge, credit
from shared import ids, pricing
from shared.pricing import Charge, PricedModel, RateCard
from shared.usage import Usage


class Unpriced(msgspec.Struct, frozen=True, kw_only=True):
    """A booked event that waits for a price. `charge_mc` is what this record of it was booked at."""

    account_id: UUID
    event_id: UUID
    late: bool = False
    """It is the late record of an event that had been booked as lost."""
    model_asked: str
    model_answered: str
    card: str
    service_tier: str
    usage: Usage
    charge_mc: int


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What the price that has come makes of an event."""

    event: Unpriced
    price_version: int
    priced_as: str
    charge: Charge

    @property
    def amount_mc(self) -> int:
        """Signed as a transfer's: what the account gets back, negative where it owes more."""
        return self.event.charge_mc - self.charge.charge_mc


class Refused(msgspec.Struct, frozen=True):
    correction: Correction
    reason: str


class CorrectionPosting(msgspec.Struct):
    rows: Rows
    posted: list[Correction]
    refused: list[Refused]


def correction(
    event: Unpriced, price_version: int, models: Mapping[str, PricedModel], cards: Mapping[str, RateCard]
) -> Correction | None:
    """The price of the model that answered counts, else that of the model asked for, as the gateway has it.

    None while neither has one, or one that cannot express the usage.
    """
    card = cards.get(event.card)
    model = pricing.resolve(models, event.model_answered) or pricing.resolve(models, event.model_asked)
    if model is None or card is None:
        return None
    charged = pricing.charge(event.usage, model, card, event.service_tier)
    if not charged.priced:
        return None
    return Correction(event=event, price_version=price_version, priced_as=model.model, charge=charged)


def post_corrections(
    corrections: Sequence[Correction],
    accounts: Mapping[UUID, Account],
    corrected: Collection[tuple[UUID, bool]],
    now_us: int,
) -> CorrectionPosting:
    """Book `corrections` on `accounts` (moved on in place), but those of the records (event, late) in `corrected`."""
    posting = CorrectionPosting(rows=Rows(), posted=[], refused=[])
    for one in corrections:
        if (one.event.event_id, one.event.late) in corrected:
            continue
        try:
            _book(posting.rows, accounts[one.event.account_id], one, now_us)
            posting.posted.append(one)
        except UnbookableError as reason:
            posting.refused.append(Refused(one, str(reason)))
    return posting


def _book(rows: Rows, account: Account, one: Correction, now_us: int) -> None:
    event = one.event
    name = "late price correction" if event.late else "price correction"
    memo = f"price of {one.priced_as}, version {one.price_version}"
    transfer_id = book_correction(rows, account, event.event_id, name, one.amount_mc, memo, now_us)
    rows.corrections.append(
        (
            event.account_id,
            event.event_id,
            transfer_id,
            one.price_version,
            one.priced_as,
            one.charge.charge_mc,
            one.charge.cost_nano,
            account.recorded_at_us,
            event.late,
        )
    )


def book_correction(
    rows: Rows, account: Account, event_id: UUID, name: str, amount_mc: int, memo: str, now_us: int
) -> UUID:
    """One transfer that is linked to its event and gives `amount_mc` back, or takes it where it is negative.

    `name` tells the corrections of one event apart. Returns the transfer's id. Raises UnbookableError.
    """
    transfer = Transfer(
        # Of its own time, for the month; its other bits follow from the event's id and are not the event's.
        transfer_id=ids.uuid7(now_us // 1000, uuid5(event_id, name).bytes[-10:]),
        kind="adjustment",
        contra="usage",
        occurred_at_us=now_us,
        link_id=event_id,
        memo=memo,
    )
    if amount_mc > 0:
        given = Credit(grant_id=transfer.transfer_id, kind="adjustment", amount_mc=amount_mc)
        credit(account, rows, transfer, given, now_us)
    else:
        charge(account, rows, transfer, -amount_mc, now_us)
    return transfer.transfer_id
