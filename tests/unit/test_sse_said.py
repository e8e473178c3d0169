"""What the SSE observer learns of what a stream says: its model, its usage, its error."""

from typing import Any

import pytest

from gateway import sse
from gateway.sse import SseTap
from tests.harness.sse_streams import STREAMS, USAGE, chunk, data, named, watch, wire


@pytest.mark.parametrize(
    ("usages", "kept"),
    [
        ([USAGE, {**USAGE, "prompt_tokens": 10}], {**USAGE, "prompt_tokens": 10}),
        ([USAGE, {"prompt_tokens": -5, "completion_tokens": 1}], USAGE),
        ([USAGE, {"prompt_tokens": 1e30}], USAGE),
        ([USAGE, {"prompt_tokens": "many"}], USAGE),
        ([USAGE, {"prompt_tokens": 0, "completion_tokens": 0}], USAGE),
        ([USAGE, {}], USAGE),
        ([USAGE, None], USAGE),
        ([{"prompt_tokens": -5}], {"prompt_tokens": -5}),
        ([{"prompt_tokens": "12"}], {"prompt_tokens": "12"}),
    ],
)
def test_the_last_credible_usage_wins(usages: list[Any], kept: dict[str, Any]) -> None:
    """A later usage replaces an earlier one and is never added to it; one that cannot be true replaces none."""
    stream = wire([line for usage in usages for line in chunk({"content": "a"}, usage=usage)])
    assert watch("chat", False, [stream]).usage == kept


def test_anthropic_halves_are_merged_and_marked() -> None:
    """message_start has the input, message_delta the output; until the second came the usage is partial."""
    tap = SseTap("messages", strip_usage=False)
    tap.feed(wire(STREAMS["messages"][1][:3]))
    partial = [tap.usage_partial]
    assert tap.usage_raw == {"input_tokens": 9, "cache_read_input_tokens": 5, "output_tokens": 1}
    delta = {"type": "message_delta", "usage": {"input_tokens": 0, "cache_read_input_tokens": None, "output_tokens": 8}}
    tap.feed(wire(named(delta)))
    partial.append(tap.usage_partial)
    assert partial == [True, False]
    assert tap.usage_raw == {"input_tokens": 9, "cache_read_input_tokens": 5, "output_tokens": 8}


@pytest.mark.parametrize(("output", "absurd"), [(None, False), (0, False), (-7, True), (1e30, True)])
def test_a_second_half_that_counts_no_output_leaves_the_usage_partial(output: Any, absurd: bool) -> None:
    """The placeholder in message_start is nobody's count, whatever the message_delta says instead of one."""
    tap = SseTap("messages", strip_usage=False)
    tap.feed(wire(STREAMS["messages"][1][:3]))
    tap.feed(wire(named({"type": "message_delta", "usage": {"output_tokens": output}})))
    assert (tap.usage_partial, tap.usage_absurd) == (True, absurd)
    tap.feed(wire(named({"type": "message_delta", "usage": {"output_tokens": 8}})))
    assert (tap.usage_partial, tap.usage_absurd) == (False, False)


@pytest.mark.parametrize(
    ("family", "payload", "error"),
    [
        ("chat", {"error": {"message": "m"}}, {"message": "m"}),
        ("chat", {"error": "plain words"}, {"message": "plain words"}),
        ("chat", {"choices": [], "error": None}, None),
        ("messages", {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, None),
        ("responses", {"type": "error", "code": "server_error", "message": "m"}, None),
        ("responses", {"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}}, None),
    ],
)
def test_errors_inside_a_stream_are_read(family: str, payload: dict[str, Any], error: dict[str, Any] | None) -> None:
    """Each family's error event gives the error's own object."""
    found = watch(family, False, [wire(data(payload))]).error
    assert found == error if family == "chat" else found is not None and found["message"] == "m"


def test_broken_text_does_not_hide_the_usage() -> None:
    """Invalid UTF-8 and lone surrogates in an event leave its usage readable."""
    for text in (b"\xff\xfe", b"\\ud83c", b"\xed\xa0\xbd"):
        event = b'data: {"choices":[{"delta":{"content":"' + text + b'"}}],"usage":{"prompt_tokens":3}}\n\n'
        seen = watch("chat", True, [event])
        assert (seen.usage, seen.passed) == ({"prompt_tokens": 3}, event)


def test_a_nameless_model_is_looked_for_in_few_events() -> None:
    """An upstream that never names its model costs no more than MODEL_EVENTS_MAX parses."""
    tap = SseTap("chat", strip_usage=False)
    for index in range(sse.MODEL_EVENTS_MAX + 2):
        tap.feed(wire(data({"choices": [], "model": "late" if index > sse.MODEL_EVENTS_MAX - 1 else ""})))
    assert tap.model == ""
