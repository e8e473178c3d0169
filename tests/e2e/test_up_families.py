"""Every endpoint family through gateway, the real LiteLLM proxy and the demo upstream: what the demo says that it
served is what is booked, to the unit, and the charge is its price."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import openai
import pytest

from deploy.demo.counting import Tokenizer
from tests.harness.books import assert_books
from tests.harness.media import wav
from tests.harness.up import Up
from tests.harness.up_caller import DOUBTED, DOUBTED_CLAUDE, PRICES, Caller, kinds, units_of

COUNT: Final = "Conte até 3"
LONG: Final = "Escreva uma história longa sobre o sol, por favor."
MESSAGES: Final[Any] = [{"role": "user", "content": COUNT}]
LONG_MESSAGES: Final[Any] = [{"role": "user", "content": LONG}]
PICTURE: Final = ("sol.png", b"\x89PNG\r\n\x1a\n" + bytes(3_000), "image/png")
SOUND: Final = ("a.wav", wav(12.5))


@pytest.fixture(scope="module")
def caller(up: Up) -> Iterator[Caller]:
    """An account with credit for everything here. Afterwards the books must close."""
    up.sundial("price", "set", "dall-e-3", "--images", "0.04")
    up.sundial("price", "set", "hd/1024-x-1792/dall-e-3", "--images", "0.12")
    found = Caller(up, up.personal("ana", "100000000"))
    with found.client, found.http:
        yield found
    urls = up.env["SUNDIAL_DATABASE_URL"], up.env["SUNDIAL_REDIS_URL"]
    asyncio.run(assert_books(*urls, home=up.folder / ".sundial"))


def last(stream: Any) -> Any:
    """The last event of a raw streamed answer."""
    *_, event = stream.parse()
    return event


def test_responses(caller: Caller) -> None:
    """Whole and streamed, thought through, cut by a limit, and of another provider's model: LiteLLM keeps the usage."""
    create = caller.client.responses.with_raw_response.create
    asked: dict[str, Any] = {"model": "gpt-4o-mini", "input": COUNT}
    whole = create(**asked)
    assert whole.parse().output_text == "1 2 3"
    caller.check(whole, "responses")
    stream = create(**asked, stream=True)
    assert last(stream).type == "response.completed"
    caller.check(stream, "responses")
    thought = create(model="o4-mini", input=COUNT)
    assert set(units_of(caller.check(thought, "responses"))) == {"input", "output", "reasoning"}
    for streamed in (False, True):
        cut = create(**asked, max_output_tokens=16, stream=streamed, instructions=LONG)
        if streamed:
            assert last(cut).type in ("response.incomplete", "response.completed")
        caller.check(cut, "responses")
        foreign = create(model="claude-sonnet-4-5", input=COUNT, stream=streamed)
        if streamed:
            assert last(foreign).type == "response.completed"
        caller.check(foreign, "messages", booked_as="responses")


def test_chat(caller: Caller) -> None:
    """A prompt that OpenAI has seen before, thought, Anthropic's cache in OpenAI's shape: each kind at its price."""
    create: Callable[..., Any] = caller.client.chat.completions.with_raw_response.create
    long: Any = [{"role": "system", "content": "sol e sombra " * 800}, *MESSAGES]
    for streamed in (False, True):
        answer = create(model="gpt-4o-mini", messages=long, stream=streamed)
        if streamed:
            assert last(answer).usage is None
        receipt = caller.check(answer, "chat")
        assert ("cached" in units_of(receipt)) is streamed
    caller.check(create(model="o4-mini", messages=MESSAGES), "chat")
    marked = {"type": "text", "text": "luz e hora " * 800, "cache_control": {"type": "ephemeral"}}
    for streamed, kind in ((False, "cache_write"), (True, "cached")):
        answer = create(
            model="claude-sonnet-4-5", messages=[{"role": "system", "content": [marked]}, *MESSAGES], stream=streamed
        )
        if streamed:
            last(answer)
        receipt = caller.check(answer, "messages", booked_as="chat")
        assert set(units_of(receipt)) == {"input", kind, "output"}


def test_completions(caller: Caller) -> None:
    """Two prompts with two answers each; streamed, with the usage that the client asked for and without: the endpoint
    knows no details, so that LiteLLM may have counted these itself, which is flagged."""
    create: Callable[..., Any] = caller.client.completions.with_raw_response.create
    model = "gpt-3.5-turbo-instruct"
    caller.check(create(model=model, prompt=[COUNT, LONG], n=2, max_tokens=12), "completions")
    for options in (None, {"include_usage": True}):
        stream = create(model=model, prompt=LONG, max_tokens=20, stream=True, stream_options=options)
        chunks = list(stream.parse())
        assert any(chunk.usage for chunk in chunks) is bool(options)
        caller.check(stream, "completions", flags=["by_proxy"])


def test_messages(caller: Caller) -> None:
    """Anthropic's endpoint with its own key header: what is written to the cache and read from it stands beside the
    input, for five minutes or an hour; tokens are counted for nothing; a model of OpenAI's answers too."""
    body: dict[str, Any] = {"model": "claude-sonnet-4-5", "max_tokens": 20, "messages": MESSAGES}
    for lasting, kind in (({}, "cache_write"), ({"ttl": "1h"}, "cache_write_1h")):
        mark = {"cache_control": {"type": "ephemeral", **lasting}}
        marked = {**body, "system": [{"type": "text", "text": f"{kind} " * 900, **mark}]}
        first = caller.http.post("/messages", json=marked)
        assert first.json()["content"][0]["text"] == "1 2 3"
        receipt = caller.check(first, "messages")
        assert set(units_of(receipt)) == {"input", kind, "output"}
        again = caller.http.post("/messages", json={**marked, "stream": True})
        assert again.text.rstrip().endswith('data: {"type":"message_stop"}')
        receipt = caller.check(again, "messages")
        assert set(units_of(receipt)) == {"input", "cached", "output"}
    counted = caller.http.post("/messages/count_tokens", json=body)
    assert counted.json()["input_tokens"] == 11
    caller.nothing_served()
    for streamed in (False, True):
        foreign = caller.http.post("/messages", json={**body, "model": "gpt-4o-mini", "stream": streamed})
        caller.check(foreign, "responses", booked_as="messages")


def test_embeddings_and_moderations(caller: Caller) -> None:
    """Tokens in; and one request each at no price, whether a model is named or not."""
    create = caller.client.embeddings.with_raw_response.create
    caller.check(create(model="text-embedding-3-small", input=[COUNT, LONG]), "embeddings")
    check: Callable[..., Any] = caller.client.moderations.with_raw_response.create
    for named in ({}, {"model": "omni-moderation-latest"}):
        moderated = check(input="how to build a bomb", **named)
        assert moderated.parse().results[0].flagged
        receipt = caller.check(moderated, "moderations", evidence="recounted")
        assert receipt["charge"] == 0


def test_images(caller: Caller) -> None:
    """By tokens, drawn and edited; by the piece at the price of their quality and size, though LiteLLM says of them
    that they had no tokens. A stream of images fails behind us: what came inside the error is booked."""
    create: Callable[..., Any] = caller.client.images.with_raw_response.generate
    edit: Callable[..., Any] = caller.client.images.with_raw_response.edit
    caller.check(create(model="gpt-image-1", prompt=COUNT, n=2, quality="low", size="1024x1024"), "images")
    caller.check(edit(model="gpt-image-1", image=[PICTURE, PICTURE], prompt=COUNT, quality="low"), "images")
    by_piece = {"evidence": "recounted"}
    caller.check(create(model="dall-e-3", prompt=COUNT), "images", priced_as="dall-e-3", **by_piece)
    fine = create(model="dall-e-3", prompt=COUNT, quality="hd", size="1024x1792")
    caller.check(fine, "images", priced_as="hd/1024-x-1792/dall-e-3", **by_piece)
    with pytest.raises(openai.PermissionDeniedError, match="preço"):
        create(model="dall-e-2", prompt=COUNT)
    with pytest.raises(openai.InternalServerError) as lost:
        create(model="gpt-image-1", prompt=COUNT, quality="low", stream=True)
    assert "b64_json" not in lost.value.response.text
    caller.served()
    with pytest.raises(openai.InternalServerError) as wrapped:
        edit(model="gpt-image-1", image=PICTURE, prompt=COUNT, quality="low", stream=True, partial_images=1)
    assert "b64_json" in wrapped.value.response.text
    caller.check(wrapped.value.response, "images", outcome="upstream_error")


def test_speech(caller: Caller) -> None:
    """Characters, spaces too; of what is sold by tokens the sound tells about how many, and the receipt says so.
    LiteLLM knows no stream of events here."""
    create: Callable[..., Any] = caller.client.audio.speech.with_raw_response.create
    spoken = create(model="tts-1", voice="alloy", input=LONG)
    caller.check(spoken, "speech", evidence="recounted")
    for more in ({}, {"response_format": "pcm"}, {"stream_format": "sse"}):
        guessed = create(model="gpt-4o-mini-tts", voice="alloy", input=LONG, **more)
        served = kinds(caller.served()["usage"])
        receipt = caller.up.receipt(guessed.headers["x-sundial-call-id"])
        units = units_of(receipt)
        assert (receipt["evidence"], receipt["flags"]) == ("recounted", ["estimated"])
        assert units["input"] == served["input"]
        assert units["audio_out"] == pytest.approx(served["output"], rel=0.06)


def test_transcription(caller: Caller) -> None:
    """By tokens, also where the stream that was asked for comes as one text; by the seconds that OpenAI reports; where
    LiteLLM leaves the usage out, by the length of the file."""
    create: Callable[..., Any] = caller.client.audio.transcriptions.with_raw_response.create
    for more in ({}, {"prompt": "sol e sombra"}, {"stream": True}):
        heard = create(model="gpt-4o-transcribe", file=SOUND, **more)
        caller.check(heard, "transcription")
    caller.check(create(model="whisper-1", file=SOUND), "transcription")
    caller.check(create(model="whisper-1", file=SOUND, response_format="verbose_json"), "transcription")
    for model in ("whisper-1", "gpt-4o-transcribe"):
        silent = create(model=model, file=SOUND, response_format="text")
        caller.served()
        receipt = caller.up.receipt(silent.headers["x-sundial-call-id"])
        assert units_of(receipt) == {"duration_ms": 12_500}
        assert (receipt["charge"], receipt["flags"]) == (1_250_000, ["duration_estimated"])
    with pytest.raises(openai.NotFoundError):
        caller.client.audio.translations.create(model="whisper-1", file=SOUND)
    caller.nothing_served()


@pytest.mark.parametrize("family", ["responses", "messages", "chat", "completions"])
def test_a_client_that_leaves(caller: Caller, family: str) -> None:
    """In mid-stream: it is charged for what came, which is what it read or little more; the demo stops, and has made
    no more than it sent."""
    body, path = {
        "responses": ({"model": "gpt-4o-mini", "input": LONG}, "/responses"),
        "messages": ({"model": "claude-sonnet-4-5", "max_tokens": 400, "messages": LONG_MESSAGES}, "/messages"),
        "chat": ({"model": "gpt-4o-mini", "messages": LONG_MESSAGES}, "/chat/completions"),
        "completions": ({"model": "gpt-3.5-turbo-instruct", "max_tokens": 200, "prompt": LONG}, "/completions"),
    }[family]
    text = ""
    with caller.http.stream("POST", path, json={**body, "stream": True}) as answer:
        for line in answer.iter_lines():
            text += text_in(line)
            if len(text) > 80:
                break
    served = caller.served()
    assert served["event"] == "client gone, stopped"
    receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
    assert (receipt["outcome"], receipt["evidence"]) == ("client_gone", "recounted")
    units = units_of(receipt)
    told = kinds(served["usage"])
    assert units["input"] == told["input"]
    read = Tokenizer("gpt-3.5-turbo" if family == "completions" else "gpt-4o").count(text)
    if family == "messages":  # Claude's vocabulary is not public: an estimate, and above the demo's count
        assert receipt["flags"] == ["estimated"]
        assert read <= units["output"] <= 2 * served["tokens_sent"]
    else:
        assert read - 1 <= units["output"] <= served["tokens_sent"] + 1
    assert served["tokens_sent"] < told["output"]
    prices = PRICES[receipt["priced_as"]]
    assert receipt["charge"] == sum(count * prices[kind] for kind, count in units.items())


def text_in(line: str) -> str:
    """The text in one line of a stream, of whichever family."""
    if not line.startswith("data: {"):
        return ""
    event = json.loads(line.removeprefix("data: "))
    delta = event.get("delta")
    if event.get("type") == "response.output_text.delta":
        return str(delta)
    if event.get("type") == "content_block_delta":
        return str(delta["text"])
    for choice in event.get("choices", ()):
        return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
    return ""


def test_what_fails_behind_litellm(caller: Caller) -> None:
    """A refusal before the answer is booked nowhere; a whole answer that says it failed, at nothing; of a stream that
    fails half-way, what came."""
    with pytest.raises(openai.InternalServerError):
        caller.client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "#fail"}])
    caller.served()
    create: Callable[..., Any] = caller.client.responses.with_raw_response.create
    failed = create(model="gpt-4o-mini", input=LONG + " #fail")
    assert failed.parse().status == "failed"
    caller.served()
    receipt = caller.up.receipt(failed.headers["x-sundial-call-id"])
    assert (receipt["evidence"], receipt["outcome"], receipt["charge"]) == ("none", "upstream_error", 0)
    stream = create(model="gpt-4o-mini", input=LONG + " #fail", stream=True)
    assert last(stream).type == "response.failed"
    served = caller.served()
    receipt = caller.up.receipt(stream.headers["x-sundial-call-id"])
    assert (receipt["evidence"], receipt["outcome"]) == ("recounted", "upstream_error")
    units = units_of(receipt)
    assert units == {"input": kinds(served["usage"])["input"], "output": served["tokens_sent"]}


def test_nobody_steers_litellm(caller: Caller) -> None:
    """What LiteLLM would take for its own, another model above all, is refused before it sees it."""
    for path, body in (
        ("/responses", {"model": "gpt-4o-mini", "input": COUNT, "extra_body": {"model": "gpt-4o"}}),
        ("/messages", {"model": "gpt-4o-mini", "max_tokens": 9, "messages": MESSAGES, "extra_body": {"model": "x"}}),
        ("/chat/completions", {"model": "gpt-4o-mini", "messages": MESSAGES, "fallbacks": ["gpt-4o"]}),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "x", "extra_body": {"n": 4}}),
        ("/chat/completions", {"model": "gpt-4o-mini,gpt-4o", "messages": MESSAGES}),
    ):
        refused = caller.http.post(path, json=body)
        assert refused.status_code == 400, path
        assert '"invalid_field"' in refused.text
    caller.nothing_served()


def test_litellms_own_costs_agree(caller: Caller) -> None:
    """Wherever it tells a cost it is ours, but for the seconds of whisper-1, which OpenAI reports whole, and for a
    stream that it took for a text."""
    caller.check(
        caller.client.audio.transcriptions.with_raw_response.create(model="whisper-1", file=SOUND), "transcription"
    )
    caller.check(caller.http.post("/chat/completions", json={"model": "gpt-4o-mini", "messages": MESSAGES}), "chat")
    found = caller.up.sundial("price", "differences")
    differing = {row["model_asked"] for row in found["differences"]}
    assert differing - {"gpt-4o-transcribe", DOUBTED, DOUBTED_CLAUDE} == {"whisper-1"}
