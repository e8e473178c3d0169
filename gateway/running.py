"""A call while its answer streams: relayed, kept alive, its hold extended; and how it ends.

The ends, by outcome:
  complete         the upstream ended as it must; the last bytes leave after the S record is written
  upstream_error   broken, or ended without saying so: the client must see that, never a clean end
  timeout          silent for too long, or too long in all: as broken
  exhausted        the credit ran out: the gateway ends the stream well, with the reason as text
  client_gone      the client left (its handler is cancelled), or does not read: the upstream is stopped
  drained          this process is going and could not wait any longer
  lost             a fault of ours: what came is booked all the same
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import structlog
from aiohttp import web

from gateway import closing, counting, farewell, proof
from gateway.admission import Call
from gateway.binary_tap import BinaryTap
from gateway.budget import Hold
from gateway.gate import Gate
from gateway.inflating import InflatingPlainTap, InflatingSseTap, is_inflatable
from gateway.noting import Notes
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript
from gateway.refusals import sentence
from gateway.relay import KEEPALIVE, Relay
from gateway.reply import Opening, opening
from gateway.settlement import Counted, Facts, served_tier
from gateway.sse import SseTap
from gateway.stream_place import Place
from gateway.upstream import Answer
from shared.usage import Outcome, Usage
from shared.usage_rules import upstream_cost_nano

IMAGE_MARK: Final = rb"\"b64_json\":"
"""Stands in an error that carries the events of an image as a text, and was cut: they can be read no more."""
END_S_MAX: Final = 0.25
"""Seconds that an answer may stay open after its terminal event: a usage may still follow, and a connection that ended
properly can be used again."""
TEXT_BYTES_PER_TOKEN_MIN: Final = 2
"""Bytes of text that a token has at least, over some hundred tokens: prose has 4 and more, JSON and digits almost 3,
Portuguese as Claude reads it 2.7."""
PIECE_BYTES_MIN: Final = 256
PIECE_BYTES_MAX: Final = 2 * 1024
"""Pieces in which a stream of text is forwarded and looked at, in bytes: between these, the smaller the slice is."""

log = structlog.get_logger()


async def relay(
    gate: Gate, hold: Hold, request: web.BaseRequest, answer: Answer, begun: Opening | None = None
) -> web.StreamResponse:
    """Forward the answer and close the call. Returns when the client has all of it. `begun`: what the client has got of
    it before the upstream's head came."""
    head = answer.head
    streams = head.status < 400 and head.get(b"content-type").lower().startswith(b"text/event-stream")
    tap = _tap(hold.call, head.get(b"content-encoding"), streams=streams, failed=head.status >= 400)
    opened = begun or opening(request, head, hold.call.event_text, keep_alive=gate.keep_alive, grows=streams)
    relay = Relay(
        request,
        answer,
        tap,
        opened,
        gate.settings.client_stall_s,
        begun=begun is not None,
        may_take=streams and hold.call.strip_usage,
        at_once=not isinstance(tap, PlainTap),
    )
    running = Running(gate, hold, answer, tap, relay)
    try:
        if await running.carry():
            if await relay.end():
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


class Running:
    """One call whose answer is on its way."""

    def __init__(
        self,
        gate: Gate,
        hold: Hold,
        answer: Answer,
        tap: SseTap | PlainTap,
        relay: Relay,
    ) -> None:
        self._gate = gate
        self._hold = hold
        self._answer = answer
        self._tap = tap
        self.relay = relay
        streams = isinstance(tap, SseTap) and hold.call.family.sold == "text"
        self._transcript = Transcript(hold.call.family.name) if streams else None
        self._place = Place(hold.call.family.name)
        self._output = 0
        """Tokens of output so far: an estimate, or counted."""
        self._notes = Notes(gate, hold)
        self._complete: Counted | None = None
        """What was booked, of an answer that came to its end."""
        self._early: bool | None = None
        """The client had the end before the record of the call was written. None: nothing was booked of it."""

    async def carry(self) -> bool:
        """Relay to the end and close the call. True: the client may be given a clean end."""
        self._go_on()  # before the first byte: much may have come already
        if self._transcript is None:
            self._answer.listen(self.relay)
        else:
            self._answer.listen(self.relay, self._piece_bytes)
        outcome = await self._until_end()
        if outcome == "complete":
            self.relay.pass_on(b"", self._tap.finish(), ended=True)
            if self._refused():
                closing.refused(self._gate, self._hold, self._facts("upstream_error"))  # passed through as it is
            else:
                self._complete = await self._close(self._outcome())
                self._early = self.relay.has_ended
            self.relay.pass_on(b"", self._tap.release(), ended=True)
            self.relay.witness.end()
            return True
        self._answer.stop()
        if self._refused():
            closing.refused(self._gate, self._hold, self._facts("upstream_error"))
            self.relay.cut()
            return False
        counted = await self._close(outcome)
        self._early = self.relay.has_ended
        if outcome == "exhausted" and not self._tap.compressed:
            self.relay.add(self._farewell(counted.usage))
            return True
        self.relay.cut()
        return False

    def _refused(self) -> bool:
        """The upstream's status says that nothing was produced, however much of the reason has come. An error that
        carries what it says has failed was none: LiteLLM (1.106) wraps a streamed image so."""
        tap = self._tap
        if self._answer.status < 400 or not isinstance(tap, PlainTap):
            return False
        return not (tap.images if self.relay.complete else IMAGE_MARK in tap.body)

    def _outcome(self) -> Outcome:
        """Of an answer that came to its end."""
        if self._tap.error:
            return "upstream_error"
        return "client_gone" if self.relay.client_gone else "complete"

    def prove(self) -> None:
        """The client was given a clean end: note what it came to."""
        proof.ended(self._gate.journal, self._hold, self.relay, early=self._early)

    def offer_recount(self) -> None:
        """The call is closed and the client has everything: let it be counted once more, if it is one of the sample."""
        if self._complete is not None:
            self._gate.shadow.offer(self._hold.call, self._tap, self._transcript, self._complete)

    def abandon(self, outcome: Outcome) -> None:
        """End at once, from wherever the call is; what came is counted and booked by a task of its own."""
        self._answer.stop()
        self.relay.ending = True
        if not self._hold.closing:
            if self._refused():
                closing.refused(self._gate, self._hold, self._facts("upstream_error"))
            else:
                self._hold.closing = True
                self._gate.spawn(self._close(outcome))
        if outcome != "client_gone":
            self.relay.cut()

    # While it streams -------------------------------------------------------------------------------------

    async def _until_end(self) -> Outcome:
        relay, settings, tap = self.relay, self._gate.settings, self._tap
        while True:
            await relay.wait(min(settings.keepalive_s, settings.idle_timeout_s))
            # The cases, in the order in which they count: ended by us, broken, ended, a client that does not read,
            # silence, text. What the upstream does after the end that we set is nothing to the client.
            if relay.ending and not tap.done:
                return "exhausted"
            if relay.broken is not None:
                log.warning("upstream_broke", code=relay.broken.code, error=str(relay.broken))
                return "upstream_error"
            if relay.complete or tap.done:
                await relay.wait_complete(END_S_MAX)
                return "complete" if self._ended_well() else "upstream_error"
            if relay.stalled and not await relay.drain():
                log.warning("client_stalled", event_id=str(self._hold.call.event_id))
                return "client_gone"
            if relay.silence_s >= settings.idle_timeout_s or relay.took_s >= settings.answer_timeout_s:
                return "timeout"
            relay.look()
            if isinstance(tap, SseTap):
                if self._transcript is not None and await self._look(tap, self._transcript):
                    return "exhausted"
                if relay.silence_s >= settings.keepalive_s and tap.at_boundary:
                    relay.add(KEEPALIVE)
            self._go_on()

    def _ended_well(self) -> bool:
        """A stream must have said that it is over: a close alone looks like success to clients and may be none."""
        tap = self._tap
        return isinstance(tap, PlainTap) or bool(tap.done or tap.finish_reason or tap.error)

    async def _look(self, tap: SseTap, transcript: Transcript) -> bool:
        """Compare what has streamed with the hold, and extend it in time. True: no credit is left, end the stream."""
        hold, call, relay = self._hold, self._hold.call, self.relay
        if not hold.exhausted and self._take(tap, transcript):
            self._output = output = transcript.estimate()
            bounds = hold.bounds
            more = (
                bounds.stoppable
                and hold.held_mc < bounds.full_mc
                and output + self._slice_tokens // 2 > hold.output_tokens
            )
            if more or self._notes.due(relay.bytes_in, relay.now_s):
                self._notes.take(transcript.likely(), tap, self._facts("lost"), relay.bytes_in, relay.now_s)
            if more:
                more_mc = min(bounds.slice_mc - bounds.input_mc, bounds.full_mc - hold.held_mc)
                granted = await self._gate.budget.extend(hold, more_mc)
                if not granted and output >= hold.output_tokens:
                    # Nobody is stopped on an estimate either.
                    self._output = await counting.count_output(self._gate, call, transcript)
                    hold.exhausted = self._output >= hold.output_tokens
        if not hold.exhausted:
            return False
        if not relay.ending:
            relay.ending = tap.at_boundary or tap.compressed
            relay.to_end = not relay.ending  # never end inside an event
        return relay.ending

    @property
    def _slice_tokens(self) -> int:
        """Of all choices together."""
        return self._gate.settings.slice_tokens * self._hold.call.ask.choices

    @property
    def _piece_bytes(self) -> int:
        return max(PIECE_BYTES_MIN, min(PIECE_BYTES_MAX, self._slice_tokens))

    def _go_on(self) -> None:
        """Let the upstream go on, so far that what may come before the next look, and the piece in which it comes,
        stays within what is held and one slice."""
        if self._transcript is None or not self._hold.bounds.stoppable:
            self.relay.looked()
            return
        tokens = max(0, self._hold.output_tokens - self._output) + self._slice_tokens
        room = max(0, tokens * TEXT_BYTES_PER_TOKEN_MIN - self._piece_bytes)
        self.relay.looked(room // 2, self._transcript.overhead_bytes)

    def _take(self, tap: SseTap, transcript: Transcript) -> bool:
        """Read what has come since the last time; False: nothing has."""
        raw = tap.take_raw()
        transcript.add(raw)
        self._place.see(raw)
        return bool(raw)

    # At the end -------------------------------------------------------------------------------------------

    async def _close(self, outcome: Outcome) -> Counted:
        """Count, write the S record, settle. Waits only where there is no usage and the text must be counted."""
        self._hold.closing = True
        try:
            facts = self._facts(outcome)
            counted = counting.told(self._hold.call, self._tap, facts)
            if counted is not None:
                closing.book(self._gate, self._hold, counted, facts)
                return counted
            if isinstance(self._tap, SseTap) and self._transcript is not None:
                self._take(self._tap, self._transcript)
            recount = counting.recount(self._gate, self._hold.call, self._tap, self._transcript)
            booked = self._gate.spawn(self._book(recount, facts))
        except Exception:
            self._book_noted()
            raise
        # Shielded: a client that leaves while its text is being counted is charged all the same.
        return await asyncio.shield(booked)

    async def _book(self, recount: Awaitable[Counted], facts: Facts) -> Counted:
        try:
            counted = await recount
            closing.book(self._gate, self._hold, counted, facts)
        except Exception:
            self._book_noted()
            raise
        return counted

    def _book_noted(self) -> None:
        """A call that cannot be counted, by a fault of ours, is booked as what was last noted of it: else its hold
        would be kept alive for ever."""
        if not self._hold.closed:
            closing.book_draft(self._gate, self._hold)

    def _facts(self, outcome: Outcome) -> Facts:
        head, tap = self._answer.head, self._tap
        raw: Mapping[str, Any] | None
        if tap.usage is None:
            raw = tap.usage_raw
        else:  # besides its counts, and a tier that the tap has read, a usual one says at most what the call cost
            raw = None if tap.usage_cost_usd is None else {"cost": tap.usage_cost_usd}
        cost_nano = upstream_cost_nano(raw) if raw else 0
        if not cost_nano and (told := head.get(b"x-litellm-response-cost")):
            cost_nano = upstream_cost_nano({"cost": told.decode("utf-8", "replace")})
        call, first_byte_s = self._hold.call, self.relay.first_byte_s
        return Facts(
            outcome=outcome,
            status=head.status,
            model=head.get(b"x-litellm-model-name").decode("utf-8", "replace") or tap.model,
            service_tier=served_tier(tap.service_tier, raw, call.ask.service_tier),
            upstream_call_id=head.get(b"x-litellm-call-id").decode("utf-8", "replace"),
            upstream_cost_nano=cost_nano,
            first_byte_us=int((first_byte_s - call.started_s) * 1_000_000) if first_byte_s else 0,
        )

    def _farewell(self, usage: Usage) -> bytes:
        call, settings, place = self._hold.call, self._gate.settings, self._place
        link = f" {settings.credits_url}" if settings.credits_url else ""
        text = "\n\n" + sentence("credit_ended", settings.language, link=link)
        model, created = self._tap.model or call.ask.model, call.started_at_us // 1_000_000
        match call.family.name:
            case "responses":
                written = self._transcript.text_of(place.index, place.part) if self._transcript is not None else ""
                return farewell.responses(place, call.event_id.hex, model, created, text, written, usage)
            case "messages":
                return farewell.messages(place, text, usage)
            case name:
                last = farewell.completions if name == "completions" else farewell.chat
                chunk_id = f"{'cmpl' if name == 'completions' else 'chatcmpl'}-{call.event_id}"
                asked = usage if call.ask.usage_asked else None
                return last(model, chunk_id, created, text, asked, call.ask.choices)
