"""The health of one gateway process, at its metrics port: /livez, /readyz, /metrics."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import metrics
from gateway.gate import Gate

GATE: web.AppKey[Gate] = web.AppKey("gate", Gate)


@asynccontextmanager
async def served(gate: Gate, socket: Path | None = None) -> AsyncIterator[None]:
    """Serve the port, or in its place this socket, for as long as the context is open."""
    app = web.Application()
    app[GATE] = gate
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    try:
        host, port = gate.settings.gateway_metrics_host, gate.settings.gateway_metrics_port
        await (web.UnixSite(runner, str(socket)) if socket else web.TCPSite(runner, host, port)).start()
        yield
    finally:
        await runner.cleanup()


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="alive\n")


async def _readyz(request: web.Request) -> web.Response:
    """503 with the reason while no call can begin, or none should."""
    reason = request.app[GATE].unready
    return web.Response(status=503 if reason else 200, text=f"{reason or 'ready'}\n")


async def _metrics(request: web.Request) -> web.Response:
    gate = request.app[GATE]
    metrics.RUNNING.set(len(gate.budget.running))
    metrics.UNSETTLED.set(len(gate.budget.closed))
    metrics.JOURNAL_BYTES.set(gate.journal.bytes)
    metrics.JOURNAL_BYTES_MAX.set(gate.journal.bytes_max)
    metrics.JOURNAL_REACH.set(time.time() - gate.journal.reaches_to_s)
    metrics.READY.set(0 if gate.unready else 1)
    metrics.CONNECTIONS.set(len(gate.overload.connections))
    metrics.CONNECTIONS_MAX.set(gate.overload.half)
    metrics.OVERLOAD.set(gate.overload.step)
    metrics.WORKERS.set(1)
    metrics.REDIS_COMMANDS.set(gate.link.round_trips)
    metrics.RESENT.set(gate.upstream.resent)
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
