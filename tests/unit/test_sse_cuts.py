"""The SSE observer on whole streams written by hand: what it reads, and that no cut changes anything."""

from itertools import compress

import pytest

from tests.harness.sse_streams import STREAMS, STYLES, TERMINAL_LINES, USAGE, watch, wire


@pytest.mark.parametrize("eol", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("strip", [False, True], ids=["pass", "strip"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_gives_what_the_whole_gives(name: str, strip: bool, eol: str) -> None:
    """Cut at any byte, or into single bytes, a stream passes the same bytes and tells the same facts."""
    family, lines, taken = STREAMS[name]
    stream = wire(lines, eol)
    whole = watch(family, strip, [stream])

    end = TERMINAL_LINES[name]
    stays = [not strip or index not in taken or line.startswith(":") for index, line in enumerate(lines)]
    assert whole.passed == wire(list(compress(lines[:end], stays[:end])), eol)
    assert whole.held == wire(list(compress(lines[end:], stays[end:])), eol)

    assert watch(family, strip, [bytes([byte]) for byte in stream]) == whole
    for at in range(1, len(stream)):
        assert watch(family, strip, [stream[:at], stream[at:]]) == whole, f"cut at byte {at}"


@pytest.mark.parametrize("name", STREAMS)
def test_a_byte_order_mark_changes_nothing_else(name: str) -> None:
    """A stream that begins with a BOM is read the same and passes with it, at every cut."""
    family, lines, _ = STREAMS[name]
    plain = watch(family, False, [wire(lines)])
    marked = b"\xef\xbb\xbf" + wire(lines)
    for at in range(len(marked)):
        seen = watch(family, False, [marked[:at], marked[at:]])
        assert seen._replace(passed=b"", raw=b"", held=b"") == plain._replace(passed=b"", raw=b"", held=b"")
        assert seen.passed + seen.held == marked


def test_what_each_stream_says() -> None:
    """Model, usage, finish reason, tier, error and the end are read from every family's stream."""
    seen = {name: watch(family, False, [wire(lines)]) for name, (family, lines, _) in STREAMS.items()}

    for name in ("openai", "litellm", "usage with the last text", "usage with the end", "usage from the start"):
        assert (seen[name].model, seen[name].usage, seen[name].done) == ("gpt-x", USAGE, True), name
    assert seen["openai"].finish_reason == "stop"
    assert seen["openai"].service_tier == "default"
    assert seen["openai"].events == 7
    assert seen["decorated"].usage == USAGE
    assert seen["decorated"].events == 3
    assert (seen["completions"].model, seen["completions"].finish_reason) == ("old", "stop")
    assert seen["error"].error == {"message": "overloaded", "code": "500"}
    assert not seen["error"].done
    assert seen["responses"].usage == {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    assert (seen["responses"].service_tier, seen["responses"].finish_reason) == ("default", "completed")
    assert seen["messages"].usage == {"input_tokens": 9, "cache_read_input_tokens": 5, "output_tokens": 4}
    assert (seen["messages"].model, seen["messages"].finish_reason) == ("claude-z", "end_turn")
    assert seen["transcription"].usage == {"type": "tokens", "input_tokens": 14}
    assert all(seen[name].done for name in seen if name != "error")
