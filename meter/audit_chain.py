"""Recomputes the chain of digests of each account, transfer by transfer (see meter.digests): what was altered, removed
or put in between breaks it at its place.

Reads in pages and in order, so its memory does not grow with the books.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from meter.accounts import (
    CORRECTION_COLUMNS,
    TRANSFER_COLUMNS,
)
from meter.database import speak_microseconds
from meter.digests import GRANT_WIDTH, START, digest
from meter.usage_rows import EVENT_CORRECTION_COLUMNS, USAGE_EVENT_COLUMNS
from meter.violation import Violation

RULE: Final = "digest"
CHECKPOINT_RULE: Final = "checkpoint"
PAGE_ROWS: Final = 2_000
_GRANT_COLUMNS: Final = (
    "account_id",
    "grant_id",
    "transfer_id",
    "kind",
    "amount_mc",
    "priority",
    "expires_at",
    "seq",
    "recorded_at",
)
_WIDTHS: Final = (
    len(TRANSFER_COLUMNS),
    len(USAGE_EVENT_COLUMNS),
    GRANT_WIDTH,
    len(CORRECTION_COLUMNS),
    len(EVENT_CORRECTION_COLUMNS),
)
_DIGEST_AT: Final = sum(_WIDTHS)
_USAGE_AT: Final = USAGE_EVENT_COLUMNS.index("usage")
_LATE_USAGE_AT: Final = EVENT_CORRECTION_COLUMNS.index("usage")


def _listed(alias: str, names: Iterable[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


_TRANSFERS: Final = f"""
    SELECT {_listed("t", TRANSFER_COLUMNS)}, {_listed("u", USAGE_EVENT_COLUMNS)}, {_listed("g", _GRANT_COLUMNS)},
           {_listed("c", CORRECTION_COLUMNS)}, {_listed("e", EVENT_CORRECTION_COLUMNS)}, t.digest,
           array(SELECT d.grant_id FROM sundial.draws d
                  WHERE d.transfer_id = t.transfer_id AND d.account_id = t.account_id ORDER BY d.grant_id),
           array(SELECT d.amount_mc FROM sundial.draws d
                  WHERE d.transfer_id = t.transfer_id AND d.account_id = t.account_id ORDER BY d.grant_id),
           b.balance_mc, b.seq, b.digest
      FROM sundial.transfers t
      LEFT JOIN sundial.balances b ON b.account_id = t.account_id
      LEFT JOIN sundial.usage_events u ON u.event_id = t.transfer_id AND u.account_id = t.account_id
      LEFT JOIN sundial.grants g ON g.transfer_id = t.transfer_id AND g.account_id = t.account_id
      LEFT JOIN sundial.price_corrections c ON c.transfer_id = t.transfer_id AND c.account_id = t.account_id
      LEFT JOIN sundial.event_corrections e ON e.transfer_id = t.transfer_id AND e.account_id = t.account_id
"""  # noqa: S608
_ALL: Final = f"{_TRANSFERS} ORDER BY t.account_id, t.seq"
OF_ACCOUNT: Final = f"{_TRANSFERS} WHERE t.account_id = $1 AND t.seq > $2 ORDER BY t.seq LIMIT $3"
"""Of one account, after a seq, so many transfers: what `step` and `recomputed` take."""
_decode = msgspec.json.decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Head(msgspec.Struct, frozen=True):
    """Where an account's chain stands. `digest` is empty while no transfer has one."""

    seq: int = 0
    digest: bytes = b""
    balance_mc: int = 0
    recorded_at_us: int = 0


class Wanted(msgspec.Struct, frozen=True):
    """What a checkpoint says: at `seq` the account had `digest` and `balance_mc`."""

    seq: int
    digest: bytes
    balance_mc: int


async def audit_chains(
    connection: Any, wanted: Mapping[UUID, Wanted] | None = None, *, found_max: int
) -> list[Violation]:
    """Every account's chain, on one connection inside a snapshot, and where `wanted` heads do not stand on them.

    Of each account the first break of its chain, and that of its checkpoint. Raises asyncpg's errors.
    """
    await speak_microseconds(connection)
    left = dict(wanted or {})
    found: list[Violation] = []
    account_id, head, broken, last = None, Head(), "", None
    async for row in connection.cursor(_ALL, prefetch=PAGE_ROWS):
        if row[0] != account_id:
            found.extend(_broken(broken, last, head))
            account_id, head, broken = row[0], Head(), ""
        if not broken:
            head, broken = step(head, row)
        want = left.get(row[0])
        if want is not None and row[2] == want.seq:
            del left[row[0]]
            if (row[6], row[_DIGEST_AT] or b"") != (want.balance_mc, want.digest):
                detail = f"seq {want.seq} is not what the checkpoint says: its balance or digest is another"
                found.append(Violation(CHECKPOINT_RULE, f"account {row[0]}", detail))
        last = row
        if len(found) >= found_max:
            return found
    found.extend(_broken(broken, last, head))
    for missed, want in left.items():
        if want.seq:
            detail = f"seq {want.seq} of the checkpoint is gone: its transfers were removed from there, or all of them"
            found.append(Violation(CHECKPOINT_RULE, f"account {missed}", detail))
    return found[:found_max]


def _broken(broken: str, last: Any, head: Head) -> Iterator[Violation]:
    """What is wrong with an account whose transfers end with `last`."""
    if last is not None and (detail := broken or wrong_cache(head, last)):
        yield Violation(RULE, f"account {last[0]}", detail)


def follow(head: Head, rows: Sequence[Any], *, to_the_end: bool) -> tuple[Head, str]:
    """Walk on from `head` by the next transfers of its account; where it stands, and what is wrong there. Pure."""
    for row in rows:
        head, broken = step(head, row)
        if broken:
            return head, broken
    return head, wrong_cache(head, rows[-1]) if rows and to_the_end else ""


def step(head: Head, row: Any) -> tuple[Head, str]:
    """The head after a transfer, and what is wrong with it."""
    seq, amount_mc, stored = row[2], row[5], row[_DIGEST_AT]
    after = Head(seq, stored or b"", row[6], row[10])
    if seq != head.seq + 1:
        return after, f"seq {seq} follows seq {head.seq}: a transfer is missing"
    if stored is None:
        return after, f"seq {seq} has no digest, and those before it have" if head.digest else ""
    if recomputed(head.digest or START, row) != stored:
        return after, f"seq {seq} of {amount_mc} mc: the digest of its rows is not the one that was recorded"
    return after, ""


class Parts(msgspec.Struct, frozen=True):
    """A transfer and what stands for it, as tuples of their columns."""

    transfer: tuple[Any, ...]
    usage_event: tuple[Any, ...] | None
    grant: tuple[Any, ...] | None
    correction: tuple[Any, ...] | None
    late: tuple[Any, ...] | None
    draws: list[tuple[UUID, int]]


def parts(row: Any) -> Parts:
    """What a row of OF_ACCOUNT is made of."""
    found = []
    start = 0
    for width in _WIDTHS:
        part = tuple(row[start : start + width])
        found.append(None if part[0] is None else part)
        start += width
    transfer, usage_event, grant, correction, late = found
    draws = list(zip(row[start + 1], row[start + 2], strict=True))
    return Parts(transfer or (), usage_event, grant, correction, late, draws)


def recomputed(before: bytes, row: Any) -> bytes:
    """The digest of a transfer, from its rows as they are."""
    of = parts(row)
    return digest(
        before,
        of.transfer,
        _with_text(of.usage_event, _USAGE_AT) if row[3] == "usage" else None,
        of.grant,
        of.correction,
        _with_text(of.late, _LATE_USAGE_AT),
        of.draws,
    )


def _with_text(row: tuple[Any, ...] | None, at: int) -> tuple[Any, ...] | None:
    """The row with its usage as the text that was written: Postgres keeps jsonb in another order."""
    if row is None:
        return None
    return (*row[:at], _encode_sorted(_decode(row[at])).decode(), *row[at + 1 :])


def wrong_cache(head: Head, last: Any) -> str:
    """What is wrong between the account's last transfer, where its chain stands, and its balance."""
    if (last[-2], last[-1] or b"") == (head.seq, head.digest):
        return ""
    return f"its balance stands at seq {last[-2]} with another digest than its last transfer, seq {head.seq}"
