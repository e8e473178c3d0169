"""The secret of an API key: made here, shown once, kept nowhere."""

import base64
import hashlib
from collections.abc import Callable
from typing import Final

PREFIX: Final = "sk-sundial-"
"""Tells people and secret scanners whose key a text is."""
RANDOM_BYTES: Final = 32
HINT_LENGTH: Final = 4


def draw(randomness: Callable[[int], bytes]) -> bytes:
    """Random bytes of a secret whose hint can be typed after a command: one with a dash in front is an option there."""
    while True:
        random = randomness(RANDOM_BYTES)
        if not hint(secret_of(random)).startswith("-"):
            return random


def secret_of(random: bytes) -> str:
    """The secret that 32 random bytes make: the prefix and 43 URL-safe characters."""
    assert len(random) == RANDOM_BYTES
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def digest(secret: str) -> bytes:
    """SHA-256, under which the key is found. A secret of 256 random bits needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def hint(secret: str) -> str:
    return secret[-HINT_LENGTH:]
