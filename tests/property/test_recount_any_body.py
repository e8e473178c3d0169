"""Any JSON body gives a count: the recount reads what clients and providers send, and either may send anything."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.recount.completion import Transcript, count_completion
from gateway.recount.estimate import estimate_prompt
from gateway.recount.prompt import count_prompt

FAMILIES = ("chat", "responses", "completions", "embeddings", "messages", "images")
MODELS = ("gpt-4o", "openai/gpt-5-nano", "claude-haiku-4-5", "grok-4.3", "mistral-large-latest", "", "ft:gpt-4o:a::b")
KEYS = (
    *("messages", "input", "prompt", "instructions", "system", "tools", "functions", "tool_choice", "function_call"),
    *("response_format", "text", "format", "json_schema", "schema", "role", "content", "name", "type", "function"),
    *("parameters", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "required"),
    *("description", "title", "default", "arguments", "tool_calls", "tool_call_id", "call_id", "id", "output"),
    *("image_url", "url", "detail", "source", "data", "file", "input_audio", "citations", "thinking", "summary"),
    *("encrypted_content", "choices", "delta", "message", "index", "finish_reason", "item", "output_index"),
    *("content_block", "partial_json", "stop_reason", "status", "response", "refusal", "reasoning_content"),
)
WORDS = (
    *("user", "assistant", "system", "developer", "tool", "function", "object", "array", "string", "json_schema"),
    *("function_call", "function_call_output", "reasoning", "message", "image_url", "input_image", "tool_use"),
    *("tool_result", "search_result", "document", "#/$defs/a", "#/parameters", "none", "auto", "required", "stop"),
    *("response.output_item.done", "response.output_text.delta", "response.completed", "content_block_delta"),
    *("data:image/png;base64,iVBORw0KGgo=", '{"a": [1, 2]}', "ação", "\ud83d", "\x00"),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=30)
BODIES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=40,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), BODIES, max_size=8)
TOKENS_PER_BYTE_MAX = 40
BESIDE_MAX = 60_000
"""What a body of a few hundred bytes may cost at most: a dozen images at the dearest price, hosted tools and such;
references in a schema repeat what they point to."""

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(st.sampled_from(FAMILIES), st.sampled_from(MODELS), OBJECTS)
def test_any_request_has_a_count(family: str, model: str, request: dict[str, Any]) -> None:
    """No request makes the recount fail, or count below nothing or without measure."""
    size = len(json.dumps(request))
    assert 0 <= count_prompt(family, model, request).tokens <= TOKENS_PER_BYTE_MAX * size + BESIDE_MAX
    assert estimate_prompt(size, request) >= 0


@slow
@given(st.sampled_from(FAMILIES), st.sampled_from(MODELS), st.lists(OBJECTS, max_size=6), st.integers(0, 2_000))
def test_any_answer_has_a_count(family: str, model: str, events: list[dict[str, Any]], cut: int) -> None:
    """No answer does, streamed and cut anywhere, or whole; and what came later never counts less text."""
    raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    transcript = Transcript(family)
    transcript.add(raw[:cut])
    some, counted = transcript.characters, transcript.count(model).tokens
    transcript.add(raw[cut:])
    assert 0 <= counted <= TOKENS_PER_BYTE_MAX * cut + BESIDE_MAX
    assert transcript.characters >= some
    assert transcript.estimate() >= 0
    for event in events:
        assert count_completion(family, model, event).tokens >= 0
