"""What an account is called in Redis: made once, as most accounts that call have called before."""

from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from gateway.redis_wire import packed
from shared import ids, redis_keys

ACCOUNTS_KNOWN_MAX: Final = 16_384
"""Accounts whose names are remembered, the longest unused forgotten first: some 2 kB each."""


class AccountNames(msgspec.Struct, frozen=True):
    """How the commands begin that run the scripts in shared/lua: the keys in their order and the account's id, packed
    as Redis's protocol has them."""

    account_id: UUID
    text: str
    """The account's id."""
    shard: int
    reserve: bytes
    extend: bytes
    settle: bytes


@lru_cache(ACCOUNTS_KNOWN_MAX)
def names_by_text(text: str) -> AccountNames:
    """By the account's id as text, which hashes faster than a UUID."""
    account_id = UUID(text)
    shard = ids.shard_of(account_id)
    epoch, deadlines, stream = redis_keys.epoch(shard), redis_keys.deadlines(shard), redis_keys.usage_stream(shard)
    account, holds = redis_keys.account(shard, text), redis_keys.holds(shard, text)
    unposted = redis_keys.unposted(shard, text)
    return AccountNames(
        account_id=account_id,
        text=text,
        shard=shard,
        reserve=packed(epoch, account, holds, deadlines, stream, text),
        extend=packed(account, holds, deadlines, unposted, epoch, text),
        settle=packed(account, holds, unposted, deadlines, stream, text),
    )


@lru_cache(ACCOUNTS_KNOWN_MAX)
def names(account_id: UUID) -> AccountNames:
    return names_by_text(str(account_id))


@lru_cache(ACCOUNTS_KNOWN_MAX)
def names_of(directory_id: UUID, external_id: str) -> AccountNames:
    """Those of a directory's user, whose id is a hash."""
    return names(ids.account_id(directory_id, external_id))
