"""Observer of an answer that is no stream: nothing is changed, the last bytes wait, the usage is read."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import plain_tap
from gateway.plain_tap import HELD_BYTES_MAX, PlainTap

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "model": "gpt-mini-2026",
        "service_tier": "default",
        "choices": [{"index": 0, "message": {"content": "Olá 🌻"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }
).encode()


def carried(tap: PlainTap, parts: list[bytes]) -> tuple[bytes, bytes]:
    """What leaves before the S record, and what after it."""
    before = b"".join(tap.feed(part) for part in parts) + tap.finish()
    return before, tap.release()


@pytest.mark.parametrize("size", [1, 7, len(ANSWER) - 1, len(ANSWER)])
def test_a_small_answer_leaves_in_one_piece_after_its_record(size: int) -> None:
    """However it arrives: no byte before the S record is written, all of them after."""
    parts = [ANSWER[start : start + size] for start in range(0, len(ANSWER), size)]
    tap = PlainTap("chat")
    assert carried(tap, parts) == (b"", ANSWER)
    assert tap.body == ANSWER


def test_an_answer_says_its_model_usage_tier_and_end() -> None:
    """What the settlement needs is read once the answer is whole, and not before."""
    tap = PlainTap("chat")
    tap.feed(ANSWER)
    assert (tap.model, tap.usage_raw, tap.done) == ("", None, False)
    tap.finish()
    assert tap.model == "gpt-mini-2026"
    assert tap.usage_raw == {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    assert (tap.service_tier, tap.error) == ("default", None)


@pytest.mark.parametrize("answer", [b"", b"<html>502</html>", ANSWER[:-1], b"[1,2]", b"\xff\xfe", b"null"])
def test_an_answer_that_is_no_json_passes_unread(answer: bytes) -> None:
    """Whatever comes reaches the client; there is nothing to read in it."""
    tap = PlainTap("chat")
    assert carried(tap, [answer]) == (b"", answer)
    assert (tap.model, tap.usage_raw, tap.error) == ("", None, None)


def test_an_error_answer_is_told_as_one() -> None:
    """The upstream's error object is kept for the outcome."""
    tap = PlainTap("chat")
    carried(tap, [b'{"error":{"message":"no","type":"x"}}'])
    assert tap.error == {"message": "no", "type": "x"}


EVENTS = (
    "event: image_edit.partial_image\n"
    'data: {"type":"image_edit.partial_image","b64_json":"eA==","partial_image_index":0}\n\n'
    'event: image_edit.completed\ndata: {"type":"image_edit.completed","b64_json":"eA==","quality":"low",'
    '"usage":{"input_tokens":202,"output_tokens":372}}\n\n'
)
HEARD = (
    'data: {"type":"transcript.text.delta","delta":"Olá"}\n\n'
    'data: {"type":"transcript.text.done","text":"Olá",'
    '"usage":{"type":"tokens","input_tokens":125,"output_tokens":2}}\n\n'
)


def read(family: str, answer: Mapping[str, object]) -> PlainTap:
    tap = PlainTap(family)
    carried(tap, [json.dumps(answer).encode()])
    return tap


def test_a_stream_that_came_as_a_text_is_read() -> None:
    """LiteLLM puts the events of a transcription into its text, and those of an image into an error: the usage is the
    provider's, and the image was made. The same words of a person, or of a model that only talks, are none."""
    heard = read("transcription", {"text": HEARD, "usage": None})
    assert heard.usage_raw == {"type": "tokens", "input_tokens": 125, "output_tokens": 2}
    drawn = read("images", {"error": {"message": f"litellm.APIError: OpenAIException - {EVENTS}"}})
    assert (drawn.usage_raw, drawn.images) == ({"input_tokens": 202, "output_tokens": 372}, 1)
    assert drawn.error is not None
    for family, answer in (
        ("chat", {"text": HEARD}),
        ("images", {"error": {"message": HEARD}}),
        ("transcription", {"text": "data: " + "x" * 9}),
        ("transcription", {"text": 'she said data: {"type":"transcript.text.done","usage":{"input_tokens":1}}'}),
        ("images", {"error": {"message": "no"}, "data": [{}, {}]}),
        ("images", {"error": "no"}),
    ):
        tap = read(family, answer)
        assert (tap.usage_raw, tap.images) == (None, 0), answer
    told = read("transcription", {"text": HEARD, "usage": {"type": "duration", "seconds": 3}})
    assert told.usage_raw == {"type": "duration", "seconds": 3}


def test_of_a_large_answer_only_the_last_part_waits() -> None:
    """Above a mebibyte the answer flows; its last part still waits for the S record."""
    part = b"x" * (HELD_BYTES_MAX // 4)
    tap = PlainTap("chat")
    assert [len(tap.feed(part)) for _ in range(6)] == [0, 0, 0, 0, 4 * len(part), len(part)]
    assert tap.finish() == b""
    assert tap.release() == part


def test_an_answer_too_large_to_read_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit the answer passes and its copy is let go: memory stays bounded, no usage is read."""
    monkeypatch.setattr(plain_tap, "HELD_BYTES_MAX", 150)
    monkeypatch.setattr(plain_tap, "READ_BYTES_MAX", len(ANSWER) - 1)
    tap = PlainTap("chat")
    assert carried(tap, [ANSWER[:100], ANSWER[100:200], ANSWER[200:]]) == (ANSWER[:200], ANSWER[200:])
    assert (tap.body, tap.usage_raw) == (b"", None)
    assert tap._kept == []


@given(st.lists(st.binary(max_size=400_000), max_size=8))
def test_no_byte_is_lost_doubled_or_moved(parts: list[bytes]) -> None:
    """What leaves is what came, in order, and the last part that came never leaves before the record."""
    before, after = carried(PlainTap("chat"), parts)
    assert before + after == b"".join(parts)
    if parts:
        assert after.endswith(parts[-1])
