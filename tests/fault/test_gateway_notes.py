"""G2: what a killed gateway had noted of a stream is less than the truth in its output, and the truth in its input."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.journal import read, segments
from shared import events
from shared.events import UsageEvent
from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play

TOKENS: Final = 2_000
"""More than come before the gateway is killed."""
TOKEN_S: Final = 0.005
TEXT: Final = "Conte até mil, de um em um, e diga de cada número se é primo. " * 20
CALLS: Final = {"/v1/chat/completions": "gpt-4o-mini", "/v1/messages": "claude-sonnet-4-5"}


def notes(home: Path) -> list[UsageEvent]:
    """The notes in the journals of this home, oldest first."""
    records = [
        record
        for folder in (home / "journal").iterdir()
        for path in segments(folder)
        for record in read(path)
        if record and record[0] == b"C"
    ]
    return [event for _, payload in records if isinstance(event := events.decode(payload), UsageEvent)]


async def until_noted(pieces: AsyncIterator[Any], home: Path) -> list[UsageEvent]:
    """Read on until a note says what came in; the notes."""
    async for _ in pieces:
        found = notes(home)
        if found and found[-1].usage.tokens_in:
            return found
    raise AssertionError("the stream came to its end without such a note")


@pytest.mark.parametrize("path", CALLS)
async def test_g2_a_lost_call_pays_for_its_exact_input(chain: Chain, path: str) -> None:
    """Killed in mid-stream: booked as lost, with the prompt's exact tokens, counted or as the answer said them, never
    with the estimate that was held for; and with no more output than was sent."""
    secret = await chain.personal("ana", credit="1000000")
    chain.upstream.script = lambda _: Play(tokens=TOKENS, pause=lambda _: asyncio.ensure_future(asyncio.sleep(TOKEN_S)))
    body = {"model": CALLS[path], "max_tokens": TOKENS, "messages": [{"role": "user", "content": TEXT}], "stream": True}
    async with chain.session(secret) as session, session.post(path, json=body) as answer:
        found = await until_noted(answer.content.iter_any(), Path(chain.stack.environment["SUNDIAL_HOME"]))
        chain.stack.gateway.kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    [served] = chain.upstream.served
    said = served.reported or {"input_tokens": served.prompt_tokens}
    tokens_in = sum(count for kind, count in said.items() if "input_tokens" in kind)
    assert {note.usage.tokens_in for note in found} <= {0, tokens_in}
    await chain.stack.gateway.start()
    [entry] = await chain.usage_entries("ana", 1)
    assert (entry["outcome"], entry["evidence"], entry["tokens_in"]) == ("lost", "checkpoint", tokens_in)
    assert 0 < entry["tokens_out"] <= served.sent_tokens
    assert (await chain.settled("ana"))["held"] == 0
