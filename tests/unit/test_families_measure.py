"""What a call used where no provider counted it: pieces, and the tokens that stand for them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pytest

from gateway import counting, measure
from gateway.admission import Call
from gateway.asks.form import Form
from gateway.binary_tap import BinaryTap
from gateway.bodies import Upload
from gateway.families import BASE_PATH, Family, find
from gateway.gate import Gate
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript
from gateway.settlement import Counted, Facts, served_tier
from gateway.sse import SseTap
from shared.events import UsageEvent
from shared.pricing import RateCard
from shared.usage import Usage
from tests.harness.calls import CATALOG, COST, MINI, ask, call, closed
from tests.harness.media import END, GPT_IMAGE, MODELS, PRICED, SCRIBE, TALKER, TTS, WHISPER, field, part, rates, wav

FACTS: Final = Facts(outcome="complete")
ANSWERED: Final = Facts(outcome="complete", model="x")


def family(path: str) -> Family:
    return find("POST", BASE_PATH + path)


def of(path: str, request: Any = None, **asked: Any) -> Call:
    """A call of this family, at the cost card; `asked` are fields of Ask, `model` and `rates` among them."""
    kind = family(path)
    given = asked.pop("rates", None) or rates(MODELS[asked.get("model", "gpt-mini")])
    return call(
        catalog=PRICED,
        family=kind,
        ask=ask(sold=kind.sold, stream=False, **asked),
        rates=given,
        request=json.dumps(request or {"prompt": "abc"}).encode(),
    )


def plain(name: str, answer: Any) -> PlainTap:
    tap = PlainTap(name)
    tap.feed(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    tap.finish()
    return tap


def booked(made: Call, counted: Counted, facts: Facts = FACTS) -> UsageEvent:
    return closed(made, counted, facts)


GATE: Final = cast("Gate", SimpleNamespace(counters=None))


def uploaded(made: Call, *parts: bytes) -> Call:
    form = Form(b"----x1")
    form.feed(b"".join(parts) + END)
    return msgspec.structs.replace(made, upload=cast("Upload", SimpleNamespace(form=form)))


def told(made: Call, tap: SseTap | PlainTap, facts: Facts = FACTS) -> Counted:
    """What is counted, at once or by tokenizer."""
    return counting.told(made, tap, facts) or asyncio.run(counting.recount(GATE, made, tap, None))


def image_call(**asked: Any) -> Call:
    model = asked.get("model", "gpt-image-1")
    image = MODELS.get("high/1024-x-1536/gpt-image-1") if "gpt-image" in model else MODELS.get(model)
    base = MODELS.get(model, image)
    assert base is not None
    return of("/images/generations", rates=rates(base, COST, image), **({"model": model} | asked))


def test_images_are_counted_in_the_answer_at_the_price_of_their_look() -> None:
    """Three came though two were asked for, of the quality and size that the answer names."""
    answer = {"data": [{"b64_json": "x"}] * 3, "quality": "low", "size": "1024x1024"}
    made = image_call(choices=2, quality="high", size="1024x1536")
    found = told(made, plain("images", answer))
    assert (found.usage, found.evidence, found.flags) == (Usage(images=3), "recounted", ())
    event = booked(made, found)
    assert (event.priced_as, event.flags) == ("low/1024-x-1024/gpt-image-1", ())


def test_images_of_unknown_look_cost_as_the_dearest_and_are_flagged() -> None:
    """Neither request nor answer says what they are."""
    made = image_call(choices=2)
    found = told(made, plain("images", {"data": [{}, {}]}))
    event = booked(made, found)
    assert (event.priced_as, found.flags, found.usage.images) == ("high/1024-x-1536/gpt-image-1", ("estimated",), 2)


def test_images_that_tell_nothing_are_as_many_as_were_asked_for() -> None:
    """An answer that cannot be read, or was cut."""
    for answer in (b"", b"{", b"{}", {"data": None}):
        assert told(image_call(choices=4, size="1024x1024", quality="low"), plain("images", answer)).usage.images == 4


def test_images_without_a_price_by_the_piece_are_counted_in_tokens() -> None:
    """As many as an image of that look is documented to have; flagged."""
    catalog = msgspec.structs.replace(PRICED, models={"gpt-image-1": GPT_IMAGE})
    made = of("/images/generations", model="gpt-image-1", choices=2, quality="low", size="1024x1024")
    found = told(msgspec.structs.replace(made, catalog=catalog), plain("images", {"data": [{}, {}]}))
    assert (found.usage, found.flags) == (Usage(input=1, image_out=544), ("estimated",))


def test_a_usage_in_the_answer_counts_first() -> None:
    """The provider's tokens, though there is a price by the piece."""
    usage = {
        "input_tokens": 50,
        "output_tokens": 272,
        "total_tokens": 322,
        "input_tokens_details": {"image_tokens": 40},
    }
    found = told(image_call(), plain("images", {"data": [{}], "usage": usage}))
    assert (found.usage, found.evidence) == (Usage(input=10, image_in=40, image_out=272), "provider")


def test_a_usage_that_has_no_price_gives_way_to_what_has_one() -> None:
    """Tokens told of a model that is sold by the image: the images are charged."""
    made = image_call(model="imagen", choices=2)
    usage = {"input_tokens": 50, "output_tokens": 272, "total_tokens": 322}
    found = told(made, plain("images", {"data": [{}, {}], "usage": usage}))
    assert (found.usage, found.evidence) == (Usage(images=2), "recounted")


async def test_a_whole_answer_that_says_it_failed_is_booked_at_nothing() -> None:
    """It has no usage and no text: no provider bills that, and the statement shows the call all the same. With text, or
    without an error, what was sent and came is counted."""
    error = {"code": "server_error", "message": "no"}
    failed: dict[str, Any] = {"status": "failed", "error": error, "output": [], "usage": None}
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Olá"}]}
    made = of("/responses", {"input": "abc"})
    for answer, evidence, output in (
        (failed, "none", 0),
        ({**failed, "output": [message]}, "recounted", 1),
        ({**failed, "error": None}, "recounted", 0),
    ):
        counted = await counting.recount(GATE, made, plain("responses", answer), None)
        assert (counted.evidence, counted.usage.output) == (evidence, output)
        assert bool(counted.usage.input) == (evidence == "recounted")


def test_speech_is_its_characters() -> None:
    """Exactly, whatever came of the sound."""
    found = told(of("/audio/speech", model="tts-1", characters=31), BinaryTap("speech"))
    assert (found.usage, found.flags) == (Usage(characters=31), ())
    assert booked(of("/audio/speech", model="tts-1"), found).charge_mc == 31 * 15_000


@pytest.mark.parametrize(
    ("coded", "sound", "tokens"),
    [("wav", wav(2.0), 42), ("pcm", bytes(96_000), 42), ("", b"", 63), ("mp3", b"no sound", 63)],
)
def test_speech_in_tokens_is_as_long_as_its_sound(coded: str, sound: bytes, tokens: int) -> None:
    """By the file, by the bytes of raw sound, else by how fast people speak; the text is counted."""
    tap = BinaryTap("speech")
    tap.feed(sound)
    request = {"model": "talker", "input": "abc", "instructions": "abc"}
    found = told(of("/audio/speech", request, model="talker", characters=42, format=coded), tap)
    assert (found.usage, found.flags) == (Usage(input=2, audio_out=tokens), ("estimated",))


@pytest.mark.parametrize(
    ("files", "ms", "flags"),
    [
        ([wav(2.0)], 2_000, ("duration_estimated",)),
        ([wav(2.0), wav(1.0)], 3_000, ("duration_estimated",)),
        ([bytes(40_000)], 10_000, ("duration_estimated", "estimated")),
        ([wav(2.0), bytes(4_000)], 3_000, ("duration_estimated", "estimated")),
    ],
)
def test_sound_is_as_long_as_its_files(files: list[bytes], ms: int, flags: tuple[str, ...]) -> None:
    """By their headers; what has none, by its size."""
    parts = [part('name="file"; filename="a"', data) for data in files]
    made = uploaded(of("/audio/transcriptions", model="whisper-1"), field("model", "whisper-1"), *parts)
    found = told(made, plain("transcription", {"text": "abc"}))
    assert (found.usage, found.evidence, found.flags) == (Usage(duration_ms=ms), "recounted", flags)


def test_sound_in_tokens_is_its_length_and_the_text_that_came() -> None:
    """JSON or plain text; a model without a price by time."""
    parts = (field("model", "scribe"), field("prompt", "abc"), part('name="file"; filename="a"', wav(2.0)))
    made = uploaded(of("/audio/transcriptions", model="scribe"), *parts)
    for answer in ({"text": "abc abc"}, b"abc abc"):
        found = told(made, plain("transcription", answer))
        assert found.usage == Usage(input=1, audio_in=20, output=2)
        assert found.flags == ("estimated", "duration_estimated")


def test_seconds_that_the_answer_tells_count_first() -> None:
    """`usage` by duration, and the duration of older answers."""
    made = uploaded(of("/audio/transcriptions", model="whisper-1"), part('name="file"; filename="a"', wav(2.0)))
    for answer in ({"text": "a", "usage": {"type": "duration", "seconds": 3}}, {"text": "a", "duration": 3.0}):
        found = told(made, plain("transcription", answer))
        assert (found.usage, found.evidence) == (Usage(duration_ms=3_000), "provider")


def test_a_moderation_is_one_request() -> None:
    """At the price that the map has for one, under either card."""
    made = of("/moderations", model="omni-moderation-latest")
    for card in (COST, RateCard(card="t", family="tokens")):
        priced = msgspec.structs.replace(made, rates=msgspec.structs.replace(made.rates, card=card))
        found = told(priced, plain("moderations", {"model": "x", "results": []}), ANSWERED)
        assert found.usage == Usage(requests=1)
        event = booked(priced, found, ANSWERED)
        assert (event.charge_mc, event.flags) == (0, ())


START: Final = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":40,'
    b'"cache_read_input_tokens":5,"cache_creation_input_tokens":3,"output_tokens":1}}}\n\n'
)
DELTA: Final = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n'
)


def cut_stream(*events: bytes) -> tuple[SseTap, Transcript]:
    tap, transcript = SseTap("messages", strip_usage=False), Transcript("messages")
    for event in events:
        tap.feed(event)
    transcript.add(tap.take_raw())
    return tap, transcript


def recounted(made: Call, tap: SseTap, transcript: Transcript) -> Counted:
    assert counting.told(made, tap, FACTS) is None
    return asyncio.run(counting.recount(GATE, made, tap, transcript))


def test_a_cut_messages_stream_has_its_input_from_its_beginning() -> None:
    """Cache and all; what came of the output is recounted."""
    made = call(family=family("/messages"), ask=ask(), request=b'{"messages":[]}')
    found = recounted(made, *cut_stream(START, DELTA % b"one two", DELTA % b" three"))
    assert (found.usage.input, found.usage.cached, found.usage.cache_write) == (40, 5, 3)
    assert 3 <= found.usage.output <= 8
    assert found.evidence == "recounted"


def test_a_beginning_without_counts_is_recounted_too() -> None:
    """Relays put zeros there."""
    empty = START.replace(b"40", b"0").replace(b":5,", b":0,").replace(b":3,", b":0,")
    made = call(family=family("/messages"), ask=ask(), request=b'{"messages":[{"role":"user","content":"one two"}]}')
    found = recounted(made, *cut_stream(empty, DELTA % b"one"))
    assert found.usage.input > 2
    assert found.usage.cached == 0


@pytest.mark.parametrize(
    ("told_tier", "usage", "asked", "served"),
    [
        ("", None, "", ""),
        ("default", {}, "", "default"),
        ("standard", {"speed": "fast"}, "", "standard@fast"),
        ("standard", {"speed": "standard"}, "@fast", "standard"),
        ("standard", {}, "@fast,us", "standard@fast,us"),
        ("standard", {"inference_geo": "us"}, "", "standard@us"),
        ("", {"inference_geo": "global"}, "@us", ""),
        ("", None, "@us", "@us"),
        ("default", None, "priority", "default"),
        ("", {"speed": ["fast"], "inference_geo": 5}, "", ""),
    ],
)
def test_uplifts_are_as_served_else_as_asked(told_tier: str, usage: Any, asked: str, served: str) -> None:
    """What the usage says counts, so that nobody pays for what was not served; silence means what was asked."""
    assert served_tier(told_tier, usage, asked) == served


def test_an_uplift_is_charged() -> None:
    """A tenth more within the United States."""
    model = msgspec.structs.replace(MINI, uplifts={"us": 1_100_000})
    catalog = msgspec.structs.replace(CATALOG, models={})
    made = call(family=family("/messages"), rates=rates(model), ask=ask(), catalog=catalog)
    counted = Counted(Usage(input=1_000), "provider")
    charges = [
        closed(made, counted, Facts(outcome="complete", service_tier=tier)).charge_mc
        for tier in ("standard", "standard@us")
    ]
    assert charges == [150_000, 165_000]


def test_searches_of_a_response_are_counted_where_its_usage_does_not() -> None:
    """Older answers only show them; what opens a page is no search; where the usage counts them it is believed."""
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    items = [{"type": "web_search_call", "action": {"type": kind}} for kind in ("search", "open_page", "search")]
    answer = {"output": [*items, {"type": "web_search_call"}, {"type": "message"}, None, 5], "usage": usage}
    made = of("/responses", model="gpt-mini")
    assert told(made, plain("responses", answer)).usage == Usage(input=5, output=2, searches=3)
    said = {**answer, "tool_usage": {"web_search": {"num_requests": 1}}}
    assert told(made, plain("responses", said)).usage.searches == 1


def test_the_sound_passes_but_for_its_last_byte() -> None:
    """Which leaves after the S record; nothing is kept but the ends."""
    for sizes in ((1, 1, 1), (5, 1, 700), (3, 0, 2)):
        tap = BinaryTap("speech")
        data = [bytes([number]) * size for number, size in enumerate(sizes)]
        before = b"".join(tap.feed(piece) for piece in data) + tap.finish()
        assert before + tap.release() == b"".join(data)
        assert len(tap.release()) == 1
        assert (tap.clip.size, tap.body) == (sum(sizes), b"")


def test_the_models_of_these_tests_are_sold_as_they_say() -> None:
    """By characters, by time, by tokens: so that the tests above mean what they say."""
    assert set(TTS.rates) == {"characters"}
    assert set(WHISPER.rates) == {"duration_ms"}
    assert "duration_ms" not in SCRIBE.rates
    assert "characters" not in TALKER.rates
    assert measure.pieces(of("/embeddings", model="gpt-mini"), plain("embeddings", {}), "") == []
