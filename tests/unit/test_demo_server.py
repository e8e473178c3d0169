"""The demo upstream on the wire, spoken to with the real client library and with raw requests."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import structlog
from aiohttp import ClientSession, web
from yarl import URL

from deploy.demo.__main__ import is_loopback
from deploy.demo.app import build, serve

KEY = "sk-demo-test"


async def served(app: web.Application) -> AsyncIterator[str]:
    until, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, "127.0.0.1", 0, said=port.set_result, until=until))
    yield f"http://127.0.0.1:{await port}/v1"
    until.set()
    await task


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async for address in served(build(KEY, tokens_per_s=0)):
        yield address


@pytest.fixture
async def slow_url() -> AsyncIterator[str]:
    async for address in served(build(KEY, tokens_per_s=20)):
        yield address


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as opened:
        yield opened


def chat(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": question}], **more}


async def events(session: ClientSession, url: str, body: dict[str, Any]) -> list[Any]:
    async with session.post(f"{url}/chat/completions", json=body) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        lines = (await answer.read()).split(b"\n\n")
    assert lines[-1] == b""
    return [line.removeprefix(b"data: ") if b"[DONE]" in line else json.loads(line[6:]) for line in lines[:-1]]


async def test_a_stream_has_openais_shape(url: str, session: ClientSession) -> None:
    """A chunk with the role, one per token, one with the reason, [DONE]; no usage where it was not asked for."""
    first, *tokens, last, done = await events(session, url, chat("Conte até 3", stream=True))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [each["choices"][0]["delta"]["content"] for each in tokens] == ["1", " ", "2", " ", "3"]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert done == b"[DONE]"
    assert all("usage" not in each for each in (first, *tokens, last))
    assert {each["model"] for each in (first, *tokens, last)} == {"gpt-4o-mini-2024-07-18"}


async def test_usage_comes_last_and_only_when_asked(url: str, session: ClientSession) -> None:
    """With include_usage every chunk carries `usage: null`, and one more, without choices, carries the numbers."""
    *chunks, usage, done = await events(
        session, url, chat("Conte até 3", stream=True, stream_options={"include_usage": True})
    )
    assert done == b"[DONE]"
    assert all(each["usage"] is None for each in chunks)
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (11, 5)


async def test_the_openai_client_understands_everything(url: str) -> None:
    """Models, plain and streamed chat with a tool, and embeddings (which that client asks for in base64)."""
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        assert "gpt-4o-mini" in [model.id async for model in await client.models.list()]
        plain = await client.chat.completions.create(**chat("Quanto é 2 + 2?"))
        assert plain.choices[0].message.content.startswith("2 + 2 = 4")
        assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
        arguments, names = "", []
        async for chunk in await client.chat.completions.create(**chat("weather?", tools=tools, stream=True)):
            for call in chunk.choices[0].delta.tool_calls or []:
                arguments += call.function.arguments or ""
                names += [call.function.name] if call.function.name else []
        assert (names, json.loads(arguments)) == (["get_weather"], {})
        made = await client.embeddings.create(model="text-embedding-3-small", input=["olá", "mundo"])
        assert [len(each.embedding) for each in made.data] == [1536, 1536]
        assert made.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("body", "key", "status", "code"),
    [
        (b'{"model":', KEY, 400, None),
        (b"[1]", KEY, 400, None),
        (b"{}", KEY, 400, None),
        (b'{"model":"gpt-7","messages":[{"role":"user","content":"x"}]}', KEY, 404, "model_not_found"),
        (b"{}", "sk-wrong", 401, "invalid_api_key"),
        (b"{}", "", 401, None),
    ],
)
async def test_errors_have_openais_shape(url: str, body: bytes, key: str, status: int, code: str | None) -> None:
    """Bad JSON, unknown models and wrong keys are told as OpenAI tells them; the key is not repeated."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        ClientSession() as session,
        session.post(f"{url}/chat/completions", data=body, headers=headers) as answer,
    ):
        said = await answer.json()
    assert answer.status == status
    assert set(said["error"]) == {"message", "type", "param", "code"}
    assert said["error"]["code"] == code
    assert "sk-wrong" not in said["error"]["message"]


async def test_unknown_paths_are_told_in_json(url: str, session: ClientSession) -> None:
    """Also where there is no such endpoint the error is one that clients can read."""
    async with session.post(f"{url}/videos", json={}) as answer:
        assert answer.status == 404
        assert "Invalid URL" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_generation_stops_when_the_client_is_gone(slow_url: str, session: ClientSession, stream: bool) -> None:
    """A closed socket ends the generation where it is, before or between its bytes, and the log says so."""
    body = json.dumps(chat("Write a long story", stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {KEY}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(slow_url).port)
    with structlog.testing.capture_logs() as logged:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            await reader.readuntil(b"data: ")
        # A call that came later has been answered: so this one is being generated.
        async with session.get(f"{slow_url}/models") as answer:
            assert answer.status == 200
        assert logged == []
        writer.close()
        await until(lambda: logged)
    (line,) = logged
    assert line["event"] == "client gone, stopped"
    assert line["tokens_sent"] < line["usage"]["completion_tokens"]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the log has no event to wait for
            await asyncio.sleep(0.01)


def test_only_loopback_addresses_are_served() -> None:
    """The demo refuses every other address, before it listens."""
    assert [host for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost") if not is_loopback(host)] == []
    assert [host for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", "") if is_loopback(host)] == []
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--host", "0.0.0.0", "--port", "0"],
        env={"SUNDIAL_DEMO_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "loopback" in done.stderr
