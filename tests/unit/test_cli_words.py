"""What people read: languages, numbers, prices, and nothing that a terminal would obey."""

import string
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.prices import RATE_MAX
from shared.pricing import KINDS
from shared.units import MC_MAX, NANO_PER_USD
from sundial.commands.price_change import OTHER_KINDS, TOKEN_KINDS
from sundial.key_secret import HINT_LENGTH, PREFIX, RANDOM_BYTES, digest, draw, hint, secret_of
from sundial.output import clean
from sundial.rates import PER_UNIT, PriceTextError, parse_price, price_text, unit
from sundial.words import LANGUAGES, WORDS, Language


def test_both_languages_have_the_same_words() -> None:
    """A word that one language has, the other has too, with the same placeholders."""
    assert set(WORDS) == set(LANGUAGES)
    assert set(WORDS["pt-BR"]) == set(WORDS["en"])
    for name, text in WORDS["pt-BR"].items():
        fields = [{field for _, field, _, _ in string.Formatter().parse(one)} for one in (text, WORDS["en"][name])]
        assert fields[0] == fields[1], name


def test_numbers_are_written_as_each_language_does() -> None:
    """1234567.5 credits are 1.234.567,5 in Portuguese and 1,234,567.5 in English; a minus is a minus sign."""
    portuguese, english = Language("pt-BR"), Language("en")
    assert (portuguese.credits(1_234_567_500), english.credits(1_234_567_500)) == ("1.234.567,5", "1,234,567.5")
    assert (portuguese.credits(-12_500), english.credits(5, signed=True)) == ("−12,5", "+0.005")
    assert (portuguese.usd(1_500_000_000), english.usd(2_125)) == ("US$ 1,50", "US$ 0.000002125")
    assert portuguese.exact("2125", 9) == "0,000002125"
    assert portuguese.permille(995) == "99,5 %"


@given(st.integers(0, MC_MAX * 1000), st.integers(0, 12))
def test_an_exact_amount_keeps_every_digit(units: int, shift: int) -> None:
    """Moving the point loses nothing, whatever the length of the number."""
    text = Language("en").exact(str(units), shift).replace(",", "")
    assert Fraction(text) == Fraction(units, 10**shift)


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    """A user's name cannot move the cursor or colour the screen: what is not printable is replaced, one for one."""
    assert clean(text).isprintable()
    assert len(clean(text)) == len(text)


@given(kind=st.sampled_from(KINDS), rate=st.integers(0, 10**15))
def test_a_rate_is_said_and_read_back(kind: str, rate: int) -> None:
    """The price that people see of a rate is the price that sets it."""
    assert parse_price(price_text(rate, kind), kind) == rate


def test_prices_are_per_what_people_say() -> None:
    """Tokens per million, seconds and images each: USD 0.15, USD 0.006 a second and USD 0.04 an image as rates."""
    assert parse_price("0.15", "input") == 150_000_000
    assert parse_price("0.006", "duration_ms") == 6_000_000_000  # a million ms are 1,000 s
    assert parse_price("0.04", "images") == 40_000 * NANO_PER_USD
    assert (unit("output"), unit("duration_ms"), unit("images")) == ("million tokens", "second", "image")
    assert set(PER_UNIT) <= set(KINDS)


@pytest.mark.parametrize("text", ["", "free", "-1", "nan", "inf", "0.0000000001", "1,5", "1" * 5_000])
def test_what_is_no_price_is_refused(text: str) -> None:
    """A price is a number of 0 or more that a rate can hold exactly."""
    with pytest.raises(PriceTextError):
        parse_price(text, "input")


@pytest.mark.parametrize("text", ["1e999999", "1e5000", "1000000000.01", "9" * 28])
def test_a_price_beyond_the_largest_is_refused(text: str) -> None:
    """However it is written; the message says how much may be asked, and for what."""
    with pytest.raises(PriceTextError, match=r"largest price, USD 1000000000\.00 per million tokens"):
        parse_price(text, "input")
    assert parse_price("1e9", "input") == RATE_MAX
    with pytest.raises(PriceTextError, match=r"largest price, USD 1000\.00 per image"):
        parse_price("1000.5", "images")


@pytest.mark.parametrize(("text", "rate"), [("0e999999", 0), ("1E-9", 1), (" 00.150 ", 150_000_000)])
def test_a_price_may_be_written_as_any_number(text: str, rate: int) -> None:
    """Exponents and zeros change nothing."""
    assert parse_price(text, "input") == rate


def test_a_price_is_not_rounded_to_be_held() -> None:
    """More digits than decimals are computed with are refused, not dropped."""
    with pytest.raises(PriceTextError, match="at most 28 characters"):
        parse_price("1.0000000000000000000000000001", "input")


def test_every_kind_of_usage_can_be_priced() -> None:
    """`sundial price set` has an option for each kind that can be sold."""
    assert sorted(TOKEN_KINDS + OTHER_KINDS) == sorted(KINDS)


@given(st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_a_secret_is_the_prefix_and_43_url_safe_characters(random: bytes) -> None:
    """Every secret has the same form, its hint is its end, and its digest is a SHA-256."""
    secret = secret_of(random)
    body = secret.removeprefix(PREFIX)
    assert len(body) == 43
    assert set(body) <= set(string.ascii_letters + string.digits + "-_")
    assert secret.endswith(hint(secret))
    assert len(hint(secret)) == HINT_LENGTH
    assert len(digest(secret)) == 32


def test_no_hint_begins_as_an_option_does() -> None:
    """`sundial key revoke HINT` must name a key: bytes that would give another hint are drawn again."""
    dashed, usual = b"\0" * 29 + b"\xfe\x46\xd2", bytes(RANDOM_BYTES)
    assert hint(secret_of(dashed)).startswith("-")
    drawn = iter([dashed, dashed, usual])
    assert draw(lambda _: next(drawn)) == usual
