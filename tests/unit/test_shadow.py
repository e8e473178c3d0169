"""The recount beside the provider's usage: which calls, how far off, and that nobody waits for it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import msgspec
import pytest
import structlog
from prometheus_client import REGISTRY

from gateway import shadow as module
from gateway.families import FAMILIES
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript
from gateway.recount.tally import Recount
from gateway.settlement import Counted
from gateway.shadow import TEXT_BYTES_MAX, WAITING_MAX, Shadow, errors
from gateway.sse import SseTap
from shared.usage import Usage
from tests.harness.calls import ask, call
from tests.harness.waiting import until

TEXT = "o relógio de sol mede a hora"
REQUEST = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Olá, sol"}]}).encode()
PROMPT_TOKENS, ANSWER_TOKENS = 10, 8
"""Of the request and the text above, by OpenAI's rule."""


def seen(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def counted_so_far(direction: str = "prompt") -> float:
    return seen("sundial_gateway_recount_error_ratio_count", direction=direction)


def off_by_more_than(direction: str) -> float:
    """Observations whose error is above 0.1 %, either way."""
    name = "sundial_gateway_recount_error_ratio_bucket"
    exact = seen(name, direction=direction, le="0.001") - seen(name, direction=direction, le="-0.001")
    return counted_so_far(direction) - exact


def skipped(reason: str) -> float:
    return seen("sundial_gateway_recounts_skipped_total", reason=reason)


def plain(text: str = TEXT) -> PlainTap:
    message = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    tap = PlainTap("chat")
    tap.feed(json.dumps({"model": "gpt-4o-mini", "choices": [{"index": 0, **message}]}).encode())
    tap.finish()
    return tap


def streamed() -> SseTap:
    tap = SseTap("chat", strip_usage=False)
    for delta, finish in (({"content": TEXT}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        tap.feed(b"data: " + json.dumps({"model": "gpt-4o-mini", "choices": [choice]}).encode() + b"\n\n")
    tap.feed(b"data: [DONE]\n\n")
    return tap


def said(**more: Any) -> Counted:
    return Counted(Usage(**{"input": PROMPT_TOKENS, "output": ANSWER_TOKENS} | more), "provider")


@pytest.fixture
def shadow() -> Iterator[Callable[..., Shadow]]:
    """Makes a Shadow that counts every call unless told otherwise."""
    made: list[Shadow] = []

    def make(sample: float = 1.0, draws: tuple[float, ...] = ()) -> Shadow:
        numbers = iter(draws)
        made.append(Shadow(sample, lambda: next(numbers, 0.0)))
        return made[-1]

    yield make
    for one in made:
        one.close()


OF = call(ask=ask(model="gpt-4o-mini"), request=REQUEST)


async def test_a_recount_that_agrees_is_an_error_of_nothing(shadow: Callable[..., Shadow]) -> None:
    """Plain and streamed, both directions are exact where the provider counted by the same rule."""
    before, wrong = counted_so_far("completion"), [off_by_more_than(one) for one in ("prompt", "completion")]
    counting = shadow()
    counting.offer(OF, plain(), None, said())
    counting.offer(OF, streamed(), Transcript("chat"), said())
    await until(lambda: counted_so_far("completion") == before + 2)
    assert [off_by_more_than(one) for one in ("prompt", "completion")] == wrong


async def test_an_error_is_seen_in_its_bucket(shadow: Callable[..., Shadow]) -> None:
    """A provider that counted twice as much makes the recount 50 % short."""
    name, at = "sundial_gateway_recount_error_ratio_bucket", {"direction": "completion", "le": "-0.5"}
    before = seen(name, **at)
    shadow().offer(OF, plain(), None, said(output=2 * ANSWER_TOKENS))
    await until(lambda: seen(name, **at) == before + 1)


async def test_the_sample_decides(shadow: Callable[..., Shadow]) -> None:
    """Of four draws only those below the sample count; with a sample of nothing none does."""
    before = counted_so_far()
    counting = shadow(0.5, (0.49, 0.5, 0.99, 0.0))
    for _ in range(4):
        counting.offer(OF, plain(), None, said())
    shadow(0.0).offer(OF, plain(), None, said())
    await until(lambda: counted_so_far() == before + 2)
    counting.offer(OF, plain(), None, said())
    await until(lambda: counted_so_far() == before + 3)


@pytest.mark.parametrize("flag", ["by_proxy", "absurd", "inconsistent"])
async def test_a_usage_that_is_no_truth_is_compared_with_nothing(shadow: Callable[..., Shadow], flag: str) -> None:
    """LiteLLM's own count, or one that had to be clamped, would show an error that is not the recount's."""
    before, untrue = counted_so_far(), skipped("untrue")
    counting = shadow()
    counting.offer(OF, plain(), None, msgspec.structs.replace(said(), flags=("by_total", flag)))
    assert skipped("untrue") == untrue + 1
    counting.offer(OF, plain(), None, msgspec.structs.replace(said(), flags=("by_total",)))
    await until(lambda: counted_so_far() == before + 1)


async def test_other_calls_are_passed_over(shadow: Callable[..., Shadow]) -> None:
    """What has no usage of the provider's, and families without a text to count."""
    before = counted_so_far()
    counting = shadow()
    counting.offer(OF, plain(), None, Counted(Usage(input=1), "recounted"))
    embeddings = next(family for family in FAMILIES if family.name == "embeddings")
    counting.offer(call(family=embeddings, request=REQUEST), plain(), None, said())
    counting.offer(OF, plain(), None, said())
    await until(lambda: counted_so_far() == before + 1)


async def test_what_is_too_large_or_not_whole_is_skipped(shadow: Callable[..., Shadow]) -> None:
    """Both are said in a metric: nothing is kept of them."""
    before, large = counted_so_far(), skipped("large")
    counting = shadow()
    counting.offer(OF, plain("x" * TEXT_BYTES_MAX), None, said())
    cut = streamed()
    cut.raw_full = True
    counting.offer(OF, cut, Transcript("chat"), said())
    assert skipped("large") == large + 2
    assert counted_so_far() == before


async def test_nobody_waits_where_too_many_wait(shadow: Callable[..., Shadow], monkeypatch: pytest.MonkeyPatch) -> None:
    """While the counter is stuck the queue fills up to its bound, further calls are skipped, and room comes back."""
    stuck = Event()

    def count_prompt(*_: Any) -> Recount:
        stuck.wait(30)
        return Recount(PROMPT_TOKENS)

    monkeypatch.setattr(module, "count_prompt", count_prompt)
    before, busy = counted_so_far(), skipped("busy")
    counting = shadow()
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for _ in range(WAITING_MAX + 5):
        counting.offer(OF, plain(), None, said())
    assert loop.time() - started_s < 5
    assert skipped("busy") == busy + 5
    stuck.set()
    await until(lambda: counted_so_far() == before + WAITING_MAX)
    counting.offer(OF, plain(), None, said())
    await until(lambda: counted_so_far() == before + WAITING_MAX + 1)


async def test_a_text_that_cannot_be_counted_is_not_quoted(shadow: Callable[..., Shadow]) -> None:
    """The failure is counted and logged by its kind; not a word of the call is in the log."""
    before = skipped("failed")
    with structlog.testing.capture_logs() as logs:
        shadow().offer(call(ask=ask(model="gpt-4o-mini"), request=b'{"secret words'), plain(), None, said())
        await until(lambda: skipped("failed") == before + 1)
    assert [entry["event"] for entry in logs] == ["shadow_recount_failed"]
    assert "secret" not in str(logs)


def test_hidden_thought_is_no_error_of_the_recount() -> None:
    """OpenAI's reasoning is in no answer; what other providers call reasoning may stand there, and is compared."""
    usage = Usage(input=100, output=50, reasoning=450)
    prompt, completion = Recount(101), Recount(50)
    assert errors("o4-mini", prompt, completion, usage) == pytest.approx({"prompt": 0.01, "completion": 0.0})
    assert errors("deepseek-r1", prompt, completion, usage)["completion"] == pytest.approx(-0.9)
    assert errors("o4-mini", prompt, Recount(0), Usage(reasoning=9)) == {}
