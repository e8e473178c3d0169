"""The cheap upper estimate of a prompt, for holds."""

import json
from typing import Any

import pytest

from gateway.recount.estimate import PARTS_MAX, estimate_prompt
from gateway.recount.prompt import count_prompt
from tests.unit.test_recount_images import data_url, png

PROSE = "O saldo disponível é a soma das concessões menos o consumo já liquidado e as reservas em aberto. "
DENSE = json.dumps([[n * 7919 % 1000, n % 7 == 0] for n in range(300)], separators=(",", ":"))


def size(request: dict[str, Any]) -> int:
    return len(json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode())


def estimate(request: dict[str, Any]) -> int:
    return estimate_prompt(size(request), request)


def asking(content: object, model: str = "gpt-4o", **more: object) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


IMAGE = {"type": "image_url", "image_url": {"url": data_url(png(4000, 4000) + bytes(400_000))}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}


@pytest.mark.parametrize(
    "request_",
    [
        asking(""),
        asking("Oi"),
        asking(PROSE),
        asking(PROSE * 500),
        asking(DENSE),
        asking([{"type": "text", "text": PROSE}, IMAGE]),
        asking([IMAGE, IMAGE, IMAGE], model="gpt-4o-mini"),
        asking([IMAGE], model="gpt-4.1-nano"),
        asking("Oi", tools=[TOOL]),
        asking("Oi", model="claude-haiku-4-5", tools=[TOOL], tool_choice={"type": "any"}),
        asking("Oi", model="gpt-5-nano", tools=[TOOL]),
        asking("Oi", model="grok-4.3"),
        asking("Oi", model="gpt-oss:120b"),
    ],
    ids=range(13),
)
def test_it_is_above_the_count(request_: dict[str, Any]) -> None:
    """A hold from sizes alone covers what the tokenizer counts."""
    assert estimate(request_) >= count_prompt("chat", request_["model"], request_).tokens


def test_an_image_is_a_flat_figure() -> None:
    """Bytes of a data URL are not taken for text, at whatever depth providers put it."""
    small = {"type": "image_url", "image_url": {"url": data_url(png(10, 10) + bytes(600))}}
    anthropic = {"type": "image", "source": {"type": "base64", "data": "A" * 500_000}}
    result = {"type": "tool_result", "content": [anthropic]}
    responses = {"type": "input_image", "image_url": IMAGE["image_url"]["url"]}  # type: ignore[index]
    for part in (IMAGE, anthropic, result, responses):
        assert estimate(asking([part])) - estimate(asking([small])) < 100
    output = {"model": "gpt-4o", "input": [{"type": "function_call_output", "output": [responses]}]}
    assert estimate(output) < 3_000


def test_only_sizes_are_looked_at() -> None:
    """Two requests of the same size and shape have the same estimate, whatever they say."""
    assert estimate(asking("a" * 5_000)) == estimate(asking("\n" * 5_000)) - 2_000 == estimate(asking("z" * 5_000))


def test_what_nobody_can_see_is_held_for() -> None:
    """Files by name, tools that search, and conversations that the provider keeps hold thousands of tokens."""
    plain = estimate(asking("Oi"))
    assert estimate(asking([{"type": "file", "file": {"file_id": "file-1"}}])) > plain + 5_000
    assert estimate(asking("Oi", tools=[{"type": "web_search"}])) > plain + 5_000
    assert estimate(asking("Oi", previous_response_id="resp_1")) > plain + 5_000
    assert estimate(asking([{"type": "file", "file": {"file_data": "A" * 80_000}}])) > plain + 10_000


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": 3, "input": "x", "tools": {}},
        {
            "messages": [None, {"content": [None, "x", {}, {"type": [], "content": [None]}]}],
            "model": 3,
            "tools": [None],
        },
    ],
)
def test_any_shape(request_: dict[str, Any]) -> None:
    """A body of any shape has an estimate."""
    assert estimate_prompt(200, request_) >= 80


def test_parts_are_limited() -> None:
    """Beyond the limit parts are not looked at; their bytes count as text."""
    request = asking([{"type": "image_url", "image_url": {"url": "x"}}] * (PARTS_MAX + 1_000))
    assert estimate(request) < 2_000 * (PARTS_MAX + 1) + size(request)
