"""The demo upstream's server: reads requests, sends generations at a human pace, stops when the client is gone."""

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from deploy.demo import wire
from deploy.demo.counting import PromptCache, Tokenizer, Tokenizers
from deploy.demo.generation import BadRequestError, Generation, generate

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
FIRST_TOKEN_S: Final = 0.35
"""Seconds before the first token, give or take a third."""
JITTER: Final = 0.6
"""How far a pause between tokens strays from the mean, as a part of it."""
TOKENS_PER_S: Final = 45.0
EMBEDDING_INPUTS_MAX: Final = 2048

log = structlog.get_logger()


class Pace(msgspec.Struct, frozen=True):
    """How fast the demo writes; 0 tokens per second: as fast as it can."""

    tokens_per_s: float
    random: Random

    async def first(self) -> None:
        if self.tokens_per_s:
            await asyncio.sleep(FIRST_TOKEN_S * self.random.uniform(0.67, 1.33))

    async def wait(self, tokens: int) -> None:
        if self.tokens_per_s and tokens:
            await asyncio.sleep(tokens / self.tokens_per_s * self.random.uniform(1 - JITTER, 1 + JITTER))


class Demo(msgspec.Struct, frozen=True):
    """What a request is answered with."""

    key: str
    pace: Pace
    cache: PromptCache
    tokenizers: Tokenizers
    created: int


DEMO: Final = web.AppKey("demo", Demo)


def build(key: str, tokens_per_s: float = TOKENS_PER_S, seed: int | None = None) -> web.Application:
    """`key` is the only one accepted."""
    app = web.Application(middlewares=[_guard], client_max_size=BODY_BYTES_MAX)
    # Jitter needs no secrecy, but a test may want the same pauses twice.
    pace = Pace(tokens_per_s, Random(seed))  # noqa: S311
    app[DEMO] = Demo(key, pace, PromptCache(), Tokenizers(), int(time.time()))
    app.router.add_get("/livez", _livez)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/{model}", _model)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/embeddings", _embeddings)
    return app


def _failure(status: int, message: str, *, code: str | None = None, param: str | None = None) -> web.Response:
    return web.json_response(
        wire.error(message, kind="invalid_request_error", code=code, param=param), status=status, headers=_headers()
    )


def _headers() -> dict[str, str]:
    return {"x-request-id": f"req_{secrets.token_hex(16)}", "openai-version": "2020-10-01"}


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The key first; then whatever goes wrong in OpenAI's words."""
    if request.path != "/livez":
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not given:
            return _failure(401, "You didn't provide an API key.")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), request.app[DEMO].key.encode()):
            return _failure(401, f"Incorrect API key provided: {given[:3]}***.", code="invalid_api_key")
    try:
        return await handler(request)
    except BadRequestError as error:
        return _failure(400, str(error), param=error.param)
    except web.HTTPRequestEntityTooLarge:
        return _failure(413, f"The body is larger than {BODY_BYTES_MAX} bytes.")
    except web.HTTPException as error:
        return _failure(error.status, f"Invalid URL ({request.method} {request.path})")


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _models(request: web.Request) -> web.Response:
    return web.json_response(wire.model_list(request.app[DEMO].created), headers=_headers())


async def _model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    for entry in wire.model_list(request.app[DEMO].created)["data"]:
        if entry["id"] == name:
            return web.json_response(entry, headers=_headers())
    return _no_such_model(name)


def _no_such_model(name: object) -> web.Response:
    return _failure(
        404,
        f"The model `{name}` does not exist or you do not have access to it.",
        code="model_not_found",
        param="model",
    )


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise BadRequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise BadRequestError("The JSON body of your request is not an object.")
    return body


async def _chat(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await _body(request)
    model = body.get("model")
    if not isinstance(model, str):
        raise BadRequestError("you must provide a model parameter")
    snapshot = model if model in wire.SNAPSHOTS.values() else wire.SNAPSHOTS.get(model)
    if snapshot is None:
        return _no_such_model(model)
    tokenizer = demo.tokenizers.of(snapshot)
    generation = generate(body, tokenizer, demo.cache)
    base = {
        "id": f"chatcmpl-{secrets.token_urlsafe(21)}",
        "created": int(time.time()),
        "model": snapshot,
        "service_tier": "default",
        "system_fingerprint": "fp_sundial_demo",
    }
    call = _Call(model, bool(body.get("stream")), generation)
    with call:
        await demo.pace.first()
        if not call.stream:
            await demo.pace.wait(generation.usage()["completion_tokens"])
            call.sent = generation.usage()["completion_tokens"]
            return web.json_response(
                wire.completion(base, generation, f"call_{secrets.token_urlsafe(18)}"), headers=_headers()
            )
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await _stream(request, call, base, tokenizer, with_usage)


async def _stream(
    request: web.Request, call: "_Call", base: dict[str, Any], tokenizer: Tokenizer, with_usage: bool
) -> web.StreamResponse:
    pace = request.app[DEMO].pace
    response = web.StreamResponse(headers={**_headers(), "Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    extra = {"usage": None} if with_usage else {}
    for index, choice in enumerate(call.generation.choices):
        for tokens, delta in wire.deltas(choice, index, f"call_{secrets.token_urlsafe(18)}", tokenizer):
            await pace.wait(tokens)
            await response.write(wire.event({**wire.chunk(base, [delta]), **extra}))
            call.sent += tokens
    if with_usage:
        await response.write(wire.event({**wire.chunk(base, []), "usage": call.generation.usage()}))
    await response.write(wire.DONE)
    await response.write_eof()
    return response


class _Call:
    """One line in the log per call, also where the client left: then the generation stops where it is."""

    def __init__(self, model: str, stream: bool, generation: Generation) -> None:
        self.model = model
        self.stream = stream
        self.generation = generation
        self.sent = 0
        self._started = time.monotonic()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        gone = kind is not None and issubclass(kind, asyncio.CancelledError | ConnectionError)
        log.info(
            "client gone, stopped" if gone else "answered",
            model=self.model,
            stream=self.stream,
            prompt_tokens=self.generation.prompt_tokens,
            completion_tokens=self.generation.usage()["completion_tokens"],
            tokens_sent=self.sent,
            duration_ms=round((time.monotonic() - self._started) * 1000),
        )


async def _embeddings(request: web.Request) -> web.Response:
    demo = request.app[DEMO]
    body = await _body(request)
    model = body.get("model")
    full = wire.EMBEDDING_DIMENSIONS.get(str(model))
    if full is None:
        return _no_such_model(model)
    inputs = _embedding_inputs(body.get("input"))
    dimensions = body.get("dimensions") or full
    if not isinstance(dimensions, int) or not 1 <= dimensions <= full:
        raise BadRequestError(f"Invalid 'dimensions': expected an integer from 1 to {full}.", "dimensions")
    as_base64 = body.get("encoding_format") == "base64"
    tokenizer = demo.tokenizers.of(str(model))
    data, tokens = [], 0
    for index, each in enumerate(inputs):
        text = each if isinstance(each, str) else " ".join(map(str, each))
        tokens += tokenizer.count(each) if isinstance(each, str) else len(each)
        vector = wire.embedding(text, dimensions, as_base64=as_base64)
        data.append({"object": "embedding", "index": index, "embedding": vector})
        await asyncio.sleep(0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    log.info("embedded", model=model, inputs=len(data), prompt_tokens=tokens)
    return web.json_response({"object": "list", "data": data, "model": model, "usage": usage}, headers=_headers())


def _embedding_inputs(given: Any) -> list[str] | list[list[int]]:
    """A text, texts, one list of tokens or several."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and given and all(isinstance(each, int) for each in given):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= EMBEDDING_INPUTS_MAX or not all(given):
        raise BadRequestError("Invalid 'input': expected a non-empty text or list.", "input")
    if not all(isinstance(each, str | list) for each in given):
        raise BadRequestError("Invalid 'input': expected texts or lists of tokens.", "input")
    return given


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
