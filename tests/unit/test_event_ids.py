"""Ids of calls are made and written without UUID's own constructor and `str`, and are the same."""

import copy
import pickle
from typing import Final
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.event_ids import as_text, event_id
from shared import ids

MS: Final = st.integers(0, (1 << 48) - 1)
RANDOM: Final = st.binary(min_size=10, max_size=10)


@given(MS, RANDOM)
def test_an_event_id_is_what_uuids_own_constructor_makes(now_ms: int, random: bytes) -> None:
    """Though it is made without it, and its text without `str`."""
    bits = (now_ms << 80) | int.from_bytes(random, "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    made, usual = event_id(now_ms, random), UUID(int=bits)
    assert ids.uuid7(now_ms, random) == usual
    assert (made, hash(made), made.bytes, made.is_safe) == (usual, hash(usual), usual.bytes, usual.is_safe)
    assert str(made) == str(usual) == as_text(made)
    assert UUID(as_text(made)) == usual == pickle.loads(pickle.dumps(made)) == copy.deepcopy(made)
    assert msgspec.json.encode(made) == msgspec.json.encode(usual)
    with pytest.raises(TypeError, match="immutable"):
        made.int = 0  # type: ignore[misc]


@pytest.mark.parametrize(("now_ms", "random"), [(-1, b"0123456789"), (1 << 48, b"0123456789"), (0, b"012345678")])
def test_an_event_id_needs_a_time_and_ten_bytes(now_ms: int, random: bytes) -> None:
    with pytest.raises(AssertionError):
        event_id(now_ms, random)


@given(st.uuids())
def test_the_text_of_an_id_is_the_usual_one(value: UUID) -> None:
    assert as_text(value) == str(value)
