"""What counting an answer may take and keep, however large or odd it is; and what is estimated without counting."""

import pytest

from gateway.recount import answer, completion
from gateway.recount.completion import EVENT_BYTES_MAX, Transcript, count_completion
from gateway.recount.tally import Recount
from tests.harness.answer_events import CHAT, TEXT, delta, length, pieces, stream


def test_an_event_too_large_is_passed_over() -> None:
    """An event above the limit costs no memory and no count; the answer goes on behind it, flagged."""
    transcript = Transcript("chat")
    transcript.add(stream([delta(content="Olá")]) + b'data: {"junk":"')
    for _ in range(EVENT_BYTES_MAX // (1 << 20) + 2):
        transcript.add(b"x" * (1 << 20))
        assert len(transcript._rest) <= EVENT_BYTES_MAX
    transcript.add(b'"}\n\n' + stream([delta(content="!")]))
    assert transcript.count("gpt-4o") == Recount(length("Olá!"), ("estimated",))


def test_text_above_the_limit_is_measured_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limits the text is not kept: its characters count four to a token, and the flag says so."""
    monkeypatch.setattr(answer, "TEXT_CHARACTERS_MAX", 10)
    recount = count_completion("chat", "gpt-4o", stream([delta(content="Olá"), delta(content="a" * 40)]))
    assert recount == Recount(length("Olá") + 10, ("estimated",))
    monkeypatch.setattr(answer, "PARTS_MAX", 1)
    assert count_completion("chat", "gpt-4o", stream([delta(0, content="a"), delta(1, content="b" * 4)])).tokens == 2


def test_memory_is_the_text_not_the_events() -> None:
    """Ten thousand events leave one text and no event behind."""
    transcript = Transcript("chat")
    for _ in range(10_000):
        transcript.add(stream([delta(content="ab")]))
    (part,) = transcript.parts.values()
    assert len(part._pieces) < answer.PIECES_MAX
    assert part.text == "ab" * 10_000
    assert (transcript._rest, transcript._data) == (b"", [])


def test_the_cheap_estimate_is_high() -> None:
    """Without the tokenizer, prose is estimated above its tokens, and never below the number of its events."""
    transcript = Transcript("chat")
    assert transcript.estimate() == 0
    transcript.add(stream(delta(content=text) for text in pieces(TEXT * 20, 20)))
    assert length(TEXT * 20) <= transcript.estimate() <= 2 * length(TEXT * 20)
    few = Transcript("chat")
    few.add(stream([*CHAT, delta(finish="tool_calls")]))
    assert few.estimate() >= few.count("gpt-4o").tokens
    sealed = Transcript("responses")
    thought = {"type": "reasoning", "encrypted_content": "x" * 9_000}
    sealed.add(stream([{"type": "response.output_item.done", "item": thought}]))
    assert sealed.estimate() >= sealed.count("gpt-5").tokens > 1_000
    transcript.add(stream(delta(content="") for _ in range(5_000)))
    assert transcript.estimate() >= 5_000


def test_what_is_likely_is_low() -> None:
    """Never above twice the truth, however short the text, and rather below it; with nothing read it is nothing."""
    transcript = Transcript("chat")
    assert transcript.likely() == 0
    transcript.add(stream([delta(role="assistant", content="")]))
    assert transcript.likely() == 0
    transcript.add(stream([delta(content="ab")]))
    assert transcript.likely() == 1
    transcript.add(stream(delta(content=text) for text in pieces(TEXT * 20, 20)))
    assert length(TEXT * 20) // 2 < transcript.likely() <= length(TEXT * 20)


def test_lines_of_one_event_are_limited() -> None:
    """Data spread over endless lines is given up, and the next event is read."""
    raw = b"data: {\n" * (completion.EVENT_LINES_MAX * 3) + b"\n" + stream([delta(content="Olá")])
    assert count_completion("chat", "gpt-4o", raw).tokens == length("Olá")


def test_what_is_no_answer_at_all_is_estimated() -> None:
    """An object that cannot be read is sized, and says so."""
    counted = count_completion("chat", "gpt-4o", b'{"choices": nonsense ' + b"x" * 400)
    assert counted.tokens > 50
    assert "estimated" in counted.flags
