"""The names of an account in Redis, as the gateway makes them once."""

import re
from uuid import UUID

from gateway.account_names import names, names_by_text, names_of
from gateway.redis_wire import packed
from shared import ids, redis_keys, scripts


def test_they_are_the_keys_of_the_scripts_in_their_order() -> None:
    """Each script of shared/lua says which keys it takes: `-- KEYS  epoch, account, …  (one slot)`."""
    account_id = ids.account_id(ids.directory_id("librechat"), "ana")
    account, shard = names(account_id), ids.shard_of(account_id)
    made = {
        "epoch": redis_keys.epoch(shard),
        "account": redis_keys.account(shard, account_id),
        "holds": redis_keys.holds(shard, account_id),
        "unposted": redis_keys.unposted(shard, account_id),
        "deadlines": redis_keys.deadlines(shard),
        "stream": redis_keys.usage_stream(shard),
    }
    assert (account.text, account.shard) == (str(account_id), shard)
    for name, keys in (("reserve", account.reserve), ("extend", account.extend), ("settle", account.settle)):
        said = re.search(r"^-- KEYS +(.*?) +\(one slot\)$", scripts.load(name, 7).text, re.MULTILINE)
        assert said is not None
        assert keys == packed(*(made[part] for part in said[1].split(", ")), account.text), name


def test_one_account_has_one_set_of_names() -> None:
    directory = ids.directory_id("librechat")
    assert names_of(directory, "ana") is names(ids.account_id(directory, "ana"))
    assert names_of(directory, "ana") is not names_of(directory, "rui")
    assert names_of(directory, "ana").account_id == ids.account_id(directory, "ana")
    assert names(UUID(int=1)) is names(UUID(int=1)) is names_by_text(str(UUID(int=1)))
