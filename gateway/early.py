"""The beginning of a streamed answer whose own is long in coming: a head, and comments, until the upstream has one.

LiteLLM (1.106) sends its head with the first chunk, which of a model that thinks may take many minutes. Node's clients
give up after 300 s without a head and proxies before them after 60, and ask again, up to seven times: each time the
model thinks from the start, and its provider bills it. What fails behind such a beginning can be told by no status any
more: it is told by an event, as providers do within a stream.
"""

import asyncio
from typing import Any, Final

import msgspec
import structlog
from aiohttp import HttpVersion11, web

from gateway import metrics, refusals
from gateway.admission import Call
from gateway.answer import parse
from gateway.gate import Gate
from gateway.refusals import Refusal
from gateway.relay import KEEPALIVE
from gateway.reply import LAST_CHUNK, Opening, opening
from gateway.upstream import Answer
from gateway.upstream_connection import Head, UpstreamError
from gateway.whole_body import WholeBody

SILENCES: Final = 3
"""Times of `SUNDIAL_KEEPALIVE_S` without the upstream's head before the client gets ours: 45 s. Until then a status
tells what fails, and no proxy has given up."""
REASON_BYTES_MAX: Final = 64 * 1024
"""Of an error that came behind such a beginning; of a larger one its status is told."""
REASON_S_MAX: Final = 5.0

log = structlog.get_logger()


class Early:
    """Of one call. Does nothing for answers that are no streams of text, nor for clients of HTTP/1.0."""

    opened: Opening | None = None
    """What the client has got; None: nothing, its answer begins with the upstream's."""
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, gate: Gate, call: Call, request: web.BaseRequest) -> None:
        self._gate = gate
        self._call = call
        self._request = request
        if call.ask.stream and call.family.sold == "text" and request.version >= HttpVersion11:
            self._timer = asyncio.get_running_loop().call_later(gate.settings.keepalive_s * SILENCES, self._say)

    def stop(self) -> None:
        """The upstream's head is there, or will never be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return  # the call is being cancelled
        if self.opened is None:
            head = Head([(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")])
            head.status = 200
            keep_alive = self._gate.keep_alive
            self.opened = opening(self._request, head, self._call.event_text, keep_alive=keep_alive, grows=True)
            # From here on aiohttp must not answer this request.
            self._request.writer.output_size = len(self.opened.head)
            transport.write(self.opened.head)
        transport.write(_chunk(KEEPALIVE))
        self._timer = asyncio.get_running_loop().call_later(self._gate.settings.keepalive_s, self._say)

    def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """End what has begun with a refusal of ours."""
        message = refusals.sentence(refusal.code, self._gate.settings.language, **refusal.facts)
        metrics.REFUSALS.labels(refusal.code).inc()
        log.info("refused", code=refusal.code, event_id=self._call.event_text)
        error = {"message": message, "type": refusals.TABLE[refusal.code].type, "code": refusal.code, "param": None}
        return self._end(error)

    async def fail(self, answer: Answer) -> web.StreamResponse:
        """End it with what the upstream says instead of an answer."""
        body = WholeBody(REASON_BYTES_MAX)
        answer.listen(body)
        try:
            async with asyncio.timeout(REASON_S_MAX):
                said = parse(await body.whole) or {}
        except (UpstreamError, TimeoutError, ValueError):
            said = {}
        error = said.get("error")
        if not isinstance(error, dict):
            error = {"message": f"the model provider answered {answer.status}", "type": "upstream_error", "param": None}
        return self._end({"code": str(answer.status), **error})

    def _end(self, error: dict[str, Any]) -> web.StreamResponse:
        assert self.opened is not None
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.write(_chunk(error_event(self._call.family.name, error)) + LAST_CHUNK)
        return self.opened.reply


NEVER: Final = Early.__new__(Early)
"""Of all calls that do not stream: nothing was opened, and there is no timer to stop. Shared by all, and so made
without the constructor, which is for one call."""


def error_event(family: str, error: dict[str, Any]) -> bytes:
    """How a stream of this family says that it failed; `error` is OpenAI's error object, or the provider's own."""
    match family:
        case "messages":
            event: dict[str, Any] = {"type": "error", "error": error}
        case "responses":
            event = {"type": "error", "sequence_number": 0, **{name: error.get(name) for name in _RESPONSES}}
        case _:
            return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


_RESPONSES: Final = ("code", "message", "param")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
