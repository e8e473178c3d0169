"""What comes in at the public port: each request to its endpoint family, and one clear refusal for everything else."""

import asyncio
from typing import Final

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from gateway import metrics, pipeline
from gateway.families import ANTHROPIC_PATH, BASE_PATH, Family, UndeclaredError, find
from gateway.forwarding import forward
from gateway.gate import Gate
from gateway.guesses import GUESSES_MAX, source
from gateway.models import model, models
from gateway.refusals import Refusal, response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_VERSIONS: Final = (HttpVersion11, HttpVersion10)
_BOOKED: Final = ("metered", "flat")

log = structlog.get_logger()


class Door:
    """Answers every request of one gateway."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The request is known while it runs; a refusal becomes its answer and one log line."""
        gate, task = self._gate, asyncio.current_task()
        assert task is not None
        gate.requests[task] = request.protocol
        try:
            family = self._family(request)
            if hdrs.EXPECT in request.headers:
                await _go_on(request)
            if family.treatment in _BOOKED:
                answer = await pipeline.serve(gate, request, family)
            elif family.name == "models":
                answer = await (models(gate, request) if family.path == "/models" else model(gate, request))
            else:
                answer = await forward(gate, request, family)
        except Refusal as refusal:
            return self._refuse(request, refusal)
        finally:
            del gate.requests[task]
        if not gate.keep_alive and not answer.prepared:
            answer.force_close()
        return answer

    def _family(self, request: web.BaseRequest) -> Family:
        """By the target as it came: other spellings of a path are not the path."""
        if request.version not in _VERSIONS:
            # aiohttp's parser takes `HTTP/0.9`, and a first line without any version, for a request with head and body.
            raise Refusal("unsupported_version")
        try:
            return find(request.method, request.raw_path, self._gate.forwarded)
        except UndeclaredError as unknown:
            if unknown.allowed:
                raise Refusal("method_not_allowed", allowed=", ".join(unknown.allowed)) from None
            raise Refusal("unknown_path", path=request.raw_path) from None

    def _refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        gate = self._gate
        guesses = self._guesses(request) if refusal.code == "invalid_api_key" else 0
        if guesses > GUESSES_MAX:
            refusal = Refusal("too_many_guesses")
        metrics.REFUSALS.labels(refusal.code).inc()
        if guesses <= GUESSES_MAX + 1:  # whoever goes on is counted, and no more written down
            log.info("refused", code=refusal.code, method=request.method, path=request.path)
        anthropic = request.raw_path.startswith(BASE_PATH + ANTHROPIC_PATH)
        answer = response(refusal, gate.settings.language, str(request.get("call_id", "")), anthropic=anthropic)
        if not (request.content.at_eof() and gate.keep_alive):
            answer.force_close()  # the rest of a body that nobody reads must not be taken for the next request
        return answer

    def _guesses(self, request: web.BaseRequest) -> int:
        """One more wrong key of this request's source; how many that makes."""
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        address = peer[0] if isinstance(peer, tuple) else ""
        origin = source(address, request.headers.getall("X-Forwarded-For", ()), self._gate.trusted_proxies)
        return self._gate.guesses.count(origin, asyncio.get_running_loop().time())


async def _go_on(request: web.BaseRequest) -> None:
    """A client that waits to be asked for its body is asked. Any other expectation is ignored (RFC 9110, 10.1.1)."""
    if request.headers[hdrs.EXPECT].lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(CONTINUE)
        request.writer.output_size = 0  # it is no part of the answer
