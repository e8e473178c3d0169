"""The last events of a stream that the gateway ends itself."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from gateway import farewell
from shared.usage import Usage

USAGE = Usage(input=7, cached=3, output=4, reasoning=1)


def chunks(usage: Usage | None) -> list[dict[str, Any]]:
    data = farewell.chat("gpt-mini", "chatcmpl-1", 1_800_000_000, "[ends \n here 🌻]", usage)
    *events, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


@pytest.mark.parametrize("usage", [None, USAGE])
def test_every_event_is_a_chunk_as_openais_client_reads_it(usage: Usage | None) -> None:
    """Valid by the real client's own types, each with the same id, model and time."""
    for chunk in chunks(usage):
        read = ChatCompletionChunk.model_validate(chunk, strict=True)
        assert (read.id, read.model, read.created) == ("chatcmpl-1", "gpt-mini", 1_800_000_000)


def test_the_reason_is_text_and_the_end_is_for_length() -> None:
    """A client shows the reason as part of the message, and the message as cut."""
    text, end = chunks(None)
    assert text["choices"][0]["delta"] == {"content": "[ends \n here 🌻]"}
    assert text["choices"][0]["finish_reason"] is None
    assert end["choices"][0]["delta"] == {}
    assert end["choices"][0]["finish_reason"] == "length"


def test_usage_comes_last_and_only_where_it_was_asked_for() -> None:
    """As OpenAI sends it: a chunk without choices, whose totals add up."""
    assert len(chunks(None)) == 2
    last = chunks(USAGE)[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
