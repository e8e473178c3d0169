"""Counts a sample of the calls that have a usage a second time, by tokenizer, to know how far a recount is off.

In a thread of its own, after the call is closed and the client has all of its answer: a recount that somebody waits for
is never behind one of these. The text is kept until it is counted, in memory alone, and nowhere else.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Final

import msgspec
import structlog

from gateway import metrics
from gateway.admission import Call
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript, count_completion
from gateway.recount.profiles import is_openai
from gateway.recount.prompt import count_prompt
from gateway.recount.tally import Recount, compare
from gateway.settlement import Counted
from gateway.sse import SseTap
from shared.usage import Usage

WAITING_MAX: Final = 16
"""Calls that wait to be counted, the one that is being counted among them; further ones are passed over."""
TEXT_BYTES_MAX: Final = 2 * 1024 * 1024
"""Request and answer of a call that is counted; a larger one is passed over."""
FAMILIES: Final = ("chat", "responses", "completions", "messages")
UNTRUE: Final = frozenset({"by_proxy", "absurd", "inconsistent"})
"""Flags of a usage (shared.usage_rules) that may not be the provider's count, or was clamped."""

log = structlog.get_logger()


class Shadow:
    """`sample` is the share of calls to count, `draw` gives random numbers from 0 to below 1."""

    def __init__(self, sample: float, draw: Callable[[], float]) -> None:
        self._sample = sample
        self._draw = draw
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._room = BoundedSemaphore(WAITING_MAX)

    def offer(self, call: Call, tap: SseTap | PlainTap, transcript: Transcript | None, counted: Counted) -> None:
        """Count a closed call later, or not at all: never waits, never raises. What it is given is its own from here.

        Passed over: other families, calls without the provider's usage, and all but the sample; of that, with a metric,
        calls whose usage is no truth to compare with, those of which not all text was kept, large ones, and those for
        which there is no room.
        """
        if counted.evidence != "provider" or call.family.name not in FAMILIES or self._draw() >= self._sample:
            return
        if not UNTRUE.isdisjoint(counted.flags):
            metrics.RECOUNTS_SKIPPED.labels("untrue").inc()
            return
        raw = tap.take_raw() if isinstance(tap, SseTap) else tap.body
        whole = not tap.raw_full if isinstance(tap, SseTap) else bool(raw)
        if not whole or len(call.request) + len(raw) > TEXT_BYTES_MAX:
            metrics.RECOUNTS_SKIPPED.labels("large").inc()
        elif not self._room.acquire(blocking=False):
            metrics.RECOUNTS_SKIPPED.labels("busy").inc()
        else:
            model = tap.model or call.ask.model
            self._counter.submit(self._count, call.family.name, model, call.request, raw, transcript, counted.usage)

    def close(self) -> None:
        """What waits is dropped."""
        self._counter.shutdown(wait=False, cancel_futures=True)

    def _count(
        self, family: str, model: str, request: bytes, raw: bytes, transcript: Transcript | None, usage: Usage
    ) -> None:
        try:
            prompt = count_prompt(family, model, msgspec.json.decode(request))
            if transcript is None:
                completion = count_completion(family, model, raw)
            else:
                transcript.add(raw)
                completion = transcript.count(model)
            for direction, error in errors(model, prompt, completion, usage).items():
                metrics.RECOUNT_ERROR.labels(direction).observe(error)
        except Exception as error:  # noqa: BLE001 (a text that no rule can read must not end the thread)
            metrics.RECOUNTS_SKIPPED.labels("failed").inc()
            log.warning("shadow_recount_failed", error=type(error).__name__)  # its text may quote the call's
        finally:
            self._room.release()


def errors(model: str, prompt: Recount, completion: Recount, usage: Usage) -> dict[str, float]:
    """Relative errors by direction, where the provider counted anything there.

    OpenAI's thought is in no answer: it is left out of what the provider counted. That it is missing from a recount is
    said by the flag `hidden_reasoning`; this is about the text that there is.
    """
    seen = usage.tokens_out - (usage.reasoning if is_openai(model) else 0)
    counted = {"prompt": (prompt, usage.tokens_in), "completion": (completion, seen)}
    return {direction: compare(recount, tokens) for direction, (recount, tokens) in counted.items() if tokens > 0}
