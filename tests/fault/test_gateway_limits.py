"""G6, G7: file descriptors and memory run out. Connections go, then new calls; what runs goes on, and it heals."""

import asyncio
import resource
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.load import BODY, assert_truth
from tests.harness.waiting import until

FILES: Final = 256
SERVED: Final = 96
"""Connections that a gateway serves which may open so many files: half of what it does not need for itself."""
FLOOD: Final = 300
STREAM: Final[Any] = {**BODY, "stream": True}
DONE: Final = b"data: [DONE]\n\n"
MODELS: Final = b"GET /v1/models HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer %b\r\n\r\n"
EASING, FULL, NONE = 1, 2, 0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def metric(chain: Chain, name: str) -> float:
    async with aiohttp.ClientSession() as client, client.get(chain.stack.gateway.url("/metrics")) as answer:
        lines = (await answer.text()).splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


async def connected(chain: Chain) -> Streams:
    address = urlsplit(chain.stack.base_url)
    return await asyncio.open_connection(address.hostname, address.port)


async def streaming(chain: Chain, secret: str, number: int) -> tuple[asyncio.Event, list[asyncio.Task[bytes]]]:
    """So many streams in mid-answer, and what lets them go on."""
    more = asyncio.Event()
    chain.upstream.script = lambda _: Play(
        tokens=40, pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 10 else None
    )
    streams = [asyncio.create_task(chain.raw(secret, STREAM)) for _ in range(number)]
    await chain.upstream.arrived(number)
    chain.upstream.script = lambda _: Play()
    return more, streams


async def test_g6_no_descriptors_left(chain: Chain) -> None:
    """256 descriptors, and 300 connections that ask nothing: those beyond what can be served are told or cut, idle ones
    are closed in time, so that new calls are served meanwhile; streams do not notice, and no file was ever lacking."""
    secret = await chain.personal("ana", credit="1000000")
    gateway = chain.stack.gateway
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (FILES, FILES))

    async def limited() -> bool:
        return await metric(chain, "sundial_gateway_connections_max") == SERVED

    await until(limited)
    more, streams = await streaming(chain, secret, 8)
    flood = [await connected(chain) for _ in range(FLOOD)]

    async def told() -> bool:
        return await metric(chain, 'sundial_gateway_refusals_total{code="overloaded"}') > 0

    await until(told)
    assert descriptors(gateway.pid) < FILES
    await until(lambda: '"easing"' in gateway.output)
    await served_meanwhile(chain, secret)
    more.set()
    assert all(end.endswith(DONE) for end in await asyncio.gather(*streams))
    for _, writer in flood:
        writer.close()

    async def over() -> bool:
        return await metric(chain, "sundial_gateway_overload") == NONE

    await until(over)
    await chain.until_status(secret, BODY, 200)
    assert "Too many open files" not in gateway.output
    await assert_truth(chain.stack.database_url, chain.upstream)


async def served_meanwhile(chain: Chain, secret: str) -> None:
    """A call finds its way in, sooner or later."""
    statuses: list[int] = []

    async def served() -> bool:
        try:
            statuses.append((await chain.post(secret, BODY))[0])
        except aiohttp.ClientError:
            statuses.append(0)
        return statuses[-1] == 200

    await until(served)
    assert set(statuses) <= {0, 200, 503}


async def test_g6_who_is_one_too_many_is_told(chain: Chain) -> None:
    """Every place is taken: the next one's request is answered 503, and nothing of it is sent upstream."""
    secret = await chain.personal("ana", credit="1000000")
    gateway = chain.stack.gateway
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (70, 70))  # three places

    async def limited() -> bool:
        return await metric(chain, "sundial_gateway_connections_max") == 3

    await until(limited)
    more, streams = await streaming(chain, secret, 3)
    status, headers, answer = await chain.post(secret, BODY)
    assert (status, answer["error"]["code"]) == (503, "overloaded"), headers
    assert headers["connection"].lower() == "close"
    more.set()
    assert all(end.endswith(DONE) for end in await asyncio.gather(*streams))
    await chain.until_status(secret, BODY, 200)
    assert len(chain.upstream.served) == 4
    await assert_truth(chain.stack.database_url, chain.upstream)


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def squeezed(pid: int, share: float) -> None:
    """Bound the address space of a process so that what it has is this share of it; 0: no bound."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    bound = int(pages * resource.getpagesize() / share) if share else resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))


async def stepped(chain: Chain, step: int, share: float) -> None:
    """Wait until the gateway is at this step, with this share of its memory used."""

    async def reached() -> bool:
        squeezed(chain.stack.gateway.pid, share)  # once more: a thread that is started is a tenth of it
        return await metric(chain, "sundial_gateway_overload") == step

    await until(reached)


async def test_g7_memory_is_short(chain: Chain) -> None:
    """At nine tenths of its memory a gateway lets connections go, above it calls are refused and it is not ready; what
    runs ends whole; with memory again all is as before."""
    secret = await chain.personal("ana", credit="1000000")
    more, streams = await streaming(chain, secret, 8)
    idle = await connected(chain)
    idle[1].write(MODELS % secret.encode())
    await asyncio.wait_for(idle[0].readuntil(b"]}"), 10)
    await stepped(chain, EASING, 0.92)
    await asyncio.wait_for(idle[0].read(), 10)  # to its end: the gateway has closed it
    status, headers, _ = await chain.post(secret, BODY)
    assert (status, headers["connection"].lower()) == (200, "close")
    await stepped(chain, FULL, 0.965)
    await chain.stack.gateway.until_ready(ready=False)
    status, headers, answer = await chain.post(secret, BODY)
    assert (status, answer["error"]["code"]) == (503, "not_ready"), headers
    more.set()
    assert all(end.endswith(DONE) for end in await asyncio.gather(*streams))
    squeezed(chain.stack.gateway.pid, 0)
    await stepped(chain, NONE, 0)
    status, headers, _ = await chain.post(secret, BODY)
    assert (status, "connection" in headers) == (200, False)
    idle[1].close()
    await assert_truth(chain.stack.database_url, chain.upstream)
