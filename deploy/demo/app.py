"""The demo upstream's server: OpenAI's endpoints and Anthropic's, one key, on one port."""

import asyncio
import contextlib
import hmac
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from aiohttp import web

from deploy.demo import audio, images, messages, responses, text, wire
from deploy.demo.counting import PromptCache, Tokenizers
from deploy.demo.generation import BadRequestError
from deploy.demo.serving import DEMO, TOKENS_PER_S, Demo, Pace, answered, failure, no_such_model

BODY_BYTES_MAX: Final = 64 * 1024 * 1024


def build(key: str, tokens_per_s: float = TOKENS_PER_S, seed: int | None = None) -> web.Application:
    """`key` is the only one accepted."""
    app = web.Application(middlewares=[_guard], client_max_size=BODY_BYTES_MAX)
    # Jitter needs no secrecy, but a test may want the same pauses twice.
    pace = Pace(tokens_per_s, Random(seed))  # noqa: S311
    app[DEMO] = Demo(key, pace, PromptCache(), Tokenizers(), int(time.time()))
    app.router.add_get("/livez", _livez)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/{model}", _model)
    app.router.add_post("/v1/chat/completions", text.chat)
    app.router.add_post("/v1/completions", text.completions)
    app.router.add_post("/v1/embeddings", text.embeddings)
    app.router.add_post("/v1/moderations", text.moderations)
    app.router.add_post("/v1/responses", responses.responses)
    app.router.add_post("/v1/messages", messages.messages)
    app.router.add_post("/v1/messages/count_tokens", messages.count_tokens)
    app.router.add_post("/v1/images/generations", images.generations)
    app.router.add_post("/v1/images/edits", images.edits)
    app.router.add_get(images.PICTURES + "{name}", images.picture)
    app.router.add_post("/v1/audio/speech", audio.speech)
    app.router.add_post("/v1/audio/transcriptions", audio.transcriptions)
    app.router.add_post("/v1/audio/translations", audio.transcriptions)
    return app


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The key first; then whatever goes wrong in OpenAI's words, or in Anthropic's below its path."""
    refuse = messages.failure if request.path.startswith("/v1/messages") else failure
    if request.path != "/livez" and not request.path.startswith(images.PICTURES):
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        given = (bearer or request.headers.get("x-api-key", "")).strip()
        if not given:
            return refuse(401, "You didn't provide an API key.")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), request.app[DEMO].key.encode()):
            return refuse(401, f"Incorrect API key provided: {given[:3]}***.", code="invalid_api_key")
    try:
        return await handler(request)
    except BadRequestError as error:
        return refuse(400, str(error), param=error.param)
    except web.HTTPRequestEntityTooLarge:
        return refuse(413, f"The body is larger than {BODY_BYTES_MAX} bytes.")
    except web.HTTPException as error:
        return refuse(error.status, f"Invalid URL ({request.method} {request.path})")


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _models(request: web.Request) -> web.Response:
    return answered(wire.model_list(request.app[DEMO].created))


async def _model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    for entry in wire.model_list(request.app[DEMO].created)["data"]:
        if entry["id"] == name:
            return answered(entry)
    return no_such_model(name)


async def serve(
    app: web.Application, host: str, port: int, *, said: Callable[[int], None], until: asyncio.Event
) -> None:
    """Listen until the event is set; `said` is told the port. Raises OSError where it is taken."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        said(runner.addresses[0][1])
        await until.wait()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()
