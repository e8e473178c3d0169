"""Compressed answers: their bytes pass untouched, and are read all the same."""

import gzip
import json
import zlib
from collections.abc import Callable

import pytest

from gateway.inflating import INFLATED_BYTES_MAX, InflatingPlainTap, InflatingSseTap, is_inflatable
from gateway.recount.completion import Transcript
from gateway.recount.vocabulary import encoding_for
from gateway.sse import SseTap

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
STREAM = b"".join(
    b"data: %b\n\n" % (event if isinstance(event, bytes) else json.dumps(event).encode())
    for event in (
        {"model": "m", "choices": [{"index": 0, "delta": {"content": "Olá 🌻"}, "finish_reason": None}]},
        {"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"model": "m", "choices": [], "usage": USAGE},
        b"[DONE]",
    )
)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_compressed_stream_is_read_wherever_it_is_cut(pack: Callable[[bytes], bytes]) -> None:
    """Usage, model and end are found at every cut; the client gets the very bytes, the end of them only at release."""
    packed = pack(STREAM)
    for cut in range(len(packed) + 1):
        tap = InflatingSseTap("chat")
        sent = tap.feed(packed[:cut]) + tap.feed(packed[cut:]) + tap.finish()
        assert tap.done
        assert tap.usage_raw == USAGE
        assert not tap.at_boundary
        assert len(sent) < len(packed)
        assert sent + tap.release() == packed


def test_what_comes_compressed_is_never_taken_for_events() -> None:
    """However usual its events are: they are asked of what is inflated, not of what goes on to the client."""
    usual = STREAM.partition(b"\n\n")[0] + b"\n\n"
    plain, packed = SseTap("chat", strip_usage=False), InflatingSseTap("chat")
    compressor = zlib.compressobj()
    plain.feed(usual)
    packed.feed(compressor.compress(usual) + compressor.flush(zlib.Z_SYNC_FLUSH))
    assert packed.events == plain.events == 1
    assert plain.usual is not None
    assert packed.usual is None


def test_a_compressed_stream_that_is_cut_counts_what_came() -> None:
    """Cut at any byte: the text of the events that can be inflated whole is counted, to the token, and no usage is."""
    texts = ("Olá", " 🌻", ", quanto", " custa?")
    deltas = ({"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts)
    events = [b"data: %b\n\n" % json.dumps(event).encode() for event in deltas]
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events)
    counts = []
    for cut in range(len(packed) + 1):
        tap, transcript = InflatingSseTap("chat"), Transcript("chat")
        assert tap.feed(packed[:cut]) == packed[:cut]
        transcript.add(tap.take_raw())
        counted = transcript.count("gpt-4o").tokens
        whole = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(packed[:cut]).count(b"\n\n")
        assert counted == len(encoding_for("gpt-4o").encode("".join(texts[:whole]))), cut
        assert (tap.done, tap.usage_raw) == (False, None)
        counts.append(counted)
    assert counts == sorted(counts)
    assert len(set(counts)) == len(texts) + 1


def test_a_compressed_answer_is_read_when_it_is_whole() -> None:
    """The JSON inside is read; the bytes that leave are the compressed ones."""
    packed = gzip.compress(json.dumps({"model": "m", "usage": USAGE}).encode())
    tap = InflatingPlainTap("chat")
    assert tap.feed(packed) == b""
    tap.finish()
    assert (tap.model, tap.usage_raw) == ("m", USAGE)
    assert tap.release() == packed


def test_damage_and_bombs_are_passed_on_unread() -> None:
    """Neither broken bytes nor a stream that inflates without end stops the relay or fills the memory."""
    tap = InflatingSseTap("chat")
    assert tap.feed(b"no gzip at all") == b"no gzip at all"
    assert tap.usage_raw is None
    bomb = gzip.compress(b"\0" * (INFLATED_BYTES_MAX + 1_000_000))
    plain = InflatingPlainTap("chat")
    plain.feed(bomb)
    assert len(plain.body) == INFLATED_BYTES_MAX
    assert plain.release() == bomb


@pytest.mark.parametrize(("encoding", "readable"), [(b"gzip", True), (b"GZIP ", True), (b"br", False), (b"", False)])
def test_what_can_be_read(encoding: bytes, readable: bool) -> None:
    """gzip and deflate; anything else passes unread."""
    assert is_inflatable(encoding) is readable
