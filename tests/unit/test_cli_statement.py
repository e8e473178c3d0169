"""The arithmetic of statements, without a database."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.units import MC_MAX
from sundial.statement import (
    KINDS,
    Position,
    StatementBrokenError,
    close_totals,
    first_shown,
    follow,
    month_bounds,
    month_of,
    shares_permille,
)

SAO_PAULO = ZoneInfo("America/Sao_Paulo")

amounts = st.integers(min_value=-(10**12), max_value=10**12)
histories = st.lists(st.tuples(st.sampled_from(KINDS), amounts), max_size=40)


def summed(history: list[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for kind, amount in history:
        sums[kind] = sums.get(kind, 0) + amount
    return sums


@given(opening=st.integers(-MC_MAX, MC_MAX), history=histories)
def test_every_history_closes(opening: int, history: list[tuple[str, int]]) -> None:
    """Whatever was booked: opening + grants + purchases − usage + adjustments − expiry is the closing balance."""
    closing = opening + sum(amount for _, amount in history)
    totals = close_totals(Position(7, opening), Position(7 + len(history), closing), summed(history))
    assert (totals.opening, totals.closing) == (opening, closing)
    assert (
        totals.opening + totals.grants + totals.purchases - totals.usage + totals.adjustments - totals.expiry
        == totals.closing
    )


@given(history=histories, error=st.integers().filter(bool))
def test_a_wrong_closing_balance_is_never_shown(history: list[tuple[str, int]], error: int) -> None:
    """A balance that the entries do not lead to raises, however small the difference."""
    closing = sum(amount for _, amount in history) + error
    with pytest.raises(StatementBrokenError):
        close_totals(Position(0, 0), Position(len(history), closing), summed(history))


def test_usage_and_expiry_are_positive_and_refunds_are_adjustments() -> None:
    """What went away is told as a positive number; refunds and moves count among the adjustments, with their sign."""
    sums = {"usage": -30, "expiry": -5, "refund": 4, "move": -1, "adjustment": 2, "grant": 100, "purchase": 7}
    totals = close_totals(Position(0, 0), Position(9, 77), sums)
    assert (totals.usage, totals.expiry, totals.adjustments) == (30, 5, 5)


def test_an_unknown_kind_is_not_left_out_silently() -> None:
    """A kind of transfer that no line of the statement holds raises, even where it sums to nothing."""
    with pytest.raises(StatementBrokenError, match="gift"):
        close_totals(Position(0, 0), Position(1, 0), {"gift": 0})


@given(opening=amounts, moves=st.lists(amounts, min_size=1, max_size=30))
def test_an_unbroken_history_is_followed_to_its_end(opening: int, moves: list[int]) -> None:
    """Following entry by entry ends at the sum."""
    position = Position(3, opening)
    for amount in moves:
        position = follow(position, position.seq + 1, amount, position.balance_mc + amount)
    assert position == Position(3 + len(moves), opening + sum(moves))


@pytest.mark.parametrize(("seq", "amount", "after"), [(6, 10, 110), (4, 10, 110), (5, 10, 111), (5, 11, 110)])
def test_a_gap_or_a_wrong_balance_breaks_a_history(seq: int, amount: int, after: int) -> None:
    """After entry 4 at 100 comes entry 5, whose balance is 100 plus its amount; all else raises."""
    with pytest.raises(StatementBrokenError):
        follow(Position(4, 100), seq, amount, after)


def test_a_month_begins_at_local_midnight() -> None:
    """November in São Paulo begins and ends three hours after UTC's."""
    start, end = month_bounds("2026-11", SAO_PAULO)
    assert start.astimezone(UTC) == datetime(2026, 11, 1, 3, tzinfo=UTC)
    assert end.astimezone(UTC) == datetime(2026, 12, 1, 3, tzinfo=UTC)
    assert month_bounds("2026-12", SAO_PAULO)[1] == datetime(2027, 1, 1, tzinfo=SAO_PAULO)


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "2026-1", "202611", "november", "", "2026-11-01", "0000-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    """A month is written 2026-11 and nothing else."""
    with pytest.raises(ValueError, match="2026-11"):
        month_bounds(text, UTC)


@given(
    unix_us=st.integers(631_152_000_000_000, 3_786_912_000_000_000),
    zone=st.sampled_from([SAO_PAULO, ZoneInfo("Europe/Lisbon"), ZoneInfo("Asia/Kathmandu"), UTC]),
)
def test_every_moment_lies_in_exactly_its_month(unix_us: int, zone: ZoneInfo) -> None:
    """Months follow one another without gap or overlap in every zone."""
    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=unix_us)
    start, end = month_bounds(month_of(moment, zone), zone)
    assert start <= moment < end
    assert month_of(end, zone) != month_of(end - timedelta(microseconds=1), zone)


@given(st.dictionaries(st.sampled_from(["provider", "recounted", "checkpoint", "none"]), st.integers(0, MC_MAX)))
def test_shares_sum_to_the_whole(parts: dict[str, int]) -> None:
    """Shares are within a tenth of a percent of the truth and sum to 100 %, or are 0 where nothing was charged."""
    shares = shares_permille(parts)
    whole = sum(parts.values())
    assert sum(shares.values()) == (1000 if whole else 0)
    for name, share in shares.items():
        assert not whole or abs(share * whole - parts[name] * 1000) < whole


@given(start=st.integers(0, 1000), length=st.integers(0, 1000), limit=st.integers(0, 2000))
def test_a_limit_keeps_the_newest_entries(start: int, length: int, limit: int) -> None:
    """At most `limit` entries are listed, the newest; all of them where it is 0."""
    opening, closing = Position(start, 0), Position(start + length, 0)
    shown = closing.seq - first_shown(opening, closing, limit)
    assert shown == (min(limit, length) if limit else length)
