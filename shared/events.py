"""The messages on the usage stream: what the gateway says and the meter books.

One JSON object per entry in the field `d`, tagged by `kind`, with the version of its shape in `v`. A reader ignores
fields it does not know; a version above VERSION is not guessed at but set aside.
"""

from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec

from shared.usage import Evidence, Outcome, Usage

VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 64 * 1024
"""Largest entry that the meter decodes, in bytes."""
SKETCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest entry of which at least the ids are read where the whole cannot be, in bytes."""
LABEL_LENGTH_MAX: Final = 256
"""Characters of a label (e-mail, name, role, conversation, message, purpose); longer ones are cut."""


class AccountSeen(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="account", tag_field="kind", gc=False
):
    """A user was seen for the first time; the reserve script lent them `allowance_mc` until the meter books it."""

    v: int = VERSION
    account_id: UUID
    directory_id: UUID
    external_id: str
    plan: str
    allowance_mc: int
    seen_at_us: int
    email: str = ""
    name: str = ""
    role: str = ""


class UsageEvent(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="usage", tag_field="kind", gc=False
):
    """One call that reached the upstream, closed.

    `charge_mc` (millicredits, >= 0) is what the gateway counted as unposted; `cost_nano` the provider's price. The
    meter computes both again from `usage`, `priced_as`, `price_version` and `card`, and books its own result.
    """

    v: int = VERSION
    event_id: UUID
    account_id: UUID
    key_id: UUID
    family: str
    """Endpoint family: chat, responses, completions, embeddings, images, speech, transcription, messages …"""
    model_asked: str
    model_answered: str = ""
    """The model that the upstream says answered: header x-litellm-model-name, else `model` of the answer."""
    priced_as: str = ""
    """Name in the price version whose rates were used; empty where there was none."""
    price_version: int
    card: str
    service_tier: str = ""
    usage: Usage
    charge_mc: int
    cost_nano: int
    evidence: Evidence
    outcome: Outcome
    flags: tuple[str, ...] = ()
    """Why this usage is less certain than its evidence says, e.g. `hidden_reasoning`, `absurd`, `unpriced`."""
    stream: bool = False
    status: int = 200
    """HTTP status that the upstream answered with; 0 where it never answered."""
    started_at_us: int
    first_byte_us: int = 0
    """Microseconds from `started_at_us` to the upstream's first byte of body; 0 where there was none."""
    settled_at_us: int
    hold_mc: int = 0
    """What was held when the call was closed."""
    upstream_call_id: str = ""
    upstream_cost_nano: int = 0
    """The cost that LiteLLM computed (`usage.cost`), to compare; 0 where it said none."""
    gateway: str = ""
    conversation: str = ""
    message: str = ""
    purpose: str = ""
    # Who the user is, repeated so that an event alone suffices to create the account that it charges.
    directory_id: UUID | None = None
    external_id: str = ""

    @property
    def lost(self) -> bool:
        """It says what had been noted of a call whose gateway was not heard of any more. Any other record of the same
        event is the truth, and corrects this one."""
        return self.outcome == "lost"


StreamMessage = AccountSeen | UsageEvent

encode: Callable[[StreamMessage], bytes] = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[StreamMessage] = msgspec.json.Decoder(StreamMessage)


class Sketch(msgspec.Struct, frozen=True):
    """What an entry that cannot be read says of itself all the same."""

    account_id: UUID | None = None
    event_id: UUID | None = None
    outcome: str = ""

    @property
    def lost(self) -> bool:
        return self.outcome == "lost"


_sketcher: msgspec.json.Decoder[Sketch] = msgspec.json.Decoder(Sketch)


class UnreadableEntryError(ValueError):
    """A stream entry that this version cannot read: malformed, too large, or of a later version."""


def decode(data: bytes) -> StreamMessage:
    """Raises UnreadableEntryError; its text names the reason and no content."""
    if len(data) > ENTRY_BYTES_MAX:
        raise UnreadableEntryError(f"entry of {len(data)} bytes is above the limit of {ENTRY_BYTES_MAX}")
    try:
        message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableEntryError(f"entry cannot be decoded: {error}") from None
    if message.v > VERSION:
        raise UnreadableEntryError(f"entry has version {message.v}; this meter reads up to {VERSION}")
    return message


def sketch(data: bytes) -> Sketch:
    """Whose event an entry of any version seems to be, so that it can be named; empty where it does not say."""
    if len(data) > SKETCH_BYTES_MAX:
        return Sketch()
    try:
        return _sketcher.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Sketch()
