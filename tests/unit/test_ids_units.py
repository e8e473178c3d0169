"""Identifiers and money: how they are made, written and rounded."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids
from shared.units import (
    MC_MAX,
    AmountError,
    format_credits,
    format_usd,
    parse_credits,
    quantise_nano,
    round_half_even,
)

MS = st.integers(0, 2**48 - 1)
RANDOM = st.binary(min_size=10, max_size=10)


# Ids --------------------------------------------------------------------------------------------------------------


@given(MS, RANDOM)
def test_an_event_id_is_a_uuid_of_version_7_that_keeps_its_time(now_ms: int, random: bytes) -> None:
    """Version and variant as RFC 9562 has them; the milliseconds come back."""
    made = ids.uuid7(now_ms, random)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert ids.uuid7_ms(made) == now_ms


@given(MS, RANDOM, MS, RANDOM)
def test_event_ids_sort_by_time(one_ms: int, one: bytes, other_ms: int, other: bytes) -> None:
    """An earlier millisecond is a smaller id, whatever the random part."""
    if one_ms < other_ms:
        assert ids.uuid7(one_ms, one) < ids.uuid7(other_ms, other)


@given(RANDOM, RANDOM)
def test_all_random_bits_but_six_are_used(one: bytes, other: bytes) -> None:
    """74 random bits: ids differ wherever the bytes differ outside version and variant."""
    mask = ~((0xF << 76) | (0x3 << 62))
    differ = (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")) & mask
    assert (ids.uuid7(1, one) != ids.uuid7(1, other)) is bool(differ)


@given(st.integers(86_400, 7_000_000_000), RANDOM)
def test_a_month_begins_below_its_first_event(second: int, random: bytes) -> None:
    """The bound of a partition is not above any id of that millisecond, and above all of the one before."""
    floor = ids.uuid7_floor(datetime.fromtimestamp(second, UTC))
    assert ids.uuid7_ms(floor) == second * 1_000
    at = ids.uuid7_ms(floor)
    assert floor <= ids.uuid7(at, random)
    assert floor > ids.uuid7(at - 1, random)


def test_the_bound_of_a_month_follows_its_time_zone() -> None:
    """Midnight in São Paulo is three hours later than in UTC."""
    local = ids.uuid7_floor(datetime(2026, 11, 1, tzinfo=timezone(timedelta(hours=-3))))
    assert ids.uuid7_ms(local) == int(datetime(2026, 11, 1, 3, tzinfo=UTC).timestamp() * 1000)


def test_ids_that_others_have_computed_never_change() -> None:
    """Directory, account, grant and shard are derived: a change here would split every account in two."""
    directory = ids.directory_id("librechat")
    account = ids.account_id(directory, "José")
    assert directory == UUID("2e024de1-69eb-5e42-8227-ed119039aff2")
    assert account == UUID("a40cff30-a4ec-5274-aeda-9de694167c4f")
    assert ids.allowance_id(account, "default", "first") == UUID("6fac88ad-d763-5475-b105-17ebdf7d47b7")
    assert ids.shard_of(account) == 7


@given(st.text(), st.text())
def test_two_users_are_two_accounts(one: str, other: str) -> None:
    """Different ids, different accounts; the same id, the same account."""
    directory = ids.directory_id("librechat")
    assert (ids.account_id(directory, one) == ids.account_id(directory, other)) is (one == other)


def test_accounts_spread_over_all_shards() -> None:
    """No shard is empty and none has twice its share."""
    directory = ids.directory_id("librechat")
    counts = [0] * ids.SHARDS
    for number in range(8_000):
        counts[ids.shard_of(ids.account_id(directory, f"user-{number}"))] += 1
    assert min(counts) > 250
    assert max(counts) < 1_000


# Credits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mc"),
    [
        ("1000", 1_000_000),
        ("1_000", 1_000_000),
        ("0.5", 500),
        (".5", 500),
        ("7.", 7_000),
        ("-12.3450", -12_345),
        ("0.125", 125),
        ("1_234.567", 1_234_567),
        ("1234.500", 1_234_500),
        ("+3", 3_000),
        (" 8 ", 8_000),
        ("-0", 0),
        ("000.100000", 100),
        ("9007199254740.991", MC_MAX),
        ("-9007199254740.991", -MC_MAX),
    ],
)
def test_an_amount_is_read_exactly(text: str, mc: int) -> None:
    """Credits as people write them, to the millicredit."""
    assert parse_credits(text) == mc


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "-",
        "_",
        "x",
        "1,000",
        "1.000,5",
        "0x10",
        "1e3",
        "1e999999",
        "nan",
        "inf",
        "1 000",
        "٣",
        "1.2.3",
        "--1",
    ],
)
def test_what_is_no_amount_says_so(text: str) -> None:
    """Anything else is refused by name: no exponents, no thousands, no digits of another script."""
    with pytest.raises(AmountError, match="no amount"):
        parse_credits(text)


@pytest.mark.parametrize(
    "text", ["0.0001", "1.0005", "-0.00000000000000000000000001", "9007199254740.99100000000000000001"]
)
def test_more_than_three_decimals_are_refused(text: str) -> None:
    """A millicredit is the smallest amount: nothing is rounded away."""
    with pytest.raises(AmountError, match="three decimals"):
        parse_credits(text)


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("50.000", "50000, or 50"),
        ("-5.000", "5000, or 5"),
        ("+2.500", "2500, or 2.5"),
        (" 123.456 ", "123456, or 123.4560"),
    ],
)
def test_an_amount_of_two_meanings_is_refused(text: str, both: str) -> None:
    """`50.000` is fifty thousand in Portuguese and fifty in English; the text says how to write either."""
    with pytest.raises(AmountError, match=f"two ways; write {both}$"):
        parse_credits(text)
    for said in both.split(", or "):
        parse_credits(said)


@pytest.mark.parametrize("text", ["9007199254740.992", "-9007199254741", "9" * 400])
def test_amounts_beyond_the_largest_are_refused(text: str) -> None:
    """Beyond ±(2^53 − 1) millicredits Redis could not count exactly."""
    with pytest.raises(AmountError, match="largest amount"):
        parse_credits(text)


@given(st.integers(-MC_MAX, MC_MAX))
def test_an_amount_that_is_shown_can_be_typed_again(mc: int) -> None:
    """`format_credits` and `parse_credits` are each other's inverse, thousands marks apart; pt-BR swaps the marks."""
    shown = format_credits(mc)
    decimals = shown.partition(".")[2]
    typed = shown + "0" if len(decimals) == 3 else shown  # three decimals might be thousands
    assert parse_credits(typed.replace(",", "_")) == mc
    assert format_credits(mc, "pt-BR") == shown.replace(",", ";").replace(".", ",").replace(";", ".")


@pytest.mark.parametrize(
    ("mc", "en", "pt"),
    [
        (1_234_567, "1,234.567", "1.234,567"),
        (-500, "-0.5", "-0,5"),
        (0, "0", "0"),
        (10, "0.01", "0,01"),
        (1_000_000, "1,000", "1.000"),
    ],
)
def test_credits_are_shown_as_each_language_does(mc: int, en: str, pt: str) -> None:
    """No zeros at the end, no decimals where there are none."""
    assert (format_credits(mc, "en"), format_credits(mc, "pt-BR")) == (en, pt)


# Dollars and rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (1_500_000_000, "1.50"),
        (0, "0.00"),
        (1, "0.000000001"),
        (-2_000_000_000, "-2.00"),
        (1_234_567_000_000_000, "1,234,567.00"),
    ],
)
def test_dollars_are_shown_to_the_nano_where_needed(nano: int, text: str) -> None:
    """At least cents, at most nine decimals."""
    assert format_usd(nano) == text


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**18))
def test_rounding_is_half_to_even(numerator: int, denominator: int) -> None:
    """As exact fractions round, either sign, whatever the size."""
    assert round_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(st.integers(0, 10**15))
def test_a_float_of_dollars_is_read_as_the_decimal_that_was_meant(pico: int) -> None:
    """Any amount of whole pico-dollars that went through a float comes back, ties to even."""
    exact = Decimal(pico) / 1000
    assert quantise_nano(pico / 10**12) == int(exact.to_integral_value(rounding=ROUND_HALF_EVEN))
