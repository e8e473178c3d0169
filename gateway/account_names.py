"""What an account is called in Redis: made once, as most accounts that call have called before."""

from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from shared import ids, redis_keys

ACCOUNTS_KNOWN_MAX: Final = 16_384
"""Accounts whose names are remembered, the longest unused forgotten first: some 2 kB each."""


class AccountNames(msgspec.Struct, frozen=True):
    """The keys are those of the scripts in shared/lua, in their order."""

    text: str
    """The account's id."""
    shard: int
    reserve: tuple[str, ...]
    extend: tuple[str, ...]
    settle: tuple[str, ...]


@lru_cache(ACCOUNTS_KNOWN_MAX)
def names(account_id: UUID) -> AccountNames:
    text, shard = str(account_id), ids.shard_of(account_id)
    epoch, deadlines, stream = redis_keys.epoch(shard), redis_keys.deadlines(shard), redis_keys.usage_stream(shard)
    account, holds = redis_keys.account(shard, text), redis_keys.holds(shard, text)
    unposted = redis_keys.unposted(shard, text)
    return AccountNames(
        text=text,
        shard=shard,
        reserve=(epoch, account, holds, deadlines, stream),
        extend=(account, holds, deadlines, unposted, epoch),
        settle=(account, holds, unposted, deadlines, stream),
    )


account_of: Final = lru_cache(ACCOUNTS_KNOWN_MAX)(ids.account_id)
"""The id of a directory's user: a hash, which is the same each time."""
