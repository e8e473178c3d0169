"""Money: millicredits and nano-USD, integers both, and how people write them."""

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

MC_PER_CREDIT: Final = 1_000
NANO_PER_USD: Final = 1_000_000_000
MC_MAX: Final = 2**53 - 1
"""The largest balance and amount, either sign: exact in a Redis Lua number too."""


_AMOUNT: Final = re.compile(r"([+-]?)(?=\.?[0-9])([0-9][0-9_]*)?(?:\.([0-9]*))?")
_AMBIGUOUS: Final = re.compile(r"[+-]?([1-9][0-9]{0,2})\.([0-9]{3})")
"""Fifty thousand where a point groups thousands, fifty where it begins the decimals."""
_DIGITS_MAX: Final = 16
"""Digits before the point that an amount may have at most."""
_SWAPPED: Final = str.maketrans(",.", ".,")


class AmountError(ValueError):
    """A text that is no amount of credits; the message says what to write instead."""


def parse_credits(text: str) -> int:
    """Millicredits from credits as a person writes them: `1000`, `1_000`, `0.5`, `-12.34`.

    Raises AmountError for anything else, for more than three decimals, beyond ±MC_MAX, and for `50.000`, which is fifty
    thousand in Portuguese and fifty in English.
    """
    if doubtful := _AMBIGUOUS.fullmatch(text.strip()):
        whole, decimals = doubtful.groups()
        fine = f"{whole}.{decimals.rstrip('0')}" if decimals.endswith("0") else f"{whole}.{decimals}0"
        raise AmountError(f"{text!r} can be read in two ways; write {whole}{decimals}, or {fine.rstrip('.')}")
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise AmountError(f"{text!r} is no amount of credits; write for example 1000 or 0.5")
    sign, whole, decimals = found[1], (found[2] or "").replace("_", "").lstrip("0"), (found[3] or "").rstrip("0")
    if len(decimals) > 3:
        raise AmountError(f"{text!r} has more than three decimals; the smallest amount is 0.001 credits")
    mc = int(whole[:_DIGITS_MAX] + decimals.ljust(3, "0"))
    if len(whole) > _DIGITS_MAX or mc > MC_MAX:
        raise AmountError(f"{text!r} is beyond the largest amount, {format_credits(MC_MAX)} credits")
    return -mc if sign == "-" else mc


def format_credits(mc: int, language: str = "en") -> str:
    """Credits for people, with up to three decimals: 1234567 → `1,234.567`, in pt-BR `1.234,567`."""
    whole, part = divmod(abs(mc), MC_PER_CREDIT)
    text = f"{whole:,}"
    if part:
        text += f".{part:03d}".rstrip("0")
    if language == "pt-BR":
        text = text.translate(_SWAPPED)
    return f"-{text}" if mc < 0 else text


def format_usd(nano: int) -> str:
    """US dollars for people, to the nano-dollar where needed: 1_500_000_000 → `1.50`."""
    text = f"{Decimal(nano) / NANO_PER_USD:,.9f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


def round_half_even(numerator: int, denominator: int) -> int:
    """`numerator / denominator` to the nearest integer, ties to even. The one rounding of a usage event."""
    assert denominator > 0
    quotient, remainder = divmod(numerator, denominator)
    twice = remainder * 2
    if twice > denominator or (twice == denominator and quotient % 2 == 1):
        quotient += 1
    return quotient


def quantise_nano(usd: float) -> int:
    """Nano-USD of a float of dollars: to pico-USD first, so that binary noise cannot tip a tie."""
    pico = Decimal(repr(usd)).quantize(Decimal("1e-12"), rounding=ROUND_HALF_EVEN)
    return int((pico * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))
