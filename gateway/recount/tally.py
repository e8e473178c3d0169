"""What a recount says, and the accumulator that every rule adds to."""

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from shared.usage import Usage

PIECE_CHARACTERS_MAX: Final = 1 << 16
"""Characters encoded in one go. A longer text is cut at a space or a line end near every such mark, which changes its
count by less than one token a cut and bounds the memory of one step."""

FLAT_BYTES_PER_TOKEN: Final = 3
"""Bytes a token where the tokenizer gave up on a text: an upper estimate for prose, flagged `estimated`."""


class Vocabulary(Protocol):
    """The part of `tiktoken.Encoding` that is used here."""

    def encode_ordinary(self, text: str) -> list[int]: ...


class Recount(msgspec.Struct, frozen=True):
    """Tokens of one direction of a call, and why they may be less certain than a provider's own count.

    Flags: `estimated` (no vocabulary of this provider, or a shape without a measured rule), `remote_image` (its size
    is unknown), `audio`, `pdf`, `file`, `hidden_history` (the provider keeps the conversation), `hidden_reasoning`,
    `hosted_tool` (the provider's own tools add text that nobody sees).
    """

    tokens: int
    flags: tuple[str, ...] = ()


def compare(recount: Recount, counted: int) -> float:
    """Relative error of a recount against the provider's own count of the same direction; 0.01 is 1 % too many.

    Where the provider counted nothing, any recount above nothing is an error of 1.
    """
    if counted <= 0:
        return float(recount.tokens > 0)
    return recount.tokens / counted - 1


def compare_prompt(recount: Recount, usage: Usage) -> float:
    """Relative error of a prompt's recount against a provider's usage."""
    return compare(recount, usage.tokens_in)


def compare_completion(recount: Recount, usage: Usage) -> float:
    """Relative error of a completion's recount against a provider's usage."""
    return compare(recount, usage.tokens_out)


class Tally:
    """Adds up texts and constants in the vocabulary of one model."""

    __slots__ = ("_vocabulary", "flags", "tokens")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens = 0
        self.flags: set[str] = set()

    def length(self, text: str) -> int:
        """Tokens of `text`, which is looked at once and not kept."""
        try:
            if len(text) <= PIECE_CHARACTERS_MAX:
                return len(self._vocabulary.encode_ordinary(text))
            return sum(len(self._vocabulary.encode_ordinary(piece)) for piece in pieces(text))
        except BaseException as error:
            # The tokenizer's regular expressions can give up on endless runs of one character, as a panic of the
            # Rust library that is no Exception. Anything else is not ours to swallow.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                self.flags.add("estimated")
                return len(text.encode(errors="replace")) // FLAT_BYTES_PER_TOKEN + 1
            raise

    def text(self, *texts: object) -> None:
        """Adds each text's tokens; what is not a text adds nothing."""
        for text in texts:
            if isinstance(text, str) and text:
                self.tokens += self.length(text)

    def add(self, tokens: int) -> None:
        self.tokens += tokens

    def flag(self, flag: str) -> None:
        self.flags.add(flag)

    def recount(self) -> Recount:
        return Recount(max(0, self.tokens), tuple(sorted(self.flags)))


def pieces(text: str) -> Iterable[str]:
    """`text` in parts of at most PIECE_CHARACTERS_MAX, cut before a line end or space where there is one near."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS_MAX:
        end = start + PIECE_CHARACTERS_MAX
        cut = max(text.rfind("\n", start + 1, end), text.rfind(" ", start + 1, end))
        cut = cut if cut > start else end
        yield text[start:cut]
        start = cut
    yield text[start:]
