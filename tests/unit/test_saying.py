"""The log line of a closed call: the short way says it byte for byte as structlog does."""

import asyncio
import io
import json
import logging
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway import metrics, saying
from gateway.budget import Hold
from gateway.saying import Saying
from shared import logs
from shared.events import UsageEvent
from shared.logs import JsonLine, Lines, Usual
from shared.usage import Usage
from tests.harness.calls import call, draft

NOW_NS = 1_800_000_000_123_456_789
COUNT = st.integers(0, 2**53)
NAME = st.text(st.characters(), max_size=20)
"""Surrogates too: what a log line is told of a client's words need not be UTF-8."""


@st.composite
def closed(build: st.DrawFn) -> tuple[UsageEvent, Hold]:
    of = call()
    event = draft(
        of,
        model_asked=build(NAME),
        outcome=build(st.sampled_from(["complete", "client_gone", "timeout"])),
        evidence=build(st.sampled_from(["provider", "recounted", "none"])),
        usage=Usage(input=build(COUNT), output=build(COUNT), reasoning=build(COUNT)),
        charge_mc=build(COUNT),
        status=build(st.integers(0, 599)),
        stream=build(st.booleans()),
        first_byte_us=build(COUNT),
        settled_at_us=of.started_at_us + build(st.integers(-10, 2**40)),
        flags=tuple(build(st.lists(NAME, max_size=3))),
    )
    hold = SimpleNamespace(call=of, held_mc=build(COUNT))
    return event, cast("Hold", hold)


def said(calls: list[tuple[UsageEvent, Hold]]) -> None:
    async def turn() -> None:
        here = Saying()
        for event, hold in calls:
            here.closed(event, hold)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(turn())


def by_structlog(event: UsageEvent, hold: Hold) -> bytes:
    """As `log.info` says it, of the facts that it is told."""
    facts = {
        "event_id": hold.call.event_text,
        "account": hold.call.caller.account_text,
        "model": event.model_asked,
        "outcome": event.outcome,
        "evidence": event.evidence,
        "tokens_in": event.usage.tokens_in,
        "tokens_out": event.usage.tokens_out,
        "charge_mc": event.charge_mc,
        "status": event.status,
        "stream": event.stream,
        "first_byte_ms": event.first_byte_us // 1000,
        "took_ms": (event.settled_at_us - event.started_at_us) // 1000,
        "held_mc": hold.held_mc,
        "flags": list(event.flags) or None,
    }
    file = io.BytesIO()
    logger = structlog.wrap_logger(
        Lines(cast("Any", file)), processors=[JsonLine("gateway")], wrapper_class=structlog.BoundLogger
    )
    logger.info("call", **facts)
    return file.getvalue()


@given(st.lists(closed(), max_size=4))
def test_each_line_is_the_one_that_structlog_would_write(calls: list[tuple[UsageEvent, Hold]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: NOW_NS)
        file = io.BytesIO()
        patch.setattr(logs, "usual", Usual(JsonLine("gateway"), Lines(cast("Any", file))))
        said(calls)
        assert file.getvalue() == b"".join(by_structlog(event, hold) for event, hold in calls)


@given(closed())
def test_where_lines_are_no_json_structlog_is_told_the_same(one: tuple[UsageEvent, Hold]) -> None:
    told: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "usual", None)
        patch.setattr(saying, "log", SimpleNamespace(info=lambda event, **facts: told.update(facts, event=event)))
        said([one])
    line = json.loads(by_structlog(*one))
    assert {**line, **told} == line
    assert told["event"] == "call"
    assert line.keys() - told.keys() == {"program", "level", "timestamp"}


@pytest.mark.parametrize(
    ("style", "level", "short"), [("json", "info", True), ("json", "warning", False), ("pretty", "info", False)]
)
def test_the_short_way_is_for_lines_that_are_said_and_are_json(style: Any, level: str, short: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", lambda **_: None)
        patch.setattr(logging, "getLogger", lambda: logging.Logger("another root"))
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False))
        patch.setattr(logs, "usual", None)
        logs.configure(style, level, "gateway")
        assert (logs.usual is not None) is short


def test_every_closed_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all the metrics that are for closed calls, once."""

    def counted() -> list[float]:
        stream, whole, first = metrics.DURATION.by["true"], metrics.DURATION.by["false"], metrics.FIRST_BYTE.by[""]
        kind = ("chat", "complete", "provider")
        tokens = metrics.TOKENS.counts[metrics.TOKENS_IN], metrics.TOKENS.counts[metrics.TOKENS_OUT]
        money = metrics.CREDITS.counts[()], metrics.COST.counts[()]
        times = [number for one in (stream, whole, first) for number in (sum(one.counts), one.sum_us)]
        flag = metrics.FLAGS.labels("absurd")._value.get()
        return [metrics.CALLS.counts[kind], *tokens, *money, *times, flag]

    monkeypatch.setattr(logs, "usual", None)
    monkeypatch.setattr(saying, "log", SimpleNamespace(info=lambda *_, **__: None))
    of = call()
    event = draft(of, outcome="complete", evidence="provider", usage=Usage(input=5, output=7), charge_mc=12)
    event = msgspec.structs.replace(event, cost_nano=34, settled_at_us=of.started_at_us + 2_000, first_byte_us=900)
    hold = cast("Hold", SimpleNamespace(call=of, held_mc=100))
    plain = msgspec.structs.replace(event, stream=False, first_byte_us=0, flags=("absurd",))
    before = counted()
    said([(event, hold), (event, hold), (plain, hold)])
    changes = [after - was for after, was in zip(counted(), before, strict=True)]
    assert changes == [3, 15, 21, 36, 102, 2, 4_000, 1, 2_000, 2, 1_800, 1]
