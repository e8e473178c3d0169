"""C2, C3: clients that send slowly, and clients that do not read: cut at their limits, everybody else is served."""

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.harness.chain import Chain
from tests.harness.scripted_chain import SSE, Scripted, answer_of, chunked, text_event, with_length
from tests.harness.scripted_server import Peer
from tests.harness.waiting import until

SLOW: Final = 200
TRICKLE_S: Final = 0.1
"""How long a sender of single bytes waits for an answer before it sends the next."""
CUT_S_MAX: Final = 30.0
FLOOD_BYTES: Final = 50_000_000
GROWTH_BYTES_MAX: Final = 32_000_000
"""What a gateway's memory may grow by while a client does not read: a whole answer would be more."""
MODELS: Final = b"GET /v1/models HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer %b\r\n\r\n"
HEAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\nhost: sundial\r\nx-padding: "
BEGUN: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer %b\r\ncontent-length: 9999\r\n\r\n{"
)
CALL: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Oi."}]}

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connected(chain: Chain) -> Streams:
    address = urlsplit(chain.stack.base_url)
    return await asyncio.open_connection(address.hostname, address.port)


async def models(streams: Streams, secret: str) -> None:
    """One whole request, answered, on a connection that is kept."""
    reader, writer = streams
    writer.write(MODELS % secret.encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), CUT_S_MAX)
    assert head.startswith(b"HTTP/1.1 200 ")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def never_whole(streams: Streams, beginning: bytes, *, trickles: bool) -> bytes:
    """Begin a request and never end it, silent or one byte after the other; what is answered until the connection
    ends."""
    reader, writer = streams
    writer.write(beginning)
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(CUT_S_MAX):
            while not answer or not reader.at_eof():
                try:
                    data = await asyncio.wait_for(reader.read(1 << 16), TRICKLE_S if trickles and not answer else None)
                except TimeoutError:
                    writer.write(b"x")
                    continue
                answer += data
                if not data:
                    break
    writer.close()
    return answer


async def test_c3_slow_heads(chain: Chain) -> None:
    """200 heads that never end, first and later ones of their connections, silent and trickling: each is cut at the
    limit, with 408; calls are served meanwhile, an idle connection stays, nothing is held."""
    secret = await chain.personal("ana", credit="1000")
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(SUNDIAL_HEAD_TIMEOUT_S="1")
    idle = await connected(chain)
    await models(idle, secret)

    async def slow(number: int) -> bytes:
        streams = await connected(chain)
        if number % 2:
            await models(streams, secret)
        return await never_whole(streams, HEAD, trickles=number % 4 < 2)

    slower = [asyncio.create_task(slow(number)) for number in range(SLOW)]
    status, _, _ = await chain.post(secret, CALL)
    assert status == 200
    answers = await asyncio.gather(*slower)
    for number, answer in enumerate(answers):
        # A byte that was sent after the cut may have thrown the answer away.
        assert answer.startswith(b"HTTP/1.1 408 ") or (number % 4 < 2 and not answer), answer
        assert not answer or b'"head_timeout"' in answer
    assert sum(answer != b"" for answer in answers) >= SLOW // 2
    await models(idle, secret)
    idle[1].close()
    assert (await chain.settled("ana"))["held"] == 0
    await chain.usage_entries("ana", 1)
    assert len(chain.upstream.served) == 1


async def test_c3_slow_bodies(chain: Chain) -> None:
    """200 bodies that never end, silent and trickling: each is answered 408 at the limit, though its bytes still come;
    calls are served meanwhile, and nothing is held or sent upstream for them."""
    secret = await chain.personal("ana", credit="1000")
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(SUNDIAL_BODY_TIMEOUT_S="1")
    begun = BEGUN % secret.encode()
    bodies = [never_whole(await connected(chain), begun, trickles=bool(number % 2)) for number in range(SLOW)]
    slower = [asyncio.create_task(body) for body in bodies]
    status, _, _ = await chain.post(secret, CALL)
    assert status == 200
    for answer in await asyncio.gather(*slower):
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b'"body_timeout"' in answer
        assert answer.lower().count(b"\r\nconnection: close\r\n") == 1
    assert (await chain.settled("ana"))["held"] == 0
    await chain.usage_entries("ana", 1)
    assert len(chain.upstream.served) == 1


async def test_c2_never_reads(scripted: Scripted) -> None:
    """50 MB for a client that reads nothing: the upstream is no longer read, the gateway's memory stays, another client
    is served, and at the stall limit the client is cut off, in the middle of its answer, and booked as gone."""
    gateway = scripted.chain.stack.gateway
    await gateway.stop()
    await gateway.start(SUNDIAL_CLIENT_STALL_S="4", SUNDIAL_IDLE_TIMEOUT_S="60")
    piece = chunked(text_event("o relógio " * 400) * 16, 1 << 20)
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.say(SSE)
        while sent < FLOOD_BYTES:
            await peer.say(piece)
            sent += len(piece)

    scripted.plays(flood)
    address = urlsplit(scripted.chain.stack.base_url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, (address.hostname, address.port))
    before = resident_bytes(gateway.pid)
    body = json.dumps({**CALL, "stream": True}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"
    )
    await loop.sock_sendall(raw, head % (scripted.secret.encode(), len(body)) + body)
    await until(lambda: sent > 0)
    scripted.says(with_length(answer_of("pronto", 3)))
    assert (await scripted.call()).status == 200
    await until(lambda: '"client_stalled"' in gateway.output, CUT_S_MAX)
    assert sent < FLOOD_BYTES // 2
    assert resident_bytes(gateway.pid) - before < GROWTH_BYTES_MAX
    first, second = await scripted.events(2)
    assert (first["outcome"], second["outcome"]) == ("client_gone", "complete")
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(loop.sock_recv(raw, 1 << 16), CUT_S_MAX):
            received += data
    raw.close()
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")
    await scripted.nothing_booked()


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
