"""What every endpoint of the demo upstream shares: the key, the pace, refusals in OpenAI's words, the log of calls."""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from random import Random
from typing import Any, Final, Self

import msgspec
import structlog
from aiohttp import web

from deploy.demo import wire
from deploy.demo.counting import PromptCache, Tokenizers
from deploy.demo.generation import BadRequestError

FIRST_TOKEN_S: Final = 0.35
"""Seconds before the first token, give or take a third."""
JITTER: Final = 0.6
"""How far a pause between tokens strays from the mean, as a part of it."""
TOKENS_PER_S: Final = 45.0

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


class Served:
    """One line in the log per call, also where the client left: then the generation stops where it is.

    `usage` is what the call is billed for, as the answer says it; `sent` counts the tokens of the answer that left.
    """

    def __init__(self, family: str, model: str, usage: Mapping[str, Any], *, stream: bool = False) -> None:
        self.family = family
        self.model = model
        self.stream = stream
        self.usage = usage
        self.sent = 0
        self.failed = False
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        gone = kind is not None and issubclass(kind, asyncio.CancelledError | ConnectionError)
        log.info(
            "client gone, stopped" if gone else "failed, as it was asked to" if self.failed else "answered",
            family=self.family,
            model=self.model,
            stream=self.stream,
            usage=self.usage,
            tokens_sent=self.sent,
            duration_ms=round((time.monotonic() - self._started) * 1000),
        )


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises BadRequestError."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise BadRequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise BadRequestError("The JSON body of your request is not an object.")
    return body


async def streamed(request: web.Request) -> web.StreamResponse:
    """The beginning of a stream of events."""
    response = web.StreamResponse(headers={**headers(), "Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


def answered(value: Mapping[str, Any]) -> web.Response:
    return web.json_response(value, headers=headers())


def failure(status: int, message: str, *, code: str | None = None, param: str | None = None) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return web.json_response(wire.error(message, kind=kind, code=code, param=param), status=status, headers=headers())


def no_such_model(name: object) -> web.Response:
    return failure(
        404,
        f"The model `{name}` does not exist or you do not have access to it.",
        code="model_not_found",
        param="model",
    )


def headers() -> dict[str, str]:
    return {"x-request-id": f"req_{secrets.token_hex(16)}", "openai-version": "2020-10-01"}
