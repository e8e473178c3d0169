"""What waits of an answer's body, in pieces: nothing is lost, none is too large, and they end where they are to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backlog import READ_BYTES_MAX, Backlog

PART = st.binary(min_size=1, max_size=9) | st.sampled_from([b"\n\n", b"a\n\n"])
PARTS = st.lists(st.lists(PART, min_size=1), max_size=4)


def taken(backlog: Backlog) -> list[bytes]:
    return [backlog.take() for _ in range(len(backlog))]


@given(PARTS, PARTS, st.integers(2, 12), st.sampled_from([b"", b"\n\n"]))
def test_pieces_are_what_came(before: list[list[bytes]], after: list[list[bytes]], size: int, end: bytes) -> None:
    """Put before and behind the moment that says how large they may be."""
    backlog = Backlog()
    for parts in before:
        backlog.put(parts)
    backlog.cut(size, end)
    for parts in after:
        backlog.put(parts)
    came = b"".join(b"".join(parts) for parts in before + after)
    assert backlog.whole == came
    assert backlog.size == len(came)
    pieces = taken(backlog)
    assert b"".join(pieces) == came
    assert all(0 < len(piece) <= size for piece in pieces)
    assert backlog.size == 0


def test_a_piece_ends_with_the_last_end_in_it() -> None:
    """And where there is none, with the size."""
    backlog = Backlog()
    backlog.cut(8, b"\n\n")
    backlog.put([b"a\n\nb\n\nc\n\n", b"0123456789", b"d\n\n"])
    assert taken(backlog) == [b"a\n\nb\n\n", b"c\n\n", b"01234567", b"89d\n\n"]


def test_the_next_answer_begins_anew() -> None:
    """A connection is used again: what one call wanted is nothing to the next."""
    backlog = Backlog()
    backlog.cut(2, b"\n\n")
    backlog.put([b"12345"])
    backlog.reset()
    assert (len(backlog), backlog.size) == (0, 0)
    backlog.put([b"x" * READ_BYTES_MAX])
    assert len(backlog) == 1
    with pytest.raises(IndexError):
        Backlog().take()
