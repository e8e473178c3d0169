"""A call whose answer has come to its end, well or not: counted, booked, proven.

What happens while an answer comes piece by piece, and every way in which it may end, is told in streaming.py.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from gateway import closing, counting, proof
from gateway.budget import Hold
from gateway.gate import Gate
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript
from gateway.relay import Relay
from gateway.settlement import Counted, Facts, served_tier
from gateway.sse import SseTap
from gateway.upstream import Answer
from gateway.whole_answer import Whole
from shared.usage import Outcome
from shared.usage_rules import upstream_cost_nano

IMAGE_MARK: Final = rb"\"b64_json\":"
"""Stands in an error that carries the events of an image as a text, and was cut: they can be read no more."""


class Running:
    """One call whose answer is there from its first byte to its last."""

    _transcript: Transcript | None = None
    """The text of a stream, as far as it has been read."""

    def __init__(self, gate: Gate, hold: Hold, answer: Answer, tap: SseTap | PlainTap, relay: Relay | Whole) -> None:
        self._gate = gate
        self._hold = hold
        self._answer = answer
        self._tap = tap
        self.relay = relay
        self._complete: Counted | None = None
        """What was booked, of an answer that came to its end."""
        self._early: bool | None = None
        """The client had the end before the record of the call was written. None: nothing was booked of it."""

    async def carry(self) -> bool:
        """Close the call and give the client its answer, but for a clean end: whether it may be given one."""
        whole, tap = self.relay, self._tap
        assert isinstance(whole, Whole)
        tap.feed(whole.body)  # it is kept, all of it
        tap.finish()
        if self._refused():
            closing.refused(self._gate, self._hold, self._facts("upstream_error"))  # passed through as it is
        else:
            outcome = self._outcome()
            self._complete = self._told(outcome) or await self._counted(outcome)
            self._early = whole.has_ended
        whole.give(tap.release())
        return True

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
        if not self._hold.closing:
            if self._refused():
                closing.refused(self._gate, self._hold, self._facts("upstream_error"))
            else:
                self._hold.closing = True
                self._gate.spawn(self._close(outcome))
        if outcome != "client_gone":
            self.relay.cut()

    # At the end -------------------------------------------------------------------------------------------

    async def _close(self, outcome: Outcome) -> Counted:
        """Count, write the S record, settle. Waits only where there is no usage and the text must be counted."""
        return self._told(outcome) or await self._counted(outcome)

    def _told(self, outcome: Outcome) -> Counted | None:
        """Close the call by what its answer says. None: its text must be counted."""
        self._hold.closing = True
        try:
            facts = self._facts(outcome)
            counted = counting.told(self._hold.call, self._tap, facts)
            if counted is not None:
                closing.book(self._gate, self._hold, counted, facts)
        except Exception:
            self._book_noted()
            raise
        return counted

    async def _counted(self, outcome: Outcome) -> Counted:
        """Close the call by its text."""
        try:
            facts = self._facts(outcome)
            self._take_rest()
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

    def _take_rest(self) -> None:
        """Read what nobody has read yet of a stream's text."""

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
