"""Ids of calls, made and written by msgspec: every call has one, and UUID's own ways take four times as long."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec

from shared import ids

as_text: Final[Callable[[UUID], str]] = msgspec.to_builtins
"""An id as text, as `str` writes it."""


def event_id(now_ms: int, random: bytes) -> UUID:
    """A UUIDv7 from Unix milliseconds and ten random bytes."""
    return msgspec.convert(ids.uuid7_bytes(now_ms, random), UUID)
