"""What people write and read passes through, and stays nowhere: not in the journal, a log, Redis or Postgres.

All that Redis and Postgres ever wrote stands in their logs of writes, on disk: the files are searched, and the search
finds what is meant to be kept.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream, Play
from tests.harness.own_postgres import OwnPostgres
from tests.harness.postgres_fixtures import own_postgres, postgres_template
from tests.harness.redis_fixtures import own_redis
from tests.harness.redis_versions import RedisProgram

__all__ = ["own_postgres", "own_redis", "postgres_template"]

ASKED: Final = "jabuticaba-azul"
"""In everything that a client sends."""
ANSWERED: Final = "caleidoscópio"
"""In everything that it gets."""
KEPT: Final = "conversa-7f3a"
"""A label: it is kept in all three places."""
PATH: Final = "/v1/chat/completions"


@pytest.fixture
async def watched(
    tmp_path: Path, own_postgres: OwnPostgres, own_redis: RedisProgram, upstream: FakeUpstream
) -> AsyncIterator[Chain]:
    """A chain on servers of its own that says as much as it can, and counts every call a second time."""
    said = {"SUNDIAL_RECOUNT_SAMPLE": "1", "SUNDIAL_LOG_LEVEL": "debug", "SUNDIAL_DEFAULT_ALLOWANCE": "1000000"}
    addresses = own_postgres.addresses(own_postgres.port)
    upstream.speak(f" {ANSWERED}")
    async with running_chain(tmp_path / "home", addresses, own_redis.url(), upstream, **said) as started:
        yield started


async def test_text_is_kept_nowhere(watched: Chain, tmp_path: Path) -> None:
    """Whole and streamed, of each family of text; recounted, cut, refused, failed; with a gateway that is killed."""
    chain, upstream = watched, watched.upstream
    secret = await chain.service()
    await said(chain, secret, "ana", chat(stream=False))
    await said(chain, secret, "ana", chat(stream=True))
    upstream.script = lambda _: Play(usage=False, tokens=300)
    await said(chain, secret, "ana", chat(stream=True))
    await said(chain, secret, "ana", chat(stream=False))
    for ending in ("reset", "no_done", "error_event"):
        upstream.script = lambda _, how=ending: Play(tokens=30, ending=how)  # type: ignore[misc]
        await said(chain, secret, "ana", chat(stream=True))
    refusal = b'{"error": {"message": "%b: %b"}}' % (ASKED.encode(), ANSWERED.encode())
    upstream.script = lambda _: Play(status=400, body=refusal)
    await said(chain, secret, "ana", chat(stream=True))
    upstream.script = lambda _: Play()
    for path, fields in (
        ("responses", {"input": ASKED, "model": "gpt-4o-mini"}),
        ("messages", {"messages": MESSAGES, "model": "claude-sonnet-4-5", "max_tokens": 20}),
        ("completions", {"prompt": ASKED, "model": "gpt-3.5-turbo-instruct"}),
        ("embeddings", {"input": ASKED, "model": "text-embedding-3-small"}),
        ("audio/speech", {"input": ASKED, "model": "tts-1", "voice": "alloy"}),
        ("images/generations", {"prompt": ASKED, "model": "gpt-image-1"}),
    ):
        await said(chain, secret, "ana", fields, f"/v1/{path}")
    await said(chain, secret, "ana", {"model": ASKED, "messages": MESSAGES})  # no such model
    await said(chain, secret, "ana", f'{{"model": "gpt-4o-mini", "messages": "{ASKED}')  # no JSON
    await left_and_killed(chain, secret)

    await chain.stack.stop()
    places = {"home": tmp_path / "home", "redis": tmp_path / "redis", "postgres": tmp_path / "postgres"}
    for name, folder in places.items():
        assert holding(folder, KEPT), f"the label is not found in {name}: the search is blind"
    for text in (ASKED, ANSWERED):
        assert [path for folder in places.values() for path in holding(folder, text)] == [], text
    assert len(upstream.served) == 16, "all were served but the two that ask for no model that there is"
    await chain.stack.start()


MESSAGES: Final[Any] = [{"role": "system", "content": ASKED}, {"role": "user", "content": f"Conte: {ASKED}"}]


def chat(*, stream: bool) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": stream}


async def said(chain: Chain, secret: str, user: str, body: Any, path: str = PATH) -> bytes:
    """What one call got, however it ended."""
    headers = {"X-Sundial-User-Id": user, "X-Sundial-Conversation-Id": KEPT}
    got = b""
    sent: Any = {"data": body} if isinstance(body, str) else {"json": body}
    async with chain.session(secret) as session, session.post(path, headers=headers, **sent) as answer:
        with contextlib.suppress(aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):  # a cut answer
            async for data in answer.content.iter_any():
                got += data
    return got


async def left_and_killed(chain: Chain, secret: str) -> None:
    """A client leaves in mid-stream; a gateway is killed in mid-stream, and its successor books what it had noted."""
    upstream, never = chain.upstream, asyncio.Event()
    upstream.script = lambda _: Play(
        tokens=5_000,
        tokens_per_event=10,
        pause=lambda sent: asyncio.ensure_future(never.wait()) if sent > 4_000 else None,
    )
    for killed in (False, True):
        headers = {"X-Sundial-User-Id": "ana", "X-Sundial-Conversation-Id": KEPT}
        async with (
            chain.session(secret) as session,
            session.post(PATH, json=chat(stream=True), headers=headers) as answer,
        ):
            got = b""
            while got.count(ANSWERED.encode()) < 3_000:
                got += (data := await answer.content.readany())
                assert data, got[-500:]
            if killed:
                chain.stack.gateway.signal(signal.SIGKILL)
                await chain.stack.gateway.ended()
            answer.close()
    await chain.stack.gateway.start()
    await chain.settled("ana")


def holding(folder: Path, text: str) -> list[Path]:
    """The files in which a text stands, as UTF-8 or as JSON escapes it."""
    forms = {text.encode(), text.encode("ascii", "backslashreplace").replace(b"\\xf3", b"\\u00f3")}
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if any(form in path.read_bytes() for form in forms)]
