"""Rows U3, U4, U6, U7 and U9: an upstream that fails, or says strange things, while its answer streams."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.scripted_chain import (
    DONE,
    END,
    SSE,
    STOP,
    STREAM,
    Play,
    Scripted,
    answer_of,
    chunked,
    event,
    scripted_chain,
    text_event,
    texts_in,
    tokens_of,
    usage_of,
    with_length,
)
from tests.harness.scripted_server import Peer
from tests.harness.sse_streams import STREAMS, STYLES, wire

TEXTS = ("O relógio", " de sol", " mede a hora", " sem tocar", " a luz.")
EVENTS = b"".join(map(text_event, TEXTS))
AT_ONCE = 20
"""Calls of a sweep that run at the same time."""


def batches(places: range) -> Iterator[range]:
    """As many at a time as run at once."""
    return (places[start : start + AT_ONCE] for start in range(0, len(places), AT_ONCE))


async def test_u3_silence_in_mid_stream(scripted: Scripted) -> None:
    """Text, then nothing: cut at the limit, the client sees it, and what came is counted."""

    async def hangs(peer: Peer) -> None:
        await peer.say(SSE + chunked(EVENTS))
        async with asyncio.timeout(10):  # before the limit of the whole answer
            await peer.gone()

    scripted.plays(hangs)
    got = await scripted.call(STREAM)
    assert not got.clean
    assert texts_in(got.body) == list(TEXTS)
    [booked] = await scripted.events(1)
    assert (booked["outcome"], booked["evidence"]) == ("timeout", "recounted")
    assert booked["tokens_out"] == tokens_of("".join(TEXTS))
    await scripted.works()


async def test_u3_a_trickle_without_end(tmp_path: Any, database: Any, redis_url: str, upstream: Any) -> None:
    """A byte now and then, for ever: never silent for long, so that the limit of the whole answer ends it."""

    async def trickles(peer: Peer) -> None:
        await peer.say(SSE + chunked(EVENTS + b": "))
        while True:
            await peer.say(chunked(b"."))
            try:
                async with asyncio.timeout(0.2):
                    await peer.gone()
                    return
            except TimeoutError:
                pass

    limits = {"SUNDIAL_ANSWER_TIMEOUT_S": "3"}
    async with scripted_chain(tmp_path / "home", database, redis_url, upstream, **limits) as scripted:
        scripted.plays(trickles)
        got = await scripted.call(STREAM)
        assert not got.clean
        [booked] = await scripted.events(1)
        assert (booked["outcome"], booked["evidence"]) == ("timeout", "recounted")
        assert booked["tokens_out"] == tokens_of("".join(TEXTS))
        await scripted.works()


STREAMED = SSE + chunked(EVENTS + STOP + event([], usage_of(9, 17)) + DONE, 100) + END
SOUND = with_length(answer_of("O relógio de sol", 5))
PLACES = {"stream": STREAMED, "whole": SOUND}


def _cut(whole: bytes, place: int, *, reset: bool) -> Play:
    async def cuts(peer: Peer) -> None:
        await peer.say(whole[:place])
        await (peer.reset() if reset else peer.close())

    return cuts


async def _cut_at(scripted: Scripted, name: str, places: Sequence[int]) -> None:
    """Every cut is seen by the client, unless all that counts had come; what came is booked."""
    whole = PLACES[name]
    head = whole.index(b"\r\n\r\n") + 4
    plays = [_cut(whole, place, reset=bool(number % 2)) for number, place in enumerate(places)]
    answers = await scripted.calls(plays, STREAM if name == "stream" else {**STREAM, "stream": False})
    events = {event["event_id"]: event for event in await scripted.events(sum(place >= head for place in places))}
    for place, got in zip(places, answers, strict=True):
        if place < head:
            assert (got.status, got.clean) == (502, True), place
            continue
        booked = events[got.event_id]
        if got.clean:
            # The event that ends the stream was there: nothing that the client wants was lost.
            assert name == "stream"
            assert got.body.endswith(DONE), place
            assert (booked["outcome"], booked["evidence"]) == ("complete", "provider")
        else:
            assert b"[DONE]" not in got.body, place
            assert booked["outcome"] == "upstream_error", place
            assert booked["tokens_out"] >= tokens_of("".join(texts_in(got.body))), place


async def test_u4_cut_in_mid_stream(scripted: Scripted) -> None:
    """Closed or reset at some bytes of head and body: the client never sees a clean end of what is not whole."""
    for name, whole in PLACES.items():
        size = len(whole)
        await _cut_at(scripted, name, [20, size // 4, size // 3, size // 2, size * 3 // 4, size - 8, size - 1])
    await scripted.nothing_booked()
    await scripted.works()


@pytest.mark.sweep
@pytest.mark.parametrize("name", list(PLACES))
async def test_u4_cut_at_every_byte(scripted: Scripted, name: str) -> None:
    """The same at every byte."""
    for places in batches(range(1, len(PLACES[name]))):
        await _cut_at(scripted, name, places)
    await scripted.nothing_booked()
    await scripted.works()


async def test_u6_usage_of_every_kind(scripted: Scripted) -> None:
    """Error after 200, no usage, nonsense, two of them, one after [DONE]: the last credible one counts, else the text
    is counted, and an output that is left out alone. Nothing is booked as a credit, nothing wraps, the evidence says
    what it was, and what cannot be is flagged."""
    counted = tokens_of("".join(TEXTS))
    text = EVENTS + STOP

    def usage(value: Any) -> bytes:
        return event([], value)

    error = b'data: {"error":{"message":"overloaded"}}\n\n'
    cases: list[tuple[bytes, str, str, int, list[str]]] = [
        (EVENTS + error, "upstream_error", "recounted", counted, []),
        (text + DONE, "complete", "recounted", counted, []),
        (text + usage(usage_of(0, 0)) + DONE, "complete", "recounted", counted, []),
        (text + usage(usage_of(9, None)) + DONE, "complete", "recounted", counted, []),
        (text + usage(usage_of(-5, -7)) + DONE, "complete", "recounted", counted, ["absurd"]),
        (text + usage(usage_of("9", "17")) + DONE, "complete", "provider", 17, []),
        (text + usage(usage_of("x", None)) + DONE, "complete", "recounted", counted, ["absurd"]),
        (text + usage(usage_of(9, 17)) + usage(usage_of(9, 18)) + DONE, "complete", "provider", 18, []),
        (text + usage(usage_of(9, 17)) + usage(usage_of(-9, 18)) + DONE, "complete", "provider", 17, ["absurd"]),
        (text + usage(usage_of(-9, 17)) + usage(usage_of(9, 18)) + DONE, "complete", "provider", 18, []),
        (text + usage(usage_of(9, 17)) + usage(None) + DONE, "complete", "provider", 17, []),
        (text + DONE + usage(usage_of(9, 21)), "complete", "provider", 21, []),
        (text + usage([1, 2]) + DONE, "complete", "recounted", counted, []),
        (text + usage(usage_of(1e30, 17)) + DONE, "complete", "recounted", counted, ["absurd"]),
        (text + usage(usage_of(9, 10**9)) + DONE, "complete", "recounted", counted, ["absurd"]),
        (text + usage(usage_of(9, 2**63)) + DONE, "complete", "recounted", counted, ["absurd"]),
    ]
    for number, (body, outcome, evidence, tokens, flags) in enumerate(cases):
        scripted.says(SSE + chunked(body) + END)
        got = await scripted.call(STREAM)
        [booked] = await scripted.events(1)
        assert got.clean, number
        assert (booked["outcome"], booked["evidence"]) == (outcome, evidence), number
        assert (booked["tokens_out"], booked["flags"]) == (tokens, flags), number
        assert 0 < booked["tokens_in"] < 100, number
        assert booked["charge_mc"] > 0, number


def _u7_bodies() -> dict[str, bytes]:
    bodies = {
        f"{name} {style}": wire(lines, STYLES[style])
        for name, (family, lines, _) in STREAMS.items()
        for style in STYLES
        if family == "chat" and name in ("openai", "decorated")
    }
    bodies["bom"] = b"\xef\xbb\xbf" + bodies["openai LF"]
    bodies["no blank line at the end"] = bodies["openai LF"].removesuffix(b"\n")
    return bodies


def _slices(frames: Sequence[bytes]) -> Play:
    async def slices(peer: Peer) -> None:
        await peer.say(SSE)
        for frame in frames:
            await peer.say(chunked(frame))
        await peer.say(END)

    return slices


async def _sliced(scripted: Scripted, body: bytes, *sliced: Sequence[bytes]) -> None:
    """However the body is sliced, the client has it, and its usage is read."""
    asks = {**STREAM, "stream_options": {"include_usage": True}}
    answers = await scripted.calls([_slices(frames) for frames in sliced], asks)
    # On a machine that starves Redis may answer too late for a call: that one is told to come again, and does.
    again = [frames for got, frames in zip(answers, sliced, strict=True) if got.status == 503]
    for got, frames in zip(answers, sliced, strict=True):
        if frames not in again:
            assert (got.clean, got.body) == (True, body), [len(frame) for frame in frames]
    for booked in await scripted.events(len(sliced) - len(again)):
        assert (booked["tokens_in"], booked["tokens_out"]) == (9, 4), body[:64]
    if again:
        assert len(again) < len(sliced)
        await _sliced(scripted, body, *again)


async def test_u7_slices(scripted: Scripted) -> None:
    """Whole, byte by byte, in two at some places: the client's bytes are the upstream's, and the usage is the same."""
    for body in _u7_bodies().values():
        third = len(body) // 3
        byte_by_byte = [body[k : k + 1] for k in range(len(body))]
        await _sliced(scripted, body, [body], byte_by_byte, [body[:third], body[third:]])
    large = text_event("á" * 500_000) + _u7_bodies()["openai LF"]
    await _sliced(scripted, large, [large[k : k + 7_777] for k in range(0, len(large), 7_777)])


@pytest.mark.sweep
async def test_u7_slices_at_every_byte(scripted: Scripted) -> None:
    """The same, in two at every byte."""
    for body in _u7_bodies().values():
        for places in batches(range(1, len(body))):
            await _sliced(scripted, body, *([body[:place], body[place:]] for place in places))


async def test_u9_compressed_though_nobody_asked(scripted: Scripted) -> None:
    """gzip and deflate pass as they are, with their header, and are read; what cannot be read, damage and bombs pass
    too, within bounds of memory, and are counted as well as they can be."""
    stream = EVENTS + STOP + event([], usage_of(9, 17)) + DONE
    whole = {**STREAM, "stream": False}
    sound = gzip.compress(answer_of("a", 5))
    cases: list[tuple[str, bytes, Any, tuple[str, int] | None]] = [
        ("gzip", gzip.compress(stream), STREAM, ("provider", 17)),
        ("gzip", sound, whole, ("provider", 5)),
        ("deflate", zlib.compress(answer_of("a", 6)), whole, ("provider", 6)),
        ("br", b"\x1b no brotli", whole, None),
        ("gzip", sound[:-12] + b"damage", whole, None),
        ("gzip", gzip.compress(answer_of("x", 5) + b" " * 300_000_000, compresslevel=6), whole, None),
    ]
    for number, (encoding, body, asks, said) in enumerate(cases):
        more = f"content-encoding: {encoding}\r\n"
        sse = SSE[:-2] + more.encode() + b"\r\n" + chunked(body, 16) + END
        scripted.says(sse if asks is STREAM else with_length(body, more=more))
        got = await scripted.call(asks, decompress=False)
        assert (got.status, got.clean, got.headers["content-encoding"]) == (200, True, encoding), number
        assert got.body == body, number
        [booked] = await scripted.events(1)
        assert said in (None, (booked["evidence"], booked["tokens_out"])), (number, booked)
        assert booked["charge_mc"] >= 0
    assert _rss_mb(scripted) < 600
    await scripted.works()


def _rss_mb(scripted: Scripted) -> int:
    """Of the gateway, in MiB."""

    lines = Path(f"/proc/{scripted.chain.stack.gateway.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
