"""C2, C3: clients that send slowly, and clients that do not read: cut at their limits, everybody else is served."""

import asyncio
import contextlib
from typing import Final
from urllib.parse import urlsplit

from tests.harness.chain import Chain

SLOW: Final = 200
TRICKLE_S: Final = 0.1
"""How long a sender of single bytes waits for an answer before it sends the next."""
CUT_S_MAX: Final = 30.0
MODELS: Final = b"GET /v1/models HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer %b\r\n\r\n"
HEAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\nhost: sundial\r\nx-padding: "
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


async def never_whole(streams: Streams, *, trickles: bool) -> bytes:
    """Begin a head and never end it, silent or one byte after the other: what is answered until the connection ends."""
    reader, writer = streams
    writer.write(HEAD)
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
        return await never_whole(streams, trickles=number % 4 < 2)

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
