"""C1, C7: clients that leave, at any moment and in any way: what reached the upstream is booked, nothing stays held."""

import asyncio
import json
import random
import socket
import struct
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play, Served
from tests.harness.waiting import until

STAYS_S_MAX: Final = 15.0
BOOKED_S_MAX: Final = 30.0
MESSAGES: Final = [{"role": "user", "content": "Conte até mil."}]
CALLS: Final = 300
LIVES_S_MAX: Final = 0.08
"""How long a client of the random test stays, where it leaves by the clock."""
READS_BYTES_MAX: Final = 5_000
"""How much it reads at most, where it leaves by what has come: more than a whole answer."""


class Client:
    """A client on a bare socket, that leaves by FIN or by RST."""

    def __init__(self, chain: Chain, secret: str, *, stream: bool = True) -> None:
        self._address = urlsplit(chain.stack.base_url)
        body = json.dumps({"model": "gpt-4o-mini", "messages": MESSAGES, "stream": stream}).encode()
        self.request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (secret.encode(), len(body), body)
        )
        self.received = b""

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)

    async def send(self, data: bytes = b"") -> None:
        self._writer.write(data or self.request)
        await self._writer.drain()

    async def until(self, mark: bytes, times: int = 1) -> None:
        """Read until `mark` has come so often."""
        while self.received.count(mark) < times:
            data = await asyncio.wait_for(self._reader.read(1 << 16), 15)
            assert data, f"the answer ended before {mark!r}: {self.received[-200:]!r}"
            self.received += data

    async def until_bytes(self, number: int) -> None:
        """Read until so many bytes have come, or the whole answer, streamed or not."""
        while len(self.received) < number and not self.received.endswith((b"\r\n0\r\n\r\n", b"}]}", b"}}}")):
            data = await self._reader.read(1 << 16)
            if not data:
                return
            self.received += data

    def leave(self, *, reset: bool) -> None:
        if reset:
            raw: socket.socket = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_c1_leaves_at_each_phase(chain: Chain, reset: bool) -> None:
    """Gone before the head, after it, in the text, after [DONE]: the upstream is closed within a second, and the call
    booked as `client_gone` at what came, or as `complete`."""
    secret = await chain.personal("ana", credit="1000000")
    never = asyncio.Event()
    plays = {
        "before the head": Play(before_head=never),
        "after the head": Play(pause=lambda sent: asyncio.ensure_future(never.wait())),
        "in the text": Play(tokens=30, pause=lambda sent: asyncio.ensure_future(never.wait()) if sent == 10 else None),
        "after [DONE]": Play(tokens=30),
    }
    expected: dict[str, tuple[str, int]] = {}
    for phase, play in plays.items():
        number = len(chain.upstream.served) + 1
        chain.upstream.script = lambda _, play=play: play  # type: ignore[misc]
        client = Client(chain, secret)
        await client.connect()
        await client.send()
        await chain.upstream.arrived(number)
        served = chain.upstream.served[-1]
        if phase == "after the head":
            await client.until(b"\r\n\r\n")
        elif phase == "in the text":
            await client.until(b'"content":"', 11)
        elif phase == "after [DONE]":
            await client.until(b"data: [DONE]\n\n")
        client.leave(reset=reset)
        await asyncio.wait_for(served.closed.wait(), 1.0)
        outcome = "complete" if phase == "after [DONE]" else "client_gone"
        assert served.ended == ("complete" if phase == "after [DONE]" else "gone"), phase
        expected[str(served.event_id)] = outcome, served.sent_tokens
    entries = await chain.usage_entries("ana", len(plays))
    assert {entry["event_id"]: (entry["outcome"], entry["tokens_out"]) for entry in entries} == expected


async def test_c1_random_aborts(chain: Chain) -> None:
    """300 calls, whose clients leave at random moments and places: nothing stays held, every request that the upstream
    saw is booked once, at no more than it sent, and of those that it never saw nothing is charged."""
    chance = random.Random(7)
    secret = await chain.personal("ana", credit="100000000")

    def script(_: dict[str, Any]) -> Play:
        slow = chance.random() < 0.5
        usage = chance.random() < 0.7
        pauses = [chance.uniform(0, 0.004) for _ in range(12)]
        return Play(
            usage=usage, pause=(lambda sent: asyncio.ensure_future(asyncio.sleep(pauses[sent]))) if slow else None
        )

    chain.upstream.script = script

    async def call() -> None:
        stream = chance.random() < 0.7
        client = Client(chain, secret, stream=stream)
        await client.connect()
        cut = chance.randrange(len(client.request)) if chance.random() < 0.1 else len(client.request)
        await client.send(client.request[:cut])
        if chance.random() < 0.4:
            stays = asyncio.create_task(client.until(b"data: [DONE]\n\n" if stream else b"}}"))
            await asyncio.wait((stays,), timeout=chance.uniform(0, LIVES_S_MAX))
        else:
            stays = asyncio.create_task(client.until_bytes(chance.randrange(READS_BYTES_MAX)))
            await asyncio.wait((stays,), timeout=STAYS_S_MAX if cut == len(client.request) else 0)
        client.leave(reset=chance.random() < 0.5)
        stays.cancel()
        await asyncio.gather(stays, return_exceptions=True)

    limit = asyncio.Semaphore(20)

    async def limited() -> None:
        async with limit:
            await call()

    await asyncio.gather(*(limited() for _ in range(CALLS)))
    seen: dict[str, Served] = {}
    booked: dict[str, dict[str, Any]] = {}
    entries: list[dict[str, Any]] = []

    async def all_booked() -> bool:
        await chain.settled("ana")
        entries[:] = await chain.usage_entries("ana", 0)
        booked.update({entry["event_id"]: entry for entry in entries})
        # Looked at last: a request may have waited in the gateway's socket until its client had long left.
        seen.update({str(served.event_id): served for served in chain.upstream.served})
        return seen.keys() <= booked.keys() and all(served.closed.is_set() for served in seen.values())

    await until(all_booked, BOOKED_S_MAX, "everything that the upstream worked on is booked")
    assert len(booked) == len(entries), "an event twice"
    assert len(seen) > CALLS // 3, "hardly any call came to the upstream: the test shows nothing"
    assert len({entry["outcome"] for entry in entries}) > 1, "nobody left in time: the test shows nothing"
    for event_id, entry in booked.items():
        if event_id not in seen:
            assert (entry["evidence"], entry["amount"]) == ("none", 0)
        elif entry["evidence"] == "provider":
            assert entry["tokens_out"] == seen[event_id].sent_tokens
        else:
            # What was on its way when the client left is neither known to have come nor to have not.
            assert entry["tokens_out"] <= seen[event_id].sent_tokens
    faults = [line for line in chain.stack.gateway.output.splitlines() if "task_failed" in line or "Traceback" in line]
    assert not faults, faults[0][:2000]


async def test_c7_the_same_request_twice(chain: Chain) -> None:
    """The same bytes sent twice are two calls and two events."""
    secret = await chain.personal("ana", credit="1000000")
    client = Client(chain, secret)
    await client.connect()
    for number in (1, 2):
        await client.send()
        await client.until(b"data: [DONE]\n\n", number)
    client.leave(reset=False)
    first, second = await chain.usage_entries("ana", 2)
    assert first["event_id"] != second["event_id"]
    assert (first["amount"], first["tokens_out"]) == (second["amount"], second["tokens_out"])
