"""Identifiers: how each is made, and where a call's keys live.

Event and order ids are UUIDv7 (RFC 9562): the month of a row is in its key, so that tables partition by it and the
key stays unique. Account ids are UUIDv5: anyone who knows the directory and the external id can compute them.
"""

import zlib
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

SHARDS: Final = 16
"""Logical shards. Fixed for ever: keys in Redis and streams are named by it."""

EXTERNAL_ID_LENGTH_MAX: Final = 128
"""Characters of an external user id."""

_SUNDIAL: Final = UUID("6f2d1b34-9c1e-5b0a-8f57-2f1d7f0c5a11")
"""Namespace of every UUIDv5 below; never changes."""

_VERSION_7: Final = 0x7 << 76 | 0x2 << 62
"""The bits of a UUIDv7 that say what it is: its version and its variant."""
_RANDOM_AND_TIME: Final = ~(0xF << 76 | 0x3 << 62)
"""All its others."""


def uuid7(now_ms: int, random: bytes) -> UUID:
    """A UUIDv7 from Unix milliseconds and ten random bytes."""
    return UUID(bytes=uuid7_bytes(now_ms, random))


def uuid7_bytes(now_ms: int, random: bytes) -> bytes:
    """Its 16 bytes."""
    assert now_ms >> 48 == 0
    assert len(random) == 10
    bits = (now_ms << 80 | int.from_bytes(random, "big")) & _RANDOM_AND_TIME | _VERSION_7
    return bits.to_bytes(16, "big")


def uuid7_ms(value: UUID) -> int:
    """The Unix milliseconds inside a UUIDv7."""
    return value.int >> 80


def uuid7_floor(moment: datetime) -> UUID:
    """The smallest UUID whose time is `moment`: the bound of a month's partition."""
    ms = int(moment.astimezone(UTC).timestamp() * 1000)
    return UUID(int=ms << 80)


def directory_id(name: str) -> UUID:
    """The id of a directory: a place whose user ids are unique, such as one LibreChat."""
    return uuid5(_SUNDIAL, f"directory:{name}")


def account_id(directory: UUID, external_id: str) -> UUID:
    """The id of the account that `external_id` has in `directory`."""
    return uuid5(directory, external_id)


def allowance_id(account: UUID, plan: str, period: str) -> UUID:
    """The id of the grant of a plan's allowance, the same wherever and however often it is derived.

    `period` is `first` for the allowance of a user seen for the first time.
    """
    return uuid5(account, f"allowance:{plan}:{period}")


def root_of(account: UUID) -> UUID:
    """The topmost group above an account, whose shard holds everything a hold must check. Groups come later."""
    return account


def shard_of(account: UUID) -> int:
    """The logical shard of an account, 0 to 15."""
    return zlib.crc32(root_of(account).bytes) % SHARDS
