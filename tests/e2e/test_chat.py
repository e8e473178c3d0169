"""The main job: a chat goes through, and stands on the statement to the token within a second."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import openai
import pytest

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play

MESSAGES: Any = [{"role": "user", "content": "Quanto custa um relógio de sol?"}]


async def test_streamed_chat_is_on_the_statement(chain: Chain) -> None:
    """A streamed chat with the openai package: whole text, no usage chunk, booked to the token."""
    secret = await chain.personal("ana", credit="100000")
    text, usages = "", []
    async with chain.client(secret) as client:
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        async for chunk in stream:
            usages.append(chunk.usage)
            text += chunk.choices[0].delta.content or ""
    entries = await chain.usage_entries("ana", 1)
    [served] = chain.upstream.served
    assert text == served.text
    assert not any(usages)
    assert (entries[0]["tokens_in"], entries[0]["tokens_out"]) == (served.prompt_tokens, served.sent_tokens)
    assert entries[0]["evidence"] == "provider"
    assert entries[0]["event_id"] == str(served.event_id)


async def test_plain_chat_is_on_the_statement(chain: Chain) -> None:
    """A chat that is not streamed: the usage that the client sees is the one that is booked."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.client(secret) as client:
        answer = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=MESSAGES)
    entries = await chain.usage_entries("ana", 1)
    usage = answer.parse().usage
    assert usage is not None
    assert (entries[0]["tokens_in"], entries[0]["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert answer.headers["x-sundial-call-id"] == entries[0]["event_id"]


async def test_booked_within_a_second(chain: Chain) -> None:
    """From the last byte at the client to the row in Postgres it takes less than a second."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.client(secret) as client:
        await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    started = time.monotonic()
    await chain.booked(1)
    assert time.monotonic() - started < 1.0


async def test_usage_chunk_stays_where_the_client_asked(chain: Chain) -> None:
    """With stream_options.include_usage of its own the client gets every byte of the upstream, usage included."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.client(secret) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == chain.upstream.served[0].sent_tokens


async def test_only_the_usage_chunk_is_taken_out(chain: Chain) -> None:
    """The bytes of a stream are those of the upstream, less exactly the usage event that the gateway asked for."""
    secret = await chain.personal("ana", credit="100000")
    body = {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}
    without = await chain.raw(secret, body)
    asked = await chain.raw(secret, {**body, "stream_options": {"include_usage": True}})
    first, second = chain.upstream.served
    events = asked.replace(str(second.event_id).encode(), str(first.event_id).encode()).split(b"\n\n")
    kept = [event for event in events if b'"choices":[]' not in event]
    assert len(kept) == len(events) - 1
    assert without.split(b"\n\n") == kept


async def test_chunks_arrive_as_they_are_written(chain: Chain) -> None:
    """Each chunk reaches the client while the upstream holds back the next one."""
    secret = await chain.personal("ana", credit="100000")
    gates = [asyncio.Event() for _ in range(6)]
    chain.upstream.script = lambda _: Play(tokens=6, pause=lambda sent: asyncio.ensure_future(gates[sent].wait()))
    async with chain.client(secret) as client:
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        seen = 0
        gates[0].set()
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                seen += 1
                if seen < len(gates):
                    gates[seen].set()  # only now may the upstream write the next one
    assert seen == 6


async def test_keep_alive_while_the_upstream_thinks(chain: Chain) -> None:
    """Upstream silence is filled with SSE comments, which the openai package does not notice."""
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(SUNDIAL_KEEPALIVE_S="0.1")
    secret = await chain.personal("ana", credit="100000")
    release = asyncio.Event()
    chain.upstream.script = lambda _: Play(pause=lambda n: asyncio.ensure_future(release.wait()) if n == 3 else None)
    body = {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}
    received = b""
    async with chain.session(secret) as session, session.post("/v1/chat/completions", json=body) as answer:
        async for data in answer.content.iter_any():
            received += data
            if received.count(b": keep-alive\n\n") == 2:
                release.set()
    assert received.count(b": keep-alive\n\n") >= 2
    assert received.endswith(b"data: [DONE]\n\n")


async def test_models_carry_prices(chain: Chain) -> None:
    """GET /v1/models lists what the upstream has and a price is known of, with price and context length."""
    secret = await chain.personal("ana", credit="0")
    async with chain.session(secret) as session, session.get("/v1/models") as answer:
        models = {entry["id"]: entry for entry in (await answer.json())["data"]}
    assert set(models) == {"gpt-4o-mini", "gpt-4o", "gpt-5-mini"}
    assert models["gpt-4o-mini"]["pricing"] == {"prompt": "0.00000015", "completion": "0.0000006"}
    assert models["gpt-4o-mini"]["context_length"] == 128000


async def test_upstream_refusals_pass_through(chain: Chain) -> None:
    """An upstream's 429 reaches the client byte for byte and with its headers; nothing is booked, the hold is gone."""
    secret = await chain.personal("ana", credit="100000")
    body = b'{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded","param":null}}'
    headers = {"content-type": "application/json", "retry-after": "7"}
    chain.upstream.script = lambda _: Play(status=429, body=body, headers=headers)
    request = {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}
    async with chain.session(secret) as session, session.post("/v1/chat/completions", json=request) as answer:
        assert answer.status == 429
        assert answer.headers["retry-after"] == "7"
        assert await answer.read() == body
    shown = await chain.settled("ana")
    assert (shown["balance"], shown["held"]) == (100_000_000, 0)


async def test_broken_upstream_is_never_a_clean_end(chain: Chain) -> None:
    """A reset, and a close without [DONE], both reach the client as a broken connection; what came is booked."""
    secret = await chain.personal("ana", credit="100000")
    for ending in ("reset", "no_done"):
        chain.upstream.script = lambda _, ending=ending: Play(ending=ending)  # type: ignore[misc]
        with pytest.raises(aiohttp.ClientPayloadError):
            await chain.raw(secret, {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True})
    entries = await chain.usage_entries("ana", 2)
    for entry, served in zip(entries, chain.upstream.served, strict=True):
        assert entry["outcome"] == "upstream_error"
        assert entry["evidence"] == "recounted"
        assert (entry["tokens_in"], entry["tokens_out"]) == (served.prompt_tokens, served.sent_tokens)


async def test_an_error_inside_the_stream_passes(chain: Chain) -> None:
    """`data: {"error":…}` in mid-stream reaches the client as it is, and the text before it is booked."""
    secret = await chain.personal("ana", credit="100000")
    chain.upstream.script = lambda _: Play(ending="error_event")
    async with chain.client(secret) as client:
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            _ = [chunk async for chunk in stream]
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["outcome"] == "upstream_error"
    assert entry["tokens_out"] == chain.upstream.served[0].sent_tokens


async def test_no_usage_is_recounted(chain: Chain) -> None:
    """A provider that reports no usage is counted by tokenizer, and the statement says so."""
    secret = await chain.personal("ana", credit="100000")
    chain.upstream.script = lambda _: Play(usage=False, tokens=40)
    await chain.raw(secret, {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True})
    await chain.raw(secret, {"model": "gpt-4o-mini", "messages": MESSAGES})
    for entry, served in zip(await chain.usage_entries("ana", 2), chain.upstream.served, strict=True):
        assert entry["evidence"] == "recounted"
        assert (entry["tokens_in"], entry["tokens_out"]) == (served.prompt_tokens, 40)


async def test_unknown_paths_are_refused(chain: Chain) -> None:
    """A path that is not declared never reaches the upstream."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.session(secret) as session:
        for method, path, status in (
            ("POST", "/v1/files", 404),
            ("GET", "/v1/chat/completions", 405),
            ("POST", "/v1/chat/completions/", 404),
            ("GET", "/", 404),
        ):
            async with session.request(method, path, json={}) as answer:
                error = json.loads(await answer.read())["error"]
                assert answer.status == status, path
                assert error["code"] in ("unknown_path", "method_not_allowed")
    assert chain.upstream.served == []
