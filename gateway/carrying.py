"""How an answer is carried to its client: by which of two ways, and what becomes of a call that is interrupted."""

import asyncio

from aiohttp import web

from gateway.admission import Call
from gateway.binary_tap import BinaryTap
from gateway.budget import Hold
from gateway.gate import Gate
from gateway.inflating import InflatingPlainTap, InflatingSseTap, is_inflatable
from gateway.plain_tap import PlainTap
from gateway.relay import Relay
from gateway.reply import Opening, opening
from gateway.running import Running
from gateway.sse import SseTap
from gateway.streaming import Streaming
from gateway.upstream import Answer
from gateway.whole_answer import Whole


async def relay(
    gate: Gate, hold: Hold, request: web.BaseRequest, answer: Answer, begun: Opening | None = None
) -> web.StreamResponse:
    """Forward the answer and close the call. Returns when the client has all of it. `begun`: what the client has got of
    it before the upstream's head came."""
    head, call, stall_s = answer.head, hold.call, gate.settings.client_stall_s
    failed = head.status >= 400
    streams = not failed and head.get(b"content-type").lower().startswith(b"text/event-stream")
    tap = _tap(call, head.get(b"content-encoding"), streams=streams, failed=failed)
    opened = begun or opening(request, head, call.event_text, keep_alive=gate.keep_alive, grows=streams)
    # Two ways: of an answer that is kept to its end, and all of which is there; of any other one.
    running: Running
    body = answer.whole if begun is None and isinstance(tap, PlainTap) and not isinstance(tap, BinaryTap) else b""
    if body:
        running = Running(gate, hold, answer, tap, Whole(request, opened, stall_s, body))
    else:
        piece_by_piece = Relay(
            request,
            answer,
            tap,
            opened,
            stall_s,
            begun=begun is not None,
            may_take=streams and call.strip_usage,
            at_once=not isinstance(tap, PlainTap),
        )
        running = Streaming(gate, hold, answer, tap, piece_by_piece)
    try:
        if await running.carry():
            if await running.relay.end():
                running.prove()
            running.offer_recount()
    except BaseException as error:
        # Cancelled: the client is gone, or this process is. Anything else is a fault of ours.
        if isinstance(error, asyncio.CancelledError):
            running.abandon("drained" if gate.cutting else "client_gone")
        else:
            running.abandon("lost")
        raise
    return opened.reply


def _tap(call: Call, encoding: bytes, *, streams: bool, failed: bool) -> SseTap | PlainTap:
    """Who watches the answer: of events, of sound that passes as it comes, of anything else; compressed or not."""
    if encoding and is_inflatable(encoding):
        return InflatingSseTap(call.family.name) if streams else InflatingPlainTap(call.family.name)
    if streams:
        return SseTap(call.family.name, call.strip_usage)
    return BinaryTap(call.family.name) if call.family.sold == "speech" and not failed else PlainTap(call.family.name)
