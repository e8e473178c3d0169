"""Every endpoint family through the real gateway: what the upstream reports is booked to the unit; no byte changes."""

import json
from typing import Any, Final

import aiohttp
import openai
import pytest

from tests.harness.chain import Chain
from tests.harness.fake_families import SOUND
from tests.harness.fake_upstream import Play, Served
from tests.harness.media import wav
from tests.harness.waiting import until

TEXT: Final = "Quanto custa um relógio de sol?"
MESSAGES: Any = [{"role": "user", "content": TEXT}]


async def post(chain: Chain, secret: str, path: str, **request: Any) -> tuple[int, str, bytes]:
    """Status, call id and body of an answer."""
    async with chain.session(secret) as session, session.post("/v1" + path, **request) as answer:
        return answer.status, answer.headers.get("x-sundial-call-id", ""), await answer.read()


async def receipts(chain: Chain) -> list[dict[str, Any]]:
    """The receipt of each call that the upstream served, once all are booked."""
    await chain.booked(len(chain.upstream.served))
    return [await chain.stack.sundial("charge", str(served.event_id)) for served in chain.upstream.served]


def units(receipt: dict[str, Any]) -> dict[str, int]:
    """What was billed, by kind."""
    return {line["kind"]: line["units"] for line in receipt["lines"]}


def reported(served: Served) -> dict[str, Any]:
    assert served.reported is not None
    return served.reported


async def test_responses(chain: Chain) -> None:
    """Plain and streamed, complete, incomplete and failed: input, cached input and output as they were reported."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.client(secret) as client:
        plain = await client.responses.create(model="gpt-4o-mini", input=TEXT)
        assert plain.output_text == chain.upstream.served[0].text
        stream = await client.responses.create(model="gpt-4o-mini", input=TEXT, stream=True)
        kinds = [event.type async for event in stream]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
    for ending in ("incomplete", "failed"):
        chain.upstream.script = lambda _, ending=ending: Play(ending=ending, tokens=7)  # type: ignore[misc]
        body = {"model": "gpt-4o-mini", "input": MESSAGES, "stream": True, "max_output_tokens": 7}
        _, _, data = await post(chain, secret, "/responses", json=body)
        assert data == chain.upstream.served[-1].sent
    found = await receipts(chain)
    for receipt, served in zip(found, chain.upstream.served, strict=True):
        usage = reported(served)
        expected = {"input": usage["input_tokens"] - 2, "cached": 2, "output": usage["output_tokens"]}
        assert units(receipt) == expected
        assert receipt["charge"] == expected["input"] * 150 + 2 * 75 + expected["output"] * 600
        assert (receipt["family"], receipt["evidence"]) == ("responses", "provider")
    assert [receipt["outcome"] for receipt in found] == ["complete"] * 3 + ["upstream_error"]
    status, _, data = await post(chain, secret, "/responses", json={"model": "gpt-4o-mini", "background": True})
    assert (status, json.loads(data)["error"]["code"]) == (400, "invalid_field")


async def test_a_search_model_is_charged_its_search(chain: Chain) -> None:
    """OpenAI's search models search once before each answer: with the provider's usage, which does not say it, and
    without."""
    secret = await chain.personal("ana", credit="1000000")
    for usage, streamed in ((True, False), (True, True), (False, True)):
        chain.upstream.script = lambda _, usage=usage: Play(usage=usage)  # type: ignore[misc]
        body = {"model": "gpt-4o-mini-search-preview", "messages": MESSAGES, "stream": streamed}
        assert (await post(chain, secret, "/chat/completions", json=body))[0] == 200
    for receipt in await receipts(chain):
        kinds = units(receipt)
        assert kinds["searches"] == 1
        assert receipt["charge"] == kinds["input"] * 150 + kinds["output"] * 600 + 25_000_000


async def test_completions(chain: Chain) -> None:
    """The older endpoint: usage is asked for in streams and taken out again; a cut stream is recounted."""
    secret = await chain.personal("ana", credit="100000")
    model = "gpt-3.5-turbo-instruct"
    async with chain.client(secret) as client:
        plain = await client.completions.create(model=model, prompt=TEXT, max_tokens=50)
        assert plain.choices[0].text == chain.upstream.served[0].text
        stream = await client.completions.create(model=model, prompt=TEXT, stream=True, max_tokens=50)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == chain.upstream.served[1].text
    assert not any(chunk.usage for chunk in chunks)
    chain.upstream.script = lambda _: Play(ending="reset", tokens=9)
    with pytest.raises(aiohttp.ClientPayloadError):
        await post(chain, secret, "/completions", json={"model": model, "prompt": TEXT, "stream": True})
    found = await receipts(chain)
    for receipt, served in zip(found[:2], chain.upstream.served, strict=False):
        usage = reported(served)
        assert units(receipt) == {"input": usage["prompt_tokens"], "output": usage["completion_tokens"]}
        assert receipt["charge"] == usage["prompt_tokens"] * 1_500 + usage["completion_tokens"] * 2_000
        assert receipt["evidence"] == "provider"
    assert (found[2]["evidence"], found[2]["outcome"]) == ("recounted", "upstream_error")
    assert 5 <= units(found[2])["output"] <= 20


async def test_embeddings(chain: Chain) -> None:
    """Tokens in, nothing out; without a usage the input is recounted, exactly."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.client(secret) as client:
        for usage in (True, False):
            chain.upstream.script = lambda _, usage=usage: Play(usage=usage)  # type: ignore[misc]
            made = await client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="abc def")
            assert made.content == chain.upstream.served[-1].sent
    said, counted = await receipts(chain)
    assert units(said) == {"input": chain.upstream.served[0].prompt_tokens} == units(counted)
    assert said["charge"] == counted["charge"] == units(said)["input"] * 20
    assert (said["evidence"], counted["evidence"]) == ("provider", "recounted")


async def test_images(chain: Chain) -> None:
    """Tokens where the answer counts them, plain and streamed; images at the price of their quality and size where it
    does not; at the operator's own price; edited ones through a form."""
    secret = await chain.personal("ana", credit="1000000")
    await chain.stack.sundial("price", "set", "dall-e-3", "--images", "0.04")
    poor = await chain.personal("bob", credit="0")

    async def priced() -> bool:
        return (await post(chain, poor, "/images/generations", json={"model": "dall-e-3", "prompt": TEXT}))[0] == 402

    await until(priced)
    picture = ("sol.png", b"\x89PNG" + bytes(5_000), "image/png")
    async with chain.client(secret) as client:
        drawn = await client.images.generate(model="gpt-image-1", prompt=TEXT, n=2, size="1024x1024", quality="low")
        assert len(drawn.data or []) == 2
        stream = await client.images.generate(model="gpt-image-1", prompt=TEXT, stream=True, partial_images=1)
        assert [event.type async for event in stream][-1] == "image_generation.completed"
        edited = await client.images.edit(model="gpt-image-1", image=picture, prompt=TEXT, n=1)
        assert edited.usage is not None
        await client.images.generate(model="dall-e-3", prompt=TEXT, n=2)
        chain.upstream.script = lambda _: Play(usage=False)
        await client.images.generate(model="gpt-image-1", prompt=TEXT, n=3, size="1024x1024", quality="low")
    assert chain.upstream.served[2].request["image"] == picture[1]
    two, streamed, edit, own, silent = await receipts(chain)
    for receipt, served, shown in ((two, 0, 0), (streamed, 1, 0), (edit, 2, 100)):
        usage = reported(chain.upstream.served[served])
        text = usage["input_tokens"] - shown
        image_in = {"image_in": shown} if shown else {}
        assert units(receipt) == {"input": text, **image_in, "image_out": usage["output_tokens"]}
        assert receipt["charge"] == text * 5_000 + shown * 10_000 + usage["output_tokens"] * 40_000
        assert receipt["evidence"] == "provider"
    assert (units(own), own["charge"], own["evidence"]) == ({"images": 2}, 80_000_000, "recounted")
    assert (units(silent), silent["charge"]) == ({"images": 3}, 33_000_000)
    assert silent["priced_as"] == "low/1024-x-1024/gpt-image-1"
    async with chain.client(secret) as client:
        with pytest.raises(openai.PermissionDeniedError, match="preço"):
            await client.images.generate(model="dall-e-2", prompt=TEXT)


async def test_speech(chain: Chain) -> None:
    """Characters of the text, sound that passes byte for byte; tokens where a stream of events tells them, and by the
    length of the sound where nothing does."""
    secret = await chain.personal("ana", credit="100000")
    async with chain.client(secret) as client:
        spoken = await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
        assert spoken.content == SOUND
        await client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=TEXT, response_format="pcm")
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": TEXT, "stream_format": "sse"}
    _, _, data = await post(chain, secret, "/audio/speech", json=body)
    assert data == chain.upstream.served[2].sent
    characters, guessed, told = await receipts(chain)
    assert (units(characters), characters["charge"]) == ({"characters": len(TEXT)}, len(TEXT) * 15_000)
    seconds = len(SOUND) / 48_000
    assert units(guessed)["audio_out"] == pytest.approx(seconds * 21, abs=1)
    assert "estimated" in guessed["flags"]
    usage = reported(chain.upstream.served[2])
    assert units(told) == {"input": usage["input_tokens"], "audio_out": usage["output_tokens"]}
    assert told["charge"] == usage["input_tokens"] * 600 + usage["output_tokens"] * 12_000
    assert [one["evidence"] for one in (characters, guessed, told)] == ["recounted", "recounted", "provider"]


async def test_transcription(chain: Chain) -> None:
    """By tokens, by seconds, streamed; where the answer says nothing, by the length that the file says. The form goes
    upstream byte for byte, whichever field comes first."""
    secret = await chain.personal("ana", credit="100000")
    sound = wav(12.5)
    async with chain.client(secret) as client:
        tokens = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", sound))
        assert tokens.text == chain.upstream.served[0].text
        await client.audio.translations.create(model="whisper-1", file=("a.wav", sound))
        stream = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", sound), stream=True)
        assert [event.type async for event in stream][-1] == "transcript.text.done"
        await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound), response_format="text")
    for chunked in (False, True):
        form = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % pair
            for pair in ((b'file"; filename="a.wav', sound), (b"model", b"whisper-1"), (b"response_format", b"text"))
        )
        form += b"--b--\r\n"
        pieces = [form[at : at + 40_000] for at in range(0, len(form), 40_000)]

        async def sent(pieces: list[bytes] = pieces) -> Any:
            for piece in pieces:
                yield piece

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        data = sent() if chunked else form
        status, _, said = await post(chain, secret, "/audio/transcriptions", data=data, headers=headers)
        served = chain.upstream.served[-1]
        assert (status, said, served.body) == (200, served.sent, form)
    found = await receipts(chain)
    for receipt in (found[0], found[2]):
        assert units(receipt) == {"input": 10, "audio_in": 60, "output": 12}
        assert receipt["charge"] == 70 * 2_500 + 12 * 10_000
    assert (units(found[1]), found[1]["charge"]) == ({"duration_ms": 9_000}, 900_000)
    for receipt in found[3:]:
        assert (units(receipt), receipt["charge"]) == ({"duration_ms": 12_500}, 1_250_000)
        assert (receipt["evidence"], receipt["flags"]) == ("recounted", ["duration_estimated"])


async def test_what_is_free_needs_no_credit(chain: Chain) -> None:
    """Moderations are booked as one request at no price, count_tokens and models are not booked; all of it also below
    the floor, and none of it without a key."""
    secret = await chain.personal("ana", credit="1")
    await chain.set_balance("ana", -5_000)
    async with chain.client(secret) as client:
        checked = await client.moderations.create(input=TEXT)
        assert not checked.results[0].flagged
        await client.moderations.create(model="text-moderation-stable", input=TEXT)
        assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("no-such-price")
    for receipt in await receipts(chain):
        assert (units(receipt), receipt["charge"], receipt["flags"]) == ({"requests": 1}, 0, [])
    body = {"model": "claude-sonnet-4-5", "messages": MESSAGES}
    status, _, data = await post(chain, secret, "/messages/count_tokens", json=body)
    assert (status, data) == (200, chain.upstream.served[-1].sent)
    assert len(await chain.usage_entries("ana", 2)) == 2
    for path in ("/moderations", "/messages/count_tokens"):
        assert (await post(chain, "", path, json=body))[0] == 401


async def test_messages(chain: Chain) -> None:
    """Anthropic's endpoint, with its own key header: cache beside the input; a stream that is cut after its beginning
    has its input from there and its output recounted; refusals in its shape."""
    secret = await chain.personal("ana", credit="1000000")
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": MESSAGES}
    headers = {"x-api-key": secret, "anthropic-version": "2023-06-01", "anthropic-beta": "extended-cache-ttl"}
    for stream in (False, True):
        asked = {**body, "stream": stream}
        status, _, data = await post(chain, "", "/messages?beta=true", json=asked, headers=headers)
        served = chain.upstream.served[-1]
        assert (status, data) == (200, served.sent)
        assert served.headers["anthropic-version"] == "2023-06-01"
        assert served.target == "/v1/messages"
        assert "x-api-key" not in served.headers
    chain.upstream.script = lambda _: Play(ending="no_done", tokens=20)
    with pytest.raises(aiohttp.ClientPayloadError):
        await post(chain, secret, "/messages", json={**body, "stream": True})
    found = await receipts(chain)
    for receipt, served in zip(found, chain.upstream.served, strict=True):
        kinds = units(receipt)
        assert (kinds["input"], kinds["cached"], kinds["cache_write"]) == (served.prompt_tokens, 5, 3)
        assert receipt["charge"] == served.prompt_tokens * 3_000 + 5 * 300 + 3 * 3_750 + kinds["output"] * 15_000
    assert [units(receipt)["output"] for receipt in found[:2]] == [12, 12]
    assert (found[2]["evidence"], found[2]["outcome"]) == ("recounted", "upstream_error")
    assert 10 <= units(found[2])["output"] <= 40
    for key, status, kind in ((secret, 403, "permission_error"), ("nobody", 401, "authentication_error")):
        refused, _, data = await post(chain, key, "/messages", json={**body, "model": "no-such-price"})
        error = json.loads(data)
        assert (refused, error["type"], error["error"]["type"]) == (status, "error", kind)


@pytest.mark.parametrize(
    ("path", "body", "rate"),
    [
        ("/responses", {"model": "gpt-4o-mini", "input": TEXT}, 600),
        ("/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": TEXT}, 2_000),
        ("/messages", {"model": "claude-sonnet-4-5", "messages": MESSAGES, "max_tokens": 60_000}, 15_000),
    ],
)
async def test_a_stream_ends_well_when_the_credit_ends(chain: Chain, path: str, body: Any, rate: int) -> None:
    """The text is kept, the reason is its last piece, the last event is that of an answer that reached its limit."""
    secret = await chain.personal("ana", credit=str(700 * rate / 1_000))
    chain.upstream.script = lambda _: Play(tokens=30_000)
    _, _, data = await post(chain, secret, path, json={**body, "stream": True})
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data: {")]
    events = [json.loads(line) for line in lines]
    assert "créditos" in data.decode()
    [receipt] = await receipts(chain)
    output = units(receipt)["output"]
    assert (receipt["outcome"], receipt["evidence"]) == ("exhausted", "recounted")
    if path == "/responses":
        assert events[-1]["type"] == "response.incomplete"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        last = events[-1]["response"]
        assert last["output"][0]["content"][0]["text"] == text
        assert last["id"] == events[0]["response"]["id"]
        assert last["usage"]["output_tokens"] == output
    elif path == "/messages":
        assert [event["type"] for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
        assert events[-2]["delta"]["stop_reason"] == "max_tokens"
        assert {event["index"] for event in events if "index" in event} == {0}
    else:
        assert data.endswith(b"data: [DONE]\n\n")
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    # However fast the upstream writes, it is stopped long before its end, and what was passed on is what is charged.
    await chain.upstream.served[0].closed.wait()
    assert chain.upstream.served[0].ended == "gone"
    assert 500 < output < 4_000
    assert (await chain.settled("ana"))["held"] == 0
