"""The life of a call: identify, admit, reserve, send, relay, close. Each phase refuses by raising Refusal.

What each phase leaves behind when the next one fails:
  reserve fails   nothing (a hold whose answer was lost expires uncharged)
  send fails      the hold is voided, unless the upstream may be at work: then the call is booked at nothing
  relay fails     what came is counted and booked
"""

import asyncio
from typing import Final
from uuid import UUID

import structlog
from aiohttp import web

from gateway import budget, closing, counting, proof
from gateway.admission import Call, admit, permit, with_cap
from gateway.bodies import Upload, body_at_once, read_body
from gateway.bounds import bound
from gateway.budget import ExhaustedError, Hold, PlanDiffersError
from gateway.carrying import relay
from gateway.early import NEVER, Early
from gateway.families import Family
from gateway.gate import Gate
from gateway.headers import to_upstream
from gateway.identity import Caller, credential, find_key, identify
from gateway.journal import JournalFullError
from gateway.refusals import Refusal
from gateway.server import Connection
from gateway.settlement import Facts, draft_event
from gateway.upstream import Answer
from gateway.upstream_connection import UpstreamError

PRICINGS_MAX: Final = 3
"""Attempts to reserve: with the key's plan, with the account's, with the input counted exactly."""

BY_PLAN: Final = ("model_not_allowed", "model_not_priced")
"""Refusals that another plan, or its card, may not make."""

COUNTABLE: Final = ("text", "input")
"""Families (by what they are sold by) whose input is what a call may cost less for than it was estimated at."""

log = structlog.get_logger()


async def serve(gate: Gate, request: web.BaseRequest, family: Family) -> web.StreamResponse:
    """One metered call, from its first byte to its close."""
    call = await admission(gate, request, family)
    # An answer that is not streamed is generated, and billed, to its end, whoever leaves (measured with LiteLLM, which
    # does not stop its upstream then): it is read to its end too, and booked with the usage that it reports.
    if isinstance(request.protocol, Connection):
        request.protocol.outlived = not call.ask.stream
    hold = await _hold(gate, call)
    # From here on the hold is closed once, whatever happens: where nothing is booked it is voided.
    try:
        _note_draft(gate, hold)
        early = Early(gate, hold.call, request) if hold.call.ask.stream else NEVER
        try:
            answer = await send(gate, hold, request)
        except Refusal as refusal:
            if early.opened is None:
                raise
            return early.refuse(refusal)
        finally:
            early.stop()
        try:
            if early.opened is not None and answer.status >= 400:
                closing.refused(gate, hold, Facts(outcome="upstream_error", status=answer.status))
                return await early.fail(answer)
            return await relay(gate, hold, request, answer, early.opened)
        finally:
            answer.finish()
    finally:
        if not hold.closing:
            closing.void(gate, hold)


async def admission(gate: Gate, request: web.BaseRequest, family: Family) -> Call:
    """Who is calling, and what for. Refusals: 400, 401, 403, 408, 413, 415, 503."""
    started_at_us, started_s = gate.now_us(), gate.loop_s()
    if gate.unfit:
        raise Refusal("not_ready")
    key = find_key(credential(request.headers), gate.book.keys, started_at_us / 1_000_000)
    caller = identify(key, request.headers)
    event_id = gate.new_event_id()
    request["call_id"] = event_id
    bytes_max, seconds_max = gate.settings.body_bytes_max, gate.settings.body_timeout_s
    body: bytes | Upload | None
    if family.body == "multipart":
        body = Upload(request, bytes_max, seconds_max)
        await body.read_until_known(whole=family.sold == "images")
    else:
        body = body_at_once(request, bytes_max)
        if body is None:
            body = await read_body(request, bytes_max, seconds_max)
    try:
        return _admit(gate, event_id, caller, family, body, started_at_us, started_s)
    except Refusal as refusal:
        # Nobody is refused by the key's plan, or by one that they had, where their account has another one by now.
        if refusal.code not in BY_PLAN or not await gate.budget.learn_plan(caller):
            raise
    return _admit(gate, event_id, caller, family, body, started_at_us, started_s)


def _admit(
    gate: Gate,
    event_id: UUID,
    caller: Caller,
    family: Family,
    body: bytes | Upload,
    started_at_us: int,
    started_s: float,
) -> Call:
    """By the account's plan as far as it is known, else the key's. Refusals: 400, 403, 503."""
    catalog = gate.book.catalog
    plan = catalog.plans.get(gate.budget.plan_of(caller))
    if plan is None or plan.card not in catalog.cards:
        raise Refusal("not_ready")  # a key that is ahead of this catalog
    return admit(event_id, caller, family, body, plan, catalog, started_at_us, started_s)


def _note_draft(gate: Gate, hold: Hold) -> None:
    """The D record: what is booked should this process die while the upstream is at work."""
    try:
        gate.journal.write(b"D", hold.noted)
    except JournalFullError as error:
        log.error("journal_full", error=str(error))  # noqa: TRY400 (the reason says it all)
        raise Refusal("not_ready") from error


async def _hold(gate: Gate, call: Call) -> Hold:
    exact = False
    for _ in range(PRICINGS_MAX):
        bounds = bound(call.ask, call.rates, call.input_tokens, gate.settings.slice_tokens)
        draft = draft_event(call, now_us=gate.now_us(), held_mc=bounds.slice_mc, gateway=gate.name)
        try:
            return await gate.budget.reserve(call, bounds, draft, call.catalog.plans[call.rates.plan].allowance_mc)
        except PlanDiffersError as other:
            catalog = gate.book.catalog
            plan = catalog.plans.get(other.plan)
            if plan is None or plan.card not in catalog.cards:
                raise Refusal("not_ready") from other  # a plan that this catalog does not know yet
            call = call.repriced(permit(call.ask, plan, catalog), call.input_tokens, catalog)
        except ExhaustedError as short:
            # Nobody is refused on an estimate: count the input exactly before the answer is no.
            least = bound(call.ask, call.rates, 0, gate.settings.slice_tokens).least_mc
            if exact or call.family.sold not in COUNTABLE or short.spendable_mc < least:  # nor where none would do
                raise budget.exhausted(short, gate.settings.credits_url, gate.settings.language) from short
            exact = True
            tokens = await counting.count_prompt_exactly(gate, call)
            if tokens >= call.input_tokens:
                raise budget.exhausted(short, gate.settings.credits_url, gate.settings.language) from short
            call = call.repriced(call.rates, tokens)
    raise Refusal("not_ready")  # the account's plan changed under our hands, again and again


async def send(gate: Gate, hold: Hold, request: web.BaseRequest) -> Answer:
    """The upstream's answer, its head. Refusals: 502, 504."""
    call = hold.call
    body, limits = call.body, call.family.limits
    if hold.capped and limits:
        body = with_cap(call.rates, body, hold.output_tokens // call.ask.choices, limits)
    headers = to_upstream(request, call)
    try:
        answer = await gate.upstream.open(call.family.method, call.family.path, headers, body, call.upload)
    except UpstreamError as error:
        # Only from before the head: later breaks are the relay's. Nothing was sent, or it came to nothing: void. Sent
        # and never answered: the upstream may be at work and bill it, so it is booked, at nothing.
        log.warning("upstream_failed", code=error.code, error=str(error), event_id=call.event_text)
        if error.code == "upstream_timeout":
            closing.unanswered(gate, hold, "timeout")
            raise Refusal("upstream_timeout") from error
        raise Refusal("upstream_unavailable") from error
    except asyncio.CancelledError:
        closing.unanswered(gate, hold, "drained" if gate.cutting else "client_gone")
        raise
    if proof.is_anothers(call, answer.head):
        answer.stop()
        answer.finish()
        closing.unanswered(gate, hold, "upstream_error")
        raise Refusal("upstream_unavailable")
    return answer
