"""Thought that is sent sealed: how many tokens it is, by the size of its envelope.

Responses carry a model's thought encrypted, for the client to send back (`reasoning.encrypted_content`). What it says
nobody can read; how long it is shows. It arrives when the thought has ended and before the answer is seen, so a call
that is cut later can be charged for it: an estimate, within 6 % of what was billed over the recorded calls.
"""

from typing import Final

import msgspec

from gateway.recount.vocabulary import bare_name


class Seal(msgspec.Struct, frozen=True):
    """Base64 characters around every sealed thought, and tenths of characters for each token in it."""

    envelope: int
    characters_per_token_x10: int

    def tokens(self, size: int) -> int:
        """Tokens of a thought whose sealed form has `size` characters."""
        return max(0, (size - self.envelope) * 10 // self.characters_per_token_x10)


OPENAI: Final = Seal(envelope=940, characters_per_token_x10=64)
GROK: Final = Seal(envelope=0, characters_per_token_x10=62)

_SEALS: Final = (("gpt-", OPENAI), ("o1", OPENAI), ("o3", OPENAI), ("o4", OPENAI), ("codex", OPENAI), ("grok", GROK))
"""Start of a model's bare name → how its provider seals; others' sealed thought counts as nothing."""


def sealed_tokens(model: str, size: int) -> int:
    """Tokens of a thought that `model` sent in `size` characters of `encrypted_content`."""
    name = bare_name(model)
    return next((seal.tokens(size) for start, seal in _SEALS if name.startswith(start)), 0)
