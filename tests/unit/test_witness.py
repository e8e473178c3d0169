"""The witness of an answer's bytes: it agrees with the observers however the stream is cut, and sees what they would do
wrong."""

import pytest

from gateway.plain_tap import PlainTap
from gateway.sse import SseTap
from gateway.witness import REMEMBERED_BYTES_MAX, Witness
from tests.harness.sse_streams import STREAMS, STYLES, wire

PIECES = [b"data: um\n\n", b"data: dois\n\n", b"data: tr\xc3\xaas\n\n"]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9}}\n\n'


def watched(tap: SseTap | PlainTap, pieces: list[bytes], *, may_take: bool) -> tuple[Witness, bytes]:
    """Through the tap as the relay does it; what left."""
    witness, left = Witness(may_take=may_take), b""
    for piece in pieces:
        out = tap.feed(piece)
        if out is not piece or not witness.idle:
            witness.see(piece, out)
        left += out
    for out in (tap.finish(), tap.release()):
        witness.see(b"", out, ended=True)
        left += out
    witness.end()
    return witness, left


def seen(*steps: tuple[bytes, bytes], may_take: bool = False) -> bool:
    """Whether the witness takes what left for what came."""
    witness = Witness(may_take=may_take)
    for came, left in steps:
        witness.see(came, left)
    witness.end()
    return witness.same


@pytest.mark.parametrize("eol", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("strip", [False, True], ids=["pass", "strip"])
@pytest.mark.parametrize("name", STREAMS)
def test_it_agrees_with_the_observer_at_every_cut(name: str, strip: bool, eol: str) -> None:
    """Nothing is wrong, and what stayed is what is missing."""
    family, lines, _ = STREAMS[name]
    stream = wire(lines, eol)
    cuts = [[stream], [bytes([byte]) for byte in stream]]
    cuts += [[stream[:at], stream[at:]] for at in range(1, len(stream))]
    for pieces in cuts:
        witness, left = watched(SseTap(family, strip), pieces, may_take=strip)
        assert witness.same, pieces
        assert witness.stayed_bytes == len(stream) - len(left), pieces


def test_a_whole_answer_leaves_late() -> None:
    """Of an answer that is kept up to its end, large or small, all pieces are compared."""
    for size in (10, 700_000):
        witness, left = watched(PlainTap("chat"), [bytes([digit]) * size for digit in b"123"], may_take=False)
        assert witness.same
        assert len(left) == 3 * size


@pytest.mark.parametrize("may_take", [False, True])
def test_what_is_lost_doubled_moved_or_changed_is_seen(may_take: bool) -> None:
    one, two, three = PIECES
    assert seen((one, one), (two, two), (three, three), may_take=may_take)
    assert seen((one, b""), (two, one), (three, two + three), may_take=may_take)
    assert not seen((one, one), (two, b""), (three, three), may_take=may_take)
    assert not seen((one, one), (two, two + two), (three, three), may_take=may_take)
    assert not seen((one, b""), (two, two), (b"", one), may_take=may_take)
    assert not seen((one, one), (two, b"data: dols\n\n"), may_take=may_take)
    assert not seen((one, one[:-1]), may_take=may_take)
    assert not seen((one, one), (b"", b": extra\n\n"), may_take=may_take)


def test_only_a_usage_may_stay() -> None:
    """The usage event, where it may be taken: whole, with its comments sent on, at the end without a blank line."""
    one, two, _ = PIECES
    assert seen((one, one), (USAGE, b""), (two, two), may_take=True)
    assert seen((one + USAGE + two, one + two), may_take=True)
    assert seen((b": nota\n" + USAGE, b": nota\n"), (two, two), may_take=True)
    assert seen((one, one), (USAGE[:-2], b""), may_take=True)
    assert seen((one, one), (USAGE, USAGE), (two, two), may_take=True)
    assert not seen((one, one), (USAGE, b""), (two, two), may_take=False)
    text = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":9}}\n\n'
    assert not seen((one, one), (text, b""), (two, two), may_take=True)
    assert not seen((one, one), (USAGE, USAGE[:20]), (two, two), may_take=True)


def test_what_begins_as_the_usage_does_is_told_apart() -> None:
    """Bytes that leave may be the usage's or the next event's: both are followed until one of them fails."""
    one, two, _ = PIECES
    alike = USAGE[:20]
    assert seen((USAGE + alike, b""), (b"", alike), may_take=True)
    assert seen((USAGE + alike, b""), (b"", alike), (two, b""), (b"", USAGE[20:] + alike + two), may_take=True)
    assert not seen((USAGE + alike, b""), (b"", alike), (two, b""), (b"", alike + two), may_take=True)
    assert not seen((one + USAGE, one), (USAGE + two, two + USAGE), may_take=True)
    assert not seen((one + USAGE + two, two[: len(one)].ljust(len(one)) + two), may_take=True)


def test_of_many_usages_no_more_is_followed_than_the_limits_say() -> None:
    """So that no stream costs much more than its bytes. Within the limits they may leave late; beyond them what may
    have been taken out was, and what is missing beside it is still seen."""
    one, two, _ = PIECES
    witness = Witness(may_take=True)
    for _ in range(20):
        witness.see(USAGE * 1_000, b"")
    witness.see(one, one)
    assert witness.idle
    assert witness.stayed_bytes == len(USAGE) * 20_000
    witness.see(USAGE + two, b"")
    witness.end()
    assert not witness.same
    assert seen((USAGE * 20, b""), (b"", USAGE * 20), may_take=True)
    assert not seen((USAGE * 20, b""), (b"", USAGE * 19 + USAGE[1:]), may_take=True)
    assert seen((USAGE * 200, b""), (b"", USAGE * 200), may_take=True)  # believed: too many places to be compared
    assert seen((USAGE * 2_000, b""), (b"", USAGE * 2_000), may_take=True)  # all of it: there is nothing to compare
    assert not seen((USAGE * 2_000, USAGE), (b"", USAGE * 1_999), may_take=True)
    large = USAGE.replace(b'"usage"', b" " * 10_000 + b'"usage"')
    most = REMEMBERED_BYTES_MAX // len(large)
    assert seen((large * most, b""), (b"", large * most), may_take=True)
    assert not seen((large * (most + 1), b""), (b"", large * (most + 1)), may_take=True)
