"""C1, C7: clients that leave, at any moment and in any way: what reached the upstream is booked, nothing stays held."""

import asyncio
import json
import socket
import struct
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play

MESSAGES: Final = [{"role": "user", "content": "Conte até mil."}]


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
