"""A call while its answer comes: relayed, kept alive, its hold extended; and how it ends.

The ends, by outcome:
  complete         the upstream ended as it must; the last bytes leave after the S record is written
  upstream_error   broken, or ended without saying so: the client must see that, never a clean end
  timeout          silent for too long, or too long in all: as broken
  exhausted        the credit ran out: the gateway ends the stream well, with the reason as text
  client_gone      the client left (its handler is cancelled), or does not read: the upstream is stopped
  drained          this process is going and could not wait any longer
  lost             a fault of ours: what came is booked all the same
"""

from typing import Final

import structlog

from gateway import closing, counting, farewell
from gateway.budget import Hold
from gateway.gate import Gate
from gateway.noting import Notes
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript
from gateway.refusals import sentence
from gateway.relay import KEEPALIVE, Relay
from gateway.running import Running
from gateway.sse import SseTap
from gateway.stream_place import Place
from gateway.upstream import Answer
from shared.usage import Outcome, Usage

END_S_MAX: Final = 0.25
"""Seconds that an answer may stay open after its terminal event: a usage may still follow, and a connection that ended
properly can be used again."""
TEXT_BYTES_PER_TOKEN_MIN: Final = 2
"""Bytes of text that a token has at least, over some hundred tokens: prose has 4 and more, JSON and digits almost 3,
Portuguese as Claude reads it 2.7."""
PIECE_BYTES_MIN: Final = 256
PIECE_BYTES_MAX: Final = 2 * 1024
"""Pieces in which a stream of text is forwarded and looked at, in bytes: between these, the smaller the slice is."""
EVENT_END: Final = b"\n\n"
"""Where a piece is best cut: as all providers write it."""

log = structlog.get_logger()


class Streaming(Running):
    """One call whose answer is on its way."""

    relay: Relay
    _place: Place
    """Where a stream of text stands."""
    _notes: Notes

    def __init__(self, gate: Gate, hold: Hold, answer: Answer, tap: SseTap | PlainTap, relay: Relay) -> None:
        super().__init__(gate, hold, answer, tap, relay)
        self._output = 0
        """Tokens of output so far: an estimate, or counted."""
        if isinstance(tap, SseTap) and hold.call.family.sold == "text":
            self._transcript = Transcript(hold.call.family.name)
            self._place = Place(hold.call.family.name)
            self._notes = Notes(gate, hold)

    async def carry(self) -> bool:
        """Relay to the end and close the call. True: the client may be given a clean end."""
        self._go_on()  # before the first byte: much may have come already
        if self._transcript is None:
            self._answer.listen(self.relay)
        else:
            self._answer.listen(self.relay, self._piece_bytes, EVENT_END)
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

    def abandon(self, outcome: Outcome) -> None:
        self.relay.forward_no_more()
        super().abandon(outcome)

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
        return hold.exhausted and relay.end_soon()

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

    def _take_rest(self) -> None:
        if isinstance(self._tap, SseTap) and self._transcript is not None:
            self._take(self._tap, self._transcript)

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
