"""What has streamed of a call so far, noted in the journal and for Redis: what is booked should this process die.

The output is estimated, and rather too low. The input is what the answer says of it, else it is counted exactly, off
the event loop and once a call; until that is known a note leaves it out. So nobody pays for a guess.
"""

from typing import Final

import msgspec

from gateway import closing, counting
from gateway.budget import Hold
from gateway.gate import Gate
from gateway.relay import LOOK_BYTES
from gateway.settlement import Counted, Facts
from gateway.sse import SseTap
from shared.usage import Usage

NOTE_S: Final = 1.0
"""Seconds after which a look notes what has streamed, in the journal, however little it is."""
COUNT_S: Final = 1.0
"""Age of a call, in seconds, at which a note has its input counted: a shorter one never pays for that."""


class Notes:
    """The notes of one call."""

    def __init__(self, gate: Gate, hold: Hold) -> None:
        self._gate = gate
        self._hold = hold
        self._counted = Usage()
        """The input, once it is counted."""
        self._counting = False
        # Bytes of the answer, and the time, from which on a look takes a note.
        self._at_bytes = 0
        self._at_s = 0.0

    def due(self, bytes_in: int, now_s: float) -> bool:
        return bytes_in >= self._at_bytes or now_s >= self._at_s

    def take(self, output: int, tap: SseTap, facts: Facts, bytes_in: int, now_s: float) -> None:
        """Note that so much output has come."""
        call = self._hold.call
        said = counting.input_said(call, tap)
        self._write(said or self._counted, output, facts)
        self._at_bytes, self._at_s = bytes_in + LOOK_BYTES, now_s + NOTE_S
        if said is None and not self._counting and now_s - call.started_s >= COUNT_S:
            self._counting = True
            self._gate.spawn(self._count(facts))

    async def _count(self, facts: Facts) -> None:
        self._counted = Usage(input=await counting.count_prompt_exactly(self._gate, self._hold.call))
        if not self._hold.closing:
            self._write(self._counted, self._hold.draft.usage.output, facts)

    def _write(self, read: Usage, output: int, facts: Facts) -> None:
        counted = Counted(msgspec.structs.replace(read, output=output), "checkpoint", ("estimated",))
        closing.note(self._gate, self._hold, counted, facts)
