"""G2, G4: several workers behind one port. One that dies takes its own calls alone, and its successor books them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from deploy.ports import free_port
from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream, Play
from tests.harness.load import calling
from tests.harness.servers import Database
from tests.harness.stack import Program
from tests.harness.waiting import until

STREAM: Final[dict[str, Any]] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Conte até mil."}],
    "stream": True,
}
STREAMS: Final = 24
"""So many that each of two workers gets some: all go to one in a case of eight million."""
END: Final = b"data: [DONE]\n\n"


@pytest.fixture
async def crew(tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream) -> AsyncIterator[Chain]:
    """A chain whose gateway has two workers, both there."""
    settings = {"SUNDIAL_GATEWAY_WORKERS": "2", "SUNDIAL_GATEWAY_NAME": "gw"}
    async with running_chain(tmp_path / "home", database, redis_url, upstream, **settings) as chain:
        await until_complete(chain)
        yield chain


async def page(chain: Chain, path: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(chain.stack.gateway.url(path)) as answer:
        return await answer.text()


async def until_complete(chain: Chain) -> None:
    async def complete() -> bool:
        return await page(chain, "/readyz") == "ready, 2 of 2 workers\n"

    await until(complete, 30, "both workers are there")


def worker_pids(chain: Chain) -> dict[int, int]:
    """Process ids of the workers, by their numbers."""
    parent = chain.stack.gateway.pid
    found = {}
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found[int(words[words.index(b"gateway.worker") + 1])] = int(child)
    return found


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def counted(chain: Chain) -> float:
    """Closed calls, as the metrics say."""
    lines = (await page(chain, "/metrics")).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("sundial_gateway_calls_total{"))


class Streams:
    """Streams of 30 tokens that wait after the 20th until they may go on; whether each ended whole."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.more = asyncio.Event()
        self.ends: list[bool] = []
        self._reached = asyncio.Semaphore(0)

    def _play(self, _: dict[str, Any]) -> Play:
        return Play(tokens=30, pause=lambda sent: asyncio.ensure_future(self.more.wait()) if sent == 20 else None)

    async def begin(self, secret: str) -> list[asyncio.Task[None]]:
        """All of them, each on a connection of its own, at their 20th token."""
        self.chain.upstream.script = self._play
        running = [asyncio.create_task(self._call(secret)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await asyncio.wait_for(self._reached.acquire(), 30)
        return running

    async def _call(self, secret: str) -> None:
        async with (
            self.chain.session(secret) as session,
            session.post("/v1/chat/completions", json=STREAM) as answer,
        ):
            received = b""
            while received.count(b'"content":"') < 21:
                received += await answer.content.readany()
            self._reached.release()
            try:
                received += await answer.read()
            except aiohttp.ClientPayloadError:
                assert END not in received
                self.ends.append(False)
            else:
                assert received.endswith(END)
                self.ends.append(True)


async def test_g2_a_killed_worker_takes_its_own_calls_alone(crew: Chain) -> None:
    """kill -9 of one of two workers: its streams are cut, the other's end whole, calls go on meanwhile; the successor
    books the cut ones as lost, each once, and what was counted stays counted."""
    secret, other = await crew.personal("ana", credit="1000000"), await crew.personal("bia", credit="1000000")
    streams = Streams(crew)
    running = await streams.begin(secret)
    known = await counted(crew)
    killed = worker_pids(crew)
    crew.upstream.script = lambda _: Play()
    async with calling(crew, other) as load:
        await load.more(5)
        os.kill(killed[1], signal.SIGKILL)
        await until(lambda: bool(streams.ends), 15, "the killed worker's streams are cut")
        await load.more(10)
        await until_complete(crew)
        await load.more(10)
    cut = len(streams.ends)
    streams.more.set()
    await asyncio.gather(*running)
    assert 0 < cut < STREAMS
    assert streams.ends == [False] * cut + [True] * (STREAMS - cut)
    entries = await crew.usage_entries("ana", len(crew.upstream.served))
    outcomes = [entry["outcome"] for entry in entries]
    assert (outcomes.count("lost"), outcomes.count("complete"), len(entries)) == (cut, STREAMS - cut, STREAMS)
    assert (await crew.settled("ana"))["held"] == 0
    now = worker_pids(crew)
    assert (now[1] != killed[1], now[2]) == (True, killed[2])
    assert await counted(crew) >= known + STREAMS - cut
    metrics = await page(crew, "/metrics")
    assert "sundial_gateway_worker_ends_total 1.0" in metrics
    assert "sundial_gateway_workers 2.0" in metrics


async def test_g2_what_was_counted_stays_counted(crew: Chain) -> None:
    """The metrics are the sum over both workers, and do not fall when one dies: a fall would look like calls."""
    secret = await crew.personal("ana", credit="1000000")
    for _ in range(20):
        assert (await crew.post(secret, {**STREAM, "stream": False}))[0] == 200
    await crew.booked(20)
    before = await counted(crew)
    assert before == 20
    for pid in worker_pids(crew).values():
        os.kill(pid, signal.SIGKILL)
        assert await counted(crew) == 20
    await until_complete(crew)
    assert await counted(crew) == 20


async def test_g4_all_workers_drain(crew: Chain) -> None:
    """SIGTERM to the parent: not ready at once, the streams of both workers end whole, exit code 0, all is booked."""
    secret = await crew.personal("ana", credit="1000000")
    streams = Streams(crew)
    running = await streams.begin(secret)
    pids = worker_pids(crew)
    crew.stack.gateway.signal(signal.SIGTERM)
    await crew.stack.gateway.until_ready(ready=False)
    streams.more.set()
    await asyncio.gather(*running)
    assert await crew.stack.gateway.ended() == 0
    assert streams.ends == [True] * STREAMS
    assert not any(map(alive, pids.values()))
    entries = await crew.usage_entries("ana", STREAMS)
    assert [entry["outcome"] for entry in entries] == ["complete"] * STREAMS


async def test_g4_workers_do_not_outlive_their_parent(crew: Chain) -> None:
    """kill -9 of the parent: the workers drain, and a gateway that starts at once has the port."""
    secret = await crew.personal("ana", credit="1000000")
    streams = Streams(crew)
    running = await streams.begin(secret)
    pids = worker_pids(crew)
    crew.stack.gateway.kill()
    await crew.stack.gateway.start()
    streams.more.set()
    await asyncio.gather(*running)
    assert streams.ends == [True] * STREAMS
    await until(lambda: not any(map(alive, pids.values())), 15, "the workers end")
    assert (await crew.post(secret, {**STREAM, "stream": False}))[0] == 200


async def test_g4_a_gateway_whose_workers_cannot_start_ends(tmp_path: Path, redis_url: str) -> None:
    """Where not even the first start comes to anything, the gateway ends and says so, as one without workers does."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder", encoding="utf-8")
    metrics = free_port()
    environment = {
        "SUNDIAL_HOME": str(blocked),
        "SUNDIAL_REDIS_URL": redis_url,
        "SUNDIAL_UPSTREAM_URL": "http://127.0.0.1:9/v1",
        "SUNDIAL_GATEWAY_PORT": "0",
        "SUNDIAL_GATEWAY_METRICS_PORT": str(metrics),
        "SUNDIAL_GATEWAY_WORKERS": "2",
    }
    gateway = Program("gateway", environment, metrics, tmp_path / "gateway.log")
    gateway.launch()
    assert await gateway.ended() == 4
    assert "FileExistsError" in gateway.output
