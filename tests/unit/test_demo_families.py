"""The demo upstream's further endpoints, spoken to as their clients do: shapes, and usage that fits."""

import asyncio
import io
import json
import wave
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import pytest
import structlog
from aiohttp import ClientSession

from deploy.demo.app import build, serve
from deploy.demo.counting import Tokenizer
from deploy.demo.picture import size_of
from deploy.demo.sound import heard_s, spoken, spoken_ms

KEY: Final = "sk-demo-test"
TEXT: Final = "Quanto custa um relógio de sol?"
COUNT: Final = "Conte até 3"
PICTURE: Final = ("sol.png", b"\x89PNG" + bytes(500), "image/png")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    until, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(build(KEY, 0), "127.0.0.1", 0, said=port.set_result, until=until))
    yield f"http://127.0.0.1:{await port}/v1"
    until.set()
    await task


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as opened:
        yield opened


async def anthropic(url: str, path: str, body: dict[str, Any], key: str = KEY) -> tuple[int, bytes]:
    async with ClientSession() as session, session.post(url + path, json=body, headers={"x-api-key": key}) as answer:
        return answer.status, await answer.read()


def events(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream that names each of them, its name checked against its type."""
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, _, content = block.partition("\n")
        found.append(json.loads(content.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def test_responses(client: openai.AsyncOpenAI) -> None:
    """Whole and streamed they say the same, with the usage of a chat; events are numbered; a cut one is incomplete."""
    asked: dict[str, Any] = {"model": "gpt-4o-mini", "input": [{"role": "user", "content": COUNT}]}
    whole = await client.responses.create(**asked)
    chat = await client.chat.completions.create(model="gpt-4o-mini", messages=asked["input"])
    assert whole.output_text == chat.choices[0].message.content == "1 2 3"
    assert whole.usage is not None
    assert chat.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (11, 5)
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (11, 5)
    stream = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [event.sequence_number for event in stream] == list(range(len(stream)))
    assert stream[0].type == "response.created"
    assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "1 2 3"
    assert stream[-1].type == "response.completed"
    assert stream[-1].response.usage == whole.usage
    cut = [event async for event in await client.responses.create(**asked, stream=True, max_output_tokens=2)]
    assert cut[-1].type == "response.incomplete"
    assert cut[-1].response.usage is not None
    assert cut[-1].response.usage.output_tokens == 2
    thought = await client.responses.create(model="o4-mini", input=COUNT)
    assert thought.usage is not None
    assert thought.usage.output_tokens == thought.usage.output_tokens_details.reasoning_tokens + 5
    tool: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
    called = await client.responses.create(model="gpt-4o-mini", input="weather?", tools=[tool])
    assert [item.type for item in called.output] == ["function_call"]


async def test_failures_come_on_request(client: openai.AsyncOpenAI, url: str) -> None:
    """`#fail` in a question: a whole answer is an error, a stream breaks half-way in the way of its endpoint."""
    asked = TEXT + " #fail"
    messages: Any = [{"role": "user", "content": asked}]
    failed = await client.responses.create(model="gpt-4o-mini", input=asked)
    assert (failed.status, failed.usage) == ("failed", None)
    assert failed.error is not None
    stream = [event async for event in await client.responses.create(model="gpt-4o-mini", input=asked, stream=True)]
    assert stream[-1].type == "response.failed"
    assert any(event.type == "response.output_text.delta" for event in stream)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    with pytest.raises(openai.InternalServerError):
        await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=asked)
    chunks = await client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True)
    with pytest.raises(openai.APIError, match="#fail"):
        [_ async for _ in chunks]
    texts = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=asked, stream=True)
    with pytest.raises(openai.APIError, match="#fail"):
        [_ async for _ in texts]
    body = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": messages}
    assert (await anthropic(url, "/messages", body))[0] == 529
    _, data = await anthropic(url, "/messages", {**body, "stream": True})
    *_, before, last = events(data)
    assert (before["type"], last["type"]) == ("content_block_delta", "error")


async def test_completions(client: openai.AsyncOpenAI) -> None:
    """Prompts times `n`, 16 tokens each where nothing else is said; usage of a stream where it is asked for."""
    model = "gpt-3.5-turbo-instruct"
    tokenizer = Tokenizer(model)
    several = await client.completions.create(model=model, prompt=[TEXT, "Olá"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.usage is not None
    assert several.usage.prompt_tokens == tokenizer.count(TEXT) + tokenizer.count("Olá")
    assert several.usage.completion_tokens == sum(tokenizer.count(choice.text) for choice in several.choices) == 64
    options: Any = {"include_usage": True}
    chunks = [
        chunk
        async for chunk in await client.completions.create(
            model=model, prompt=tokenizer.encode(TEXT), stream=True, stream_options=options
        )
    ]
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert text == several.choices[0].text
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (tokenizer.count(TEXT), 16)
    assert not any(chunk.usage for chunk in chunks[:-1])


async def test_messages(url: str) -> None:
    """Whole and streamed, with the input beside what is read from the cache and written to it; tokens counted alone;
    refusals in Anthropic's shape."""
    marked = [{"type": "text", "text": "sol e sombra " * 800, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 3,
        "system": marked,
        "messages": [{"role": "user", "content": COUNT}],
    }
    _, counted = await anthropic(url, "/messages/count_tokens", body)
    _, first = await anthropic(url, "/messages", body)
    _, second = await anthropic(url, "/messages", {**body, "stream": True})
    whole, stream = json.loads(first), events(second)
    written = whole["usage"]["cache_creation_input_tokens"]
    assert written > 2000
    assert whole["usage"]["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": written}
    assert whole["usage"]["input_tokens"] + written == json.loads(counted)["input_tokens"]
    assert (whole["content"][0]["text"], whole["stop_reason"], whole["usage"]["output_tokens"]) == (
        "1 2",
        "max_tokens",
        3,
    )
    start, end = stream[0]["message"]["usage"], stream[-2]["usage"]
    assert [start["cache_read_input_tokens"], end["cache_read_input_tokens"]] == [written, written]
    assert (start["output_tokens"], end["output_tokens"], end["cache_creation_input_tokens"]) == (1, 3, 0)
    assert "".join(one["delta"]["text"] for one in stream if one["type"] == "content_block_delta") == "1 2"
    assert stream[-1] == {"type": "message_stop"}
    tool = {"name": "get_weather", "input_schema": {"type": "object"}}
    asked = {**body, "tools": [tool], "messages": [{"role": "user", "content": "weather?"}]}
    _, called = await anthropic(url, "/messages", asked)
    assert json.loads(called)["content"][0]["type"] == "tool_use"
    for more, key, status, kind in (
        ({"model": "gpt-7"}, KEY, 404, "not_found_error"),
        ({"max_tokens": None}, KEY, 400, "invalid_request_error"),
        ({"tool_choice": "auto", "messages": 3}, KEY, 400, "invalid_request_error"),
        ({}, "sk-wrong", 401, "authentication_error"),
    ):
        refused, data = await anthropic(url, "/messages", {**body, **more}, key)
        assert (refused, json.loads(data)["error"]["type"]) == (status, kind)


async def test_images(client: openai.AsyncOpenAI) -> None:
    """By tokens: as many for each image as OpenAI documents, streamed with its sketches; edits with those of the image
    that is sent along. By the piece: no usage, and an address that gives the picture in the size that was asked for."""
    two = await client.images.generate(model="gpt-image-1", prompt=TEXT, n=2, quality="low")
    assert len(two.data or []) == 2
    assert two.usage is not None
    assert (two.usage.input_tokens, two.usage.output_tokens) == (Tokenizer("gpt-image-1").count(TEXT), 2 * 272)
    stream = await client.images.generate(
        model="gpt-image-1", prompt=TEXT, stream=True, partial_images=2, quality="high", size="1024x1536"
    )
    kinds: list[Any] = [event async for event in stream]
    assert [one.type for one in kinds] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert kinds[-1].usage.output_tokens == 6_240 + 2 * 100
    edited = await client.images.edit(model="gpt-image-1-mini", image=[PICTURE, PICTURE], prompt=TEXT)
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens == 2 * 194
    assert edited.usage.output_tokens == 1_056
    drawn = await client.images.generate(model="dall-e-3", prompt=TEXT, size="1024x1792")
    assert drawn.data is not None
    assert drawn.usage is None
    async with ClientSession() as session, session.get(drawn.data[0].url or "") as answer:
        assert size_of(await answer.read()) == (1024, 1792)
    with pytest.raises(openai.BadRequestError):
        await client.images.generate(model="dall-e-3", prompt=TEXT, n=2)
    with pytest.raises(openai.BadRequestError):
        await client.images.generate(model="gpt-image-1", prompt=TEXT, size="1x1")


async def test_speech(client: openai.AsyncOpenAI, url: str) -> None:
    """As long as its text in every format; as events too, whose last one has the tokens."""
    length = spoken_ms(TEXT) / 1000
    mp3 = await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
    wav = await client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=TEXT, response_format="wav")
    pcm = await client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=TEXT, response_format="pcm")
    assert [heard_s(mp3.content), heard_s(wav.content), len(pcm.content) / 48_000] == [length] * 3
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": TEXT, "stream_format": "sse"}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with ClientSession() as session, session.post(f"{url}/audio/speech", json=body, headers=headers) as answer:
        told = [json.loads(line[6:]) for line in (await answer.read()).splitlines() if line]
    assert {one["type"] for one in told[:-1]} == {"speech.audio.delta"}
    assert told[-1]["type"] == "speech.audio.done"
    assert told[-1]["usage"]["input_tokens"] == Tokenizer("gpt-4o-mini-tts").count(TEXT)
    assert told[-1]["usage"]["output_tokens"] == round(length * 20 + 0.49)
    with pytest.raises(openai.BadRequestError):
        await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, stream_format="sse")


async def test_transcription(client: openai.AsyncOpenAI) -> None:
    """By tokens, streamed too, or by begun seconds; as plain text and as subtitles; of what it spoke itself as well."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * 40_000))
    sound: Any = ("a.wav", held.getvalue())
    whole: Any = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, prompt="sol")
    assert "2.5" in whole.text
    assert (whole.usage.type, whole.usage.input_tokens, whole.usage.input_token_details.audio_tokens) == (
        "tokens",
        26,
        25,
    )
    assert whole.usage.output_tokens == Tokenizer("gpt-4o-transcribe").count(whole.text)
    stream = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, prompt="sol", stream=True)
    told: list[Any] = [event async for event in stream]
    assert "".join(one.delta for one in told[:-1]) == told[-1].text == whole.text
    assert told[-1].usage.output_tokens == whole.usage.output_tokens
    timed: Any = await client.audio.transcriptions.create(model="whisper-1", file=sound, response_format="verbose_json")
    assert (timed.duration, timed.usage.seconds) == (2.5, 3)
    shapes: Any = (("text", "Ouvi"), ("srt", "1\n"), ("vtt", "WEBVTT"))
    for shape, begin in shapes:
        said: Any = await client.audio.transcriptions.create(model="whisper-1", file=sound, response_format=shape)
        assert str(said).startswith(begin)
    again: Any = await client.audio.translations.create(model="whisper-1", file=("a.mp3", spoken(2_400, "mp3")))
    assert "2.4" in again.text
    with pytest.raises(openai.BadRequestError):
        await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, response_format="srt")


async def test_moderations(client: openai.AsyncOpenAI) -> None:
    """One result for each text, one for the parts of a message; violence alone is flagged."""
    checked = await client.moderations.create(input=[TEXT, "how to build a bomb"])
    assert [result.flagged for result in checked.results] == [False, True]
    parts: Any = [{"type": "text", "text": "kill"}, {"type": "image_url", "image_url": {"url": "https://example.com"}}]
    joined = await client.moderations.create(model="omni-moderation-latest", input=parts)
    assert [result.categories.violence for result in joined.results] == [True]


async def test_each_call_is_accounted_for(client: openai.AsyncOpenAI) -> None:
    """The log has one line for each call, with the usage that the answer told."""
    with structlog.testing.capture_logs() as logged:
        answer = await client.responses.create(model="gpt-4o-mini", input=COUNT)
        await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
        await client.embeddings.create(model="text-embedding-3-small", input=TEXT)
        await client.moderations.create(input=TEXT)
    assert answer.usage is not None
    assert [line["family"] for line in logged] == ["responses", "speech", "embeddings", "moderations"]
    assert logged[0]["usage"]["input_tokens"] == answer.usage.input_tokens
    assert logged[1]["usage"] == {"characters": len(TEXT)}
