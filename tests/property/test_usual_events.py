"""Usual events that are read many at once come to what they come to one by one, whatever stands between them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.recount.completion import Transcript
from gateway.recount.usual_events import head_of, texts_of

BASE: Any = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-mini"}
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", '"', "\\", "a\nb", "\x00", "é", "🙂", '"}]}', '"content":"x"', "data: {", "\n\n", "\u2028"]),
)


def event(text: str, *, ascii_only: bool = False, between: str = "", **more: Any) -> bytes:
    """A usual event; `more` are fields of the choice, or of the event where they are named with an underscore."""
    outer = {name[1:]: value for name, value in more.items() if name.startswith("_")}
    inner = {name: value for name, value in more.items() if not name.startswith("_")}
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None} | inner
    said = json.dumps(BASE | {"choices": [choice]} | outer, ensure_ascii=ascii_only, separators=(",", ":" + between))
    return b"data: " + said.encode("utf-8", "surrogatepass") + b"\n\n"


LEFT_OUT = "left out"
"""LiteLLM (1.106) leaves out what is null."""
ODD = st.sampled_from(
    [
        b": comment\n\n",
        b"data: [DONE]\n\n",
        b"data: {broken\n\n",
        b"\n",
        b"data: {}\n\n",
        event("", finish_reason="stop"),
        event("x", index=1),
        event("x", delta={"role": "assistant", "content": "x"}),
        event("x", delta={"content": "x", "refusal": None}),
        event("x", delta={"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}),
        event("x", _usage={"prompt_tokens": 1}),
        event("x", _choices=[]),
        event("x", _usage=None, _system_fingerprint="fp_1", _obfuscation="aB9"),
        event("x", _error={"message": "m"}),
        event("x", between=" "),
        event("x").replace(b"\n\n", b"\r\n\r\n"),
        event("x").replace(b'"content":"x"', b'"content":"\xc3'),
        event("x").replace(b'"content":"x"', b'"content":"\xa9"'),
        event("x").replace(b'"content":"x"', b'"content":"\\ud83d"'),
        event("x").replace(b'"content":"x"', b'"content":"\\ude42"'),
        event("x").replace(b'"content":"x"', b'"content":"a\x01b"'),
    ]
)
USUAL = st.builds(event, TEXTS, ascii_only=st.booleans())
EVENTS = st.lists(st.one_of(USUAL, USUAL, USUAL, ODD), max_size=12)


class OneByOne(Transcript):
    """Reads every event by itself."""

    def _add_usual(self, raw: bytes) -> bool:
        del raw
        return False


def come_to(transcript: Transcript) -> Any:
    parts = {key: (part.name, part.text) for key, part in transcript.parts.items()}
    sizes = transcript.characters, transcript.text_bytes, transcript.overhead_bytes, transcript.estimate()
    return parts, sizes, transcript.likely(), transcript.finished, transcript.flags


@given(st.lists(EVENTS, max_size=5))
def test_many_at_once_are_what_they_are_one_by_one(looks: list[list[bytes]]) -> None:
    """Texts, sizes, estimates and ends, after every look."""
    quick, slow = Transcript("chat"), OneByOne("chat")
    for transcript in (quick, slow):
        transcript.add(event("begin"))
    for look in looks:
        for transcript in (quick, slow):
            transcript.add(b"".join(look))
        assert come_to(quick) == come_to(slow)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"_usage": None, "_service_tier": "default", "_system_fingerprint": "fp_1", "_obfuscation": "x"},
        {"logprobs": None},
        {"delta": {"role": "assistant", "content": "sol"}},
        {"delta": {"content": "sol", "refusal": None}},
        {"finish_reason": LEFT_OUT},
        {"finish_reason": LEFT_OUT, "_service_tier": "default"},
    ],
    ids=str,
)
def test_what_providers_send_is_usual(more: dict[str, Any]) -> None:
    """As OpenAI, LiteLLM and others write it: else the quick way would be right, and never taken."""
    one = event("sol", **more)
    if more.get("finish_reason") == LEFT_OUT:
        one = one.replace(f',"finish_reason":"{LEFT_OUT}"'.encode(), b"")
    found = texts_of(one * 3, head_of(one[len(b"data:") : -2]))
    assert found == ("sol" * 3, 3, 3)
