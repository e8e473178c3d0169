"""An upstream that writes faster than anybody could read: nobody gets more than one slice beyond their credit."""

import json
from collections.abc import Iterator
from itertools import cycle, islice

from tests.harness.scripted_chain import END, SSE, Scripted, chunked, text_event, texts_in, tokens_of
from tests.harness.scripted_server import Peer

SLICE_TOKENS = 1024
FLOOD_TOKENS = 60_000
TEXT = "o relógio de sol mede a hora sem tocar a luz e cada sombra diz quanto do dia já passou assim"
WORDS = TEXT.split()


def words(number: int) -> Iterator[str]:
    return (f" {word}" for word in islice(cycle(WORDS), number))


def flood(events: list[bytes], frame_bytes: int) -> bytes:
    return SSE + chunked(b"".join(events), frame_bytes) + END


def chat(words_each: int) -> list[bytes]:
    several = words(FLOOD_TOKENS)
    return [text_event("".join(islice(several, words_each))) for _ in range(FLOOD_TOKENS // words_each)]


def message(words_each: int) -> list[bytes]:
    def named(kind: str, **more: object) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more}, ensure_ascii=False)}\n\n".encode()

    several = words(FLOOD_TOKENS)
    usage = {"input_tokens": 12, "output_tokens": 1}
    return [
        named("message_start", message={"model": "claude-sonnet-4-5", "usage": usage}),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            named(
                "content_block_delta",
                index=0,
                delta={"type": "text_delta", "text": "".join(islice(several, words_each))},
            )
            for _ in range(FLOOD_TOKENS // words_each)
        ),
    ]


RATES_MC = {"chat": 600, "messages": 15_000}
"""Millicredits a token of output of the model that each family is asked for."""


async def test_u_flood_overspends_one_slice_at_most(scripted: Scripted) -> None:
    """60,000 tokens as fast as sockets go, on credit for some 700: dense or one by one, in frames that begin and end
    anywhere. The client has a valid stream that ends with the reason; what it has is what is charged."""
    for family, rate_mc in RATES_MC.items():
        for each, frame_bytes in ((50, 1 << 16), (1, 3_000), (200, 1 << 16)):
            await _flooded(scripted, family, rate_mc, each, frame_bytes)


async def _flooded(scripted: Scripted, family: str, rate_mc: int, each: int, frame_bytes: int) -> None:
    chats = family == "chat"
    answer = flood((chat if chats else message)(each), frame_bytes)

    async def play(peer: Peer) -> None:
        await peer.say(answer)

    scripted.plays(play)
    user = f"{family}-{each}"
    secret = await scripted.chain.personal(user, credit=str(700 * rate_mc / 1_000))
    body = {"messages": [{"role": "user", "content": "Conte."}], "stream": True}
    if chats:
        got = await scripted.call({**body, "model": "gpt-4o-mini"}, secret=secret)
    else:
        asks = {**body, "model": "claude-sonnet-4-5", "max_tokens": 60_000}
        got = await scripted.call(asks, path="/messages", secret=secret)
    [booked] = await scripted.events(1)
    assert got.clean, user
    assert booked["outcome"] == "exhausted", user
    assert "créditos" in got.body.decode(), user
    if chats:
        *texts, reason = texts_in(got.body)
        assert "créditos" in reason
        assert booked["charge_mc"] >= tokens_of("".join(texts)) * rate_mc
    shown = await scripted.chain.settled(user)
    # No stream ends within an event: where events are large, the last one comes on top.
    last = 2 * each if each > 100 else 0
    assert -(SLICE_TOKENS + last) * rate_mc <= shown["balance"] < 64 * rate_mc, (user, shown["balance"] / rate_mc)
