"""The messages on the usage stream: written as they are read, and what cannot be read is set aside."""

import json
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events
from shared.events import ENTRY_BYTES_MAX, AccountSeen, UnreadableEntryError, UsageEvent
from shared.projection import KeyRecord, decode_key, encode_key
from shared.usage import Usage
from tests.harness.calls import key
from tests.harness.messages import seen, used

_COUNTS = st.integers(0, 2**63 - 1)
_EVENTS = st.builds(
    UsageEvent,
    event_id=st.uuids(),
    account_id=st.uuids(),
    key_id=st.uuids(),
    family=st.text(max_size=20),
    model_asked=st.text(max_size=50),
    price_version=st.integers(0, 10**9),
    card=st.text(max_size=20),
    usage=st.builds(Usage, *(_COUNTS for _ in Usage.__struct_fields__)),
    charge_mc=_COUNTS,
    cost_nano=_COUNTS,
    evidence=st.sampled_from(["provider", "recounted", "checkpoint", "none"]),
    outcome=st.sampled_from(["complete", "client_gone", "lost"]),
    flags=st.lists(st.text(max_size=10), max_size=3).map(tuple),
    started_at_us=_COUNTS,
    settled_at_us=_COUNTS,
    directory_id=st.none() | st.uuids(),
    external_id=st.text(max_size=128),
)
_SEEN = st.builds(
    AccountSeen,
    account_id=st.uuids(),
    directory_id=st.uuids(),
    external_id=st.text(max_size=128),
    plan=st.text(max_size=20),
    allowance_mc=_COUNTS,
    seen_at_us=_COUNTS,
    email=st.text(max_size=50),
    name=st.text(max_size=50),
)


@given(_EVENTS | _SEEN)
def test_every_message_comes_back_equal(message: UsageEvent | AccountSeen) -> None:
    """Any content, both kinds: what is read is what was written."""
    assert events.decode(events.encode(message)) == message


def test_a_message_is_tagged_and_versioned_and_leaves_out_what_is_default() -> None:
    """The shape on the stream: `kind` says which, and a default costs no byte."""
    raw = json.loads(events.encode(used("ana", flags=())))
    assert raw["kind"] == "usage"
    assert "flags" not in raw
    assert json.loads(events.encode(seen("ana")))["kind"] == "account"


def test_unknown_fields_are_ignored() -> None:
    """A later gateway may say more within the same version."""
    message = used("ana")
    raw = json.loads(events.encode(message)) | {"weather": {"sunny": [True]}}
    assert events.decode(json.dumps(raw).encode()) == message


@pytest.mark.parametrize("version", [2, 3, 10**9])
def test_a_later_version_is_not_guessed_at(version: int) -> None:
    """It is set aside, with both versions in the reason."""
    raw = json.loads(events.encode(used("ana"))) | {"v": version}
    with pytest.raises(UnreadableEntryError, match=rf"version {version}; this meter reads up to 1"):
        events.decode(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"kind":"usage"}',
        b'{"kind":"weather"}',
        b'{"kind":"usage","event_id":"x"}',
        b'{"kind":"usage","x":"\xff"}',
        b'{"kind":"usage","x":' + b"[" * 60_000,
        b'{"kind":"usage","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"x":' * 10_000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_cannot_be_read_is_one_kind_of_error(data: bytes) -> None:
    """Malformed, incomplete, foreign or bottomless: set aside by the reader, never a fault of its own."""
    with pytest.raises(UnreadableEntryError):
        events.decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Anything is a message or UnreadableEntryError."""
    try:
        events.decode(data)
    except UnreadableEntryError:
        return


def test_wrong_types_are_unreadable() -> None:
    """Counts as texts, negative or fractional ids: none is bent into shape."""
    for field, value in (("charge_mc", "5"), ("charge_mc", 1.5), ("event_id", 7), ("evidence", "guess"), ("usage", [])):
        raw = json.loads(events.encode(used("ana"))) | {field: value}
        with pytest.raises(UnreadableEntryError, match="cannot be decoded"):
            events.decode(json.dumps(raw).encode())


def test_an_entry_above_the_limit_is_not_decoded() -> None:
    """The limit is exact, and stands in the reason."""
    message = used("ana")
    whole = events.encode(message)
    padded = whole + b" " * (ENTRY_BYTES_MAX - len(whole))
    assert events.decode(padded) == message
    with pytest.raises(UnreadableEntryError, match=f"{ENTRY_BYTES_MAX + 1} bytes"):
        events.decode(padded + b" ")


def test_the_reason_holds_no_text_of_a_user() -> None:
    """Reasons are logged: neither names nor payloads stand in them."""
    raw = json.loads(events.encode(used("ana", conversation="secret-words"))) | {"charge_mc": "secret-words"}
    with pytest.raises(UnreadableEntryError) as caught:
        events.decode(json.dumps(raw).encode())
    assert "secret-words" not in str(caught.value)


@given(
    st.builds(
        KeyRecord,
        key_id=st.uuids(),
        kind=st.sampled_from(["personal", "service"]),
        account_id=st.none() | st.uuids(),
        directory_id=st.uuids(),
        plan=st.text(max_size=20),
        status=st.sampled_from(["active", "revoked"]),
        expires_at=_COUNTS,
        name=st.text(max_size=20),
    )
)
def test_a_key_record_comes_back_equal(record: KeyRecord) -> None:
    """What the meter tells is what the gateway reads."""
    assert decode_key(encode_key(record)) == record


def test_a_key_record_of_a_later_kind_is_an_error() -> None:
    """A status that this gateway does not know must never pass for `active`."""
    raw = json.loads(encode_key(key(key_id=UUID(int=5)))) | {"status": "suspended"}
    with pytest.raises(msgspec.ValidationError):
        decode_key(json.dumps(raw).encode())
