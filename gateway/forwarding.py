"""Requests that are passed on and never booked: what is free, and what the operator listed (`forwarded_paths`).

The caller is identified as for any call; nothing is held, so nobody is refused for lack of credit. A blocked account is
refused here too: what is listed is the operator's to pay.
"""

import time
from typing import Final

import structlog
from aiohttp import web

from gateway import metrics
from gateway.bodies import Pieces
from gateway.families import BASE_PATH, Family
from gateway.gate import Gate
from gateway.headers import passed_on
from gateway.identity import Caller, credential, find_key, identify
from gateway.refusals import Refusal
from gateway.relay import Relay
from gateway.reply import opening
from gateway.upstream import Answer
from gateway.upstream_connection import UpstreamError

BODILESS: Final = (204, 304)

log = structlog.get_logger()


async def forward(gate: Gate, request: web.BaseRequest, family: Family) -> web.StreamResponse:
    """Pass one request on. Refusals: 401, 403, 408, 413, 502, 503, 504."""
    if not gate.book.loaded:
        raise Refusal("not_ready")
    caller = identify(find_key(credential(request.headers), gate.book.keys, time.time()), request.headers)
    call_id = str(gate.new_event_id())
    request["call_id"] = call_id
    await gate.budget.refuse_blocked(caller)
    # Of what is listed the path is plain (families.find) and the query goes with it; a declared path goes alone.
    target = request.raw_path.removeprefix(BASE_PATH) if family.treatment == "forwarded" else family.path
    pieces = (
        Pieces(request, gate.settings.body_bytes_max, gate.settings.body_timeout_s) if request.can_read_body else None
    )
    try:
        async with gate.upstream.send(request.method, target, passed_on(request, call_id), b"", pieces) as answer:
            response = await _relay(gate, request, answer, call_id)
    except UpstreamError as error:
        log.warning("upstream_failed", code=error.code, error=str(error), event_id=call_id)
        raise Refusal("upstream_timeout" if error.code == "upstream_timeout" else "upstream_unavailable") from error
    _say(request, family, caller, call_id, response.status)
    return response


def _say(request: web.BaseRequest, family: Family, caller: Caller, call_id: str, status: int) -> None:
    if family.treatment == "forwarded":
        metrics.FORWARDED.labels(family.path).inc()
    log.info(
        family.treatment,
        event_id=call_id,
        account=str(caller.account_id),
        method=request.method,
        path=request.path,
        status=status,
    )


class _Through:
    """Tap that lets everything pass."""

    done = False
    compressed = False
    events = 0
    raw_bytes = 0
    open_bytes = 0
    at_boundary = True
    usual = None

    def feed(self, data: bytes) -> bytes:
        return data

    def release(self) -> bytes:
        return b""


async def _relay(gate: Gate, request: web.BaseRequest, answer: Answer, call_id: str) -> web.StreamResponse:
    opened = opening(request, answer.head, call_id, keep_alive=gate.keep_alive, bodiless=answer.status in BODILESS)
    relay = Relay(request, answer, _Through(), opened, gate.settings.client_stall_s)
    answer.listen(relay)
    while not relay.complete:
        await relay.wait(gate.settings.idle_timeout_s)
        late = relay.silence_s >= gate.settings.idle_timeout_s or relay.took_s >= gate.settings.answer_timeout_s
        if relay.broken is not None or late or (relay.stalled and not await relay.drain()):
            answer.stop()
            relay.cut()
            return opened.reply
        relay.look()
        relay.looked()
    await relay.end()
    return opened.reply
