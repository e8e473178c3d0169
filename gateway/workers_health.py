"""The health of several workers as that of one gateway, at its metrics port: /livez, /readyz, /metrics.

Ready is a gateway that answers whoever connects: connections are dealt out among all workers that listen, so one of
them that is unfit, draining or silent makes the whole unready, and one that is dead or not there yet does not, as long
as another is ready.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import metric_sums, metrics
from gateway.metric_sums import Page
from shared.settings import GatewaySettings

ANSWER_S_MAX: Final = 2.0
"""Seconds that a worker has to say how it is."""


class Said(msgspec.Struct, frozen=True):
    """What one worker says of itself: whether it takes connections, and if so why calls should not come, or ''."""

    listens: bool
    reason: str = ""


_AWAY: Final = Said(listens=False)


class Health:
    """The health of one place in the crew, asked at the socket of the process that has it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.came_up = False
        """Whether any of its processes has ever answered."""
        self._gone: Page = {}
        """What those that have ended had counted, as far as somebody had asked them."""
        self._seen: Page = {}
        """What the present one has, when it was last asked."""
        self._alive = False

    def begin(self) -> None:
        """A process has been started."""
        self._alive = True

    def end(self) -> None:
        """It has ended."""
        self._alive = False
        self._gone = metric_sums.added([self._gone, metric_sums.lasting(self._seen)])
        self._seen = {}

    async def said(self) -> Said:
        try:
            status, text = await self._get("/readyz")
        except TimeoutError:
            return Said(listens=True, reason="it does not answer")
        except (OSError, aiohttp.ClientError):
            return _AWAY
        self.came_up = True
        return Said(listens=True, reason="" if status == 200 else text.strip())

    async def page(self) -> Page:
        """What the present process and those before it have counted; where it does not answer, as it was last asked."""
        with contextlib.suppress(OSError, aiohttp.ClientError, TimeoutError):
            _, text = await self._get("/metrics")
            if self._alive:
                self._seen = metric_sums.parsed(text)
        return metric_sums.added([self._seen, self._gone])

    async def _get(self, path: str) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S_MAX)
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
            client.get(f"http://worker{path}") as answer,
        ):
            return answer.status, await answer.text()


def verdict(said: Sequence[Said]) -> tuple[bool, str]:
    """Whether calls are welcome, and the line that says so or why not. Pure."""
    for number, one in enumerate(said, start=1):
        if one.reason:
            return False, f"worker {number}: {one.reason}"
    listening = sum(one.listens for one in said)
    return bool(listening), f"ready, {listening} of {len(said)} workers" if listening else "no worker is there"


CREW: web.AppKey[Sequence[Health]] = web.AppKey("crew", Sequence)


@asynccontextmanager
async def served(settings: GatewaySettings, crew: Sequence[Health]) -> AsyncIterator[None]:
    """Serve the metrics port for as long as the context is open."""
    app = web.Application()
    app[CREW] = crew
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.gateway_metrics_host, settings.gateway_metrics_port).start()
        yield
    finally:
        await runner.cleanup()


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="alive\n")


async def _readyz(request: web.Request) -> web.Response:
    ready, line = verdict(await _said(request))
    return web.Response(status=200 if ready else 503, text=f"{line}\n")


async def _metrics(request: web.Request) -> web.Response:
    ready, _ = verdict(await _said(request))
    metrics.READY.set(1 if ready else 0)
    own = metric_sums.parsed(generate_latest().decode())
    pages = await asyncio.gather(*(health.page() for health in request.app[CREW]))
    body = metric_sums.rendered(metric_sums.added([own, *pages]))
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _said(request: web.Request) -> list[Said]:
    return await asyncio.gather(*(health.said() for health in request.app[CREW]))
