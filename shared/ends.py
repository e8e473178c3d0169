"""What a gateway's journal says of an answer that ended well for its client: the E record.

It is written after the last bytes have left, behind the S record of its call: who finds the two in this order knows
that the client had the end of nothing that was not recorded.
"""

from uuid import UUID

import msgspec


class End(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One answer with a clean end. Bytes are those of its body, without the framing of HTTP."""

    event_id: UUID
    came: int
    """Bytes of the upstream's."""
    sent: int
    """Bytes that were given to the client's transport, the gateway's own among them."""
    stayed: int = 0
    """Bytes of the upstream's that were kept back: the usage event that only the gateway had asked for; and, where the
    credit ended, what may not be sent any more."""
    added: int = 0
    """Bytes of the gateway's own: keep-alive comments, and the last events where the credit ended."""
    same: bool = True
    """What left was, byte by byte, what came, but for what stayed."""
    early: bool = False
    """The client had the last event, or all bytes, before the S record was written."""
    slice_mc: int = -1
    """How much more than its hold the call may cost, in millicredits: one slice of its output. -1: any amount."""

    @property
    def adds_up(self) -> bool:
        return self.same and self.sent == self.came - self.stayed + self.added


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(End)


def encode(end: End) -> bytes:
    return _encoder.encode(end)


def decode(data: bytes) -> End:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(data)
