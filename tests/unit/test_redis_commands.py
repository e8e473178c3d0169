"""The commands that run a script: put together from parts that were packed before, and the same bytes as if all of each
had been packed at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import redis_link
from gateway.account_names import names
from gateway.redis_link import KEYS, SCRIPTS, RedisLink
from gateway.redis_wire import RedisAnswerError, Waiter, packed
from shared import ids, scripts

ACCOUNT = names(ids.account_id(ids.directory_id("librechat"), "ana"))
PART = st.binary(max_size=300) | st.text(max_size=300) | st.integers(-(2**63), 2**63)
CALLS = st.sampled_from(sorted(SCRIPTS)).flatmap(
    lambda name: st.tuples(st.just(name), st.tuples(*[PART] * (SCRIPTS[name] - 1)))
)
LOADED = {name: scripts.load(name, 7) for name in SCRIPTS}


class Wire:
    """Remembers what it is asked."""

    lost = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def ask(self, command: bytes, _: Waiter) -> None:
        self.sent.append(command)


def sent(asking: Any) -> bytes:
    """The command that `asking` makes of a link."""
    link, wire = RedisLink("redis://127.0.0.1"), Wire()
    loose: Any = link
    loose._wire, loose._scripts = wire, LOADED
    loose._heads = {name: redis_link._head(name, script) for name, script in LOADED.items()}

    async def ask() -> None:
        asked = asking(link)
        if isinstance(asked, Coroutine):
            running = asyncio.ensure_future(asked)
            await asyncio.sleep(0)
            running.cancel()

    asyncio.run(ask())
    (command,) = wire.sent
    return command


def at_once(*parts: Any) -> bytes:
    command: bytes = hiredis.pack_command(parts)
    return command


@given(CALLS)
def test_a_script_is_run_by_its_sha_with_its_keys_and_arguments(call: tuple[str, tuple[Any, ...]]) -> None:
    name, arguments = call
    account = packed("e", "a", "ü", b"\x00\r\n", 12, "account")
    command = at_once("EVALSHA", LOADED[name].sha1, KEYS, "e", "a", "ü", b"\x00\r\n", 12, "account", *arguments)
    assert sent(lambda link: link.call(name, account, arguments)) == command
    assert sent(lambda link: link.tell(name, account, arguments, asyncio.Future())) == command
    assert sent(lambda link: link.run(name, account, arguments)) == command


@given(CALLS)
def test_one_that_was_forgotten_is_sent_with_its_text(call: tuple[str, tuple[Any, ...]]) -> None:
    name, arguments = call
    forgotten = RedisAnswerError("NOSCRIPT No matching script. Please use EVAL.")
    account = packed(1, 2, 3, 4, 5, "account")
    command = at_once("EVAL", LOADED[name].text, KEYS, 1, 2, 3, 4, 5, "account", *arguments)
    assert sent(lambda link: link.taught(forgotten, name, account, arguments)) == command


def test_another_error_is_no_reason_to_send_it() -> None:
    with pytest.raises(RedisAnswerError, match="OOM"):
        sent(lambda link: link.taught(RedisAnswerError("OOM no memory"), "settle", ACCOUNT.settle, ("", 0, "", "")))
