"""C4, C5: requests as no client library writes them: answered once each, or refused, and nothing stays held."""

import asyncio
import gzip
import json
from typing import Final
from urllib.parse import urlsplit

from tests.harness.scripted_chain import (
    ASK,
    SSE,
    STREAM,
    Scripted,
    answer_of,
    chunked,
    text_event,
    tokens_of,
    with_length,
)
from tests.harness.scripted_server import Peer

BODY_BYTES_MAX: Final = 300_000
ANSWER_S_MAX: Final = 20.0
QUIET_S: Final = 0.5
"""Silence after which a connection that is kept is taken to have said everything."""
STOPPED_S_MAX: Final = 5.0
BODY: Final = json.dumps(ASK).encode()


def request(
    body: bytes = BODY, more: bytes = b"", *, version: bytes = b"1.1", host: bytes = b"host: sundial\r\n"
) -> bytes:
    """One call; `more` are header lines. Its length is told unless they do."""
    told = b"content-length" in more or b"transfer-encoding" in more
    length = b"" if told else b"content-length: %d\r\n" % len(body)
    start = b"POST /v1/chat/completions HTTP/%b\r\n%bauthorization: Bearer KEY\r\n" % (version, host)
    return start + length + more + b"\r\n" + body


async def said(scripted: Scripted, *parts: bytes, half_closed: bool = False) -> bytes:
    """What is answered to these bytes, until the connection ends or falls silent."""
    address = urlsplit(scripted.chain.stack.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    answer = b""
    try:
        for part in parts:
            writer.write(part.replace(b"KEY", scripted.secret.encode()))
        if half_closed:
            writer.write_eof()
        while data := await asyncio.wait_for(reader.read(1 << 16), QUIET_S if answer else ANSWER_S_MAX):
            answer += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[4:7]) for part in answer.split(b"HTTP/")[1:]]


def well(scripted: Scripted) -> None:
    scripted.says(with_length(answer_of("pronto", 3)))


async def test_c4_unusual_requests(scripted: Scripted) -> None:
    """Two calls in one go are answered one after the other, in their order; a call of HTTP/1.0 is answered and its
    connection ends; so is one without Host, which no proxy may add to."""
    well(scripted)
    other = json.dumps({**ASK, "messages": [{"role": "user", "content": "E depois?"}]}).encode()
    both = await said(scripted, request() + request(other))
    assert statuses(both) == [200, 200]
    assert [json.loads(asked.body) for asked in scripted.asked] == [ASK, json.loads(other)]
    old = await said(scripted, request(version=b"1.0"))
    assert statuses(old) == [200]
    bare = await said(scripted, request(host=b""))
    assert statuses(bare) in ([200], [400])
    await scripted.events(3 + statuses(bare).count(200))
    await scripted.nothing_booked()


async def test_c4_a_half_close_is_leaving(scripted: Scripted) -> None:
    """The request was whole and its answer streams: who ends the sending side then has left. The upstream is stopped,
    and what came is charged."""
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.say(SSE + chunked(text_event("Um relógio") + text_event(" de sol")))
        await peer.gone()
        gone.set()

    scripted.plays(play)
    address = urlsplit(scripted.chain.stack.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request(json.dumps(STREAM).encode()).replace(b"KEY", scripted.secret.encode()))
    await asyncio.wait_for(reader.readuntil(b" de sol"), ANSWER_S_MAX)
    writer.write_eof()
    await asyncio.wait_for(gone.wait(), STOPPED_S_MAX)
    writer.close()
    [booked] = await scripted.events(1)
    assert (booked["outcome"], booked["evidence"]) == ("client_gone", "recounted")
    assert booked["tokens_out"] == tokens_of("Um relógio de sol")


async def test_c5_bodies_that_are_none(scripted: Scripted) -> None:
    """Too large, of another length than told, compressed, nested without end, no JSON: 4xx, nothing reaches the
    upstream, nothing is held; odd JSON is refused, or passed on as it came."""
    await scripted.chain.stack.gateway.stop()
    await scripted.chain.stack.gateway.start(SUNDIAL_BODY_BYTES_MAX=str(BODY_BYTES_MAX))
    well(scripted)
    padded = b" " * (BODY_BYTES_MAX + 1) + BODY
    zipped = gzip.compress(BODY)
    refused = {
        "too large": (request(padded), 413),
        "too large, in chunks": (
            request(b"%x\r\n%b\r\n0\r\n\r\n" % (len(padded), padded), b"transfer-encoding: chunked\r\n"),
            413,
        ),
        "longer than told": (request(BODY, b"content-length: %d\r\n" % (len(BODY) - 1)), 400),
        "compressed": (request(zipped, b"content-encoding: gzip\r\n"), 415),
        "nested": (request(b'{"model":"gpt-4o-mini","messages":' + b"[" * 100_000), 400),
        "nested and closed": (
            request(b'{"model":"gpt-4o-mini","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            400,
        ),
        "NaN": (request(BODY[:-1] + b',"temperature":NaN}'), 400),
        "Infinity": (request(BODY[:-1] + b',"temperature":-Infinity}'), 400),
        "a NUL": (request(BODY[:-1] + b"\x00}"), 400),
        "two documents": (request(BODY + BODY), 400),
        "nothing": (request(b""), 400),
    }
    for name, (payload, status) in refused.items():
        answer = await said(scripted, payload)
        assert statuses(answer)[:1] == [status], (name, answer)
        assert set(statuses(answer)[1:]) <= {400}, (name, answer)
        assert scripted.asked == [], name
    # Shorter than told, and then no more: who ends the sending side has left, and is not answered.
    assert await said(scripted, request(BODY, b"content-length: %d\r\n" % (len(BODY) + 1)), half_closed=True) == b""
    odd = {
        "two models": BODY[:-1] + b',"model":"gpt-4o-mini"}',
        "lone surrogate": BODY[:-1] + b',"user":"\\ud800"}',
        "NUL in a text": BODY[:-1] + b',"metadata":{"a":"\\u0000"}}',
        "huge number": BODY[:-1] + b',"seed":1e400}',
    }
    served = 0
    for name, body in odd.items():
        before = len(scripted.asked)
        answer = await said(scripted, request(body))
        assert statuses(answer) in ([200], [400]), (name, answer)
        if statuses(answer) == [200]:
            served += 1
            assert scripted.asked[-1].body == body, name
        assert len(scripted.asked) - before == statuses(answer).count(200), name
    await scripted.events(served)
    await scripted.nothing_booked()
