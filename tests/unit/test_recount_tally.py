"""How tokens are summed up: long texts in pieces, texts that no tokenizer takes, and the error against a provider."""

import pytest

from gateway.recount.tally import (
    PIECE_CHARACTERS_MAX,
    Recount,
    Tally,
    compare,
    compare_completion,
    compare_prompt,
    pieces,
)
from gateway.recount.vocabulary import encoding_for
from shared.usage import Usage


def test_a_long_text_is_counted_in_pieces() -> None:
    """A text of a megabyte costs what it costs in one piece, but for less than one token a cut."""
    text = "O saldo disponível é a soma das concessões menos o consumo. " * 20_000
    assert len(text) > 10 * PIECE_CHARACTERS_MAX
    for whole in (text, "x" * len(text)):
        assert "".join(pieces(whole)) == whole
        assert max(map(len, pieces(whole))) <= PIECE_CHARACTERS_MAX
    recounted = Tally(encoding_for("gpt-4o")).length(text)
    assert abs(recounted - len(encoding_for("gpt-4o").encode_ordinary(text))) <= len(text) // PIECE_CHARACTERS_MAX


class PanicException(BaseException):
    """What the tokenizer's Rust library raises, by name."""


class Overwhelmed:
    """A vocabulary that cannot count; the real one has been seen to give up on endless runs of one character."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode_ordinary(self, text: str) -> list[int]:
        raise self.error


@pytest.mark.parametrize("error", [PanicException(), ValueError("stack overflow")])
def test_a_text_that_the_tokenizer_cannot_take_is_estimated(error: BaseException) -> None:
    """Where the tokenizer gives up, the size is the count, and the flag says so."""
    tally = Tally(Overwhelmed(error))
    tally.text("^" * 300)
    assert tally.recount() == Recount(101, ("estimated",))


def test_an_interrupt_is_no_estimate() -> None:
    """An interrupt while counting stays an interrupt."""
    with pytest.raises(KeyboardInterrupt):
        Tally(Overwhelmed(KeyboardInterrupt())).text("x")


def test_compare() -> None:
    """The shadow's error is relative to the provider's count, and defined where that is nothing."""
    usage = Usage(input=60, cached=40, output=15, reasoning=5)
    assert compare_prompt(Recount(101), usage) == pytest.approx(0.01)
    assert compare_completion(Recount(10), usage) == pytest.approx(-0.5)
    assert (compare(Recount(5), 0), compare(Recount(0), 0)) == (1, 0)
