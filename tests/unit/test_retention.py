"""Which segments of a journal go before their day: those alone that nobody needs, and never one more."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

import pytest

from gateway.budget import Budget
from gateway.journal import NO_SEGMENT, SEGMENTS_FREE, SEGMENTS_MAX, Journal, JournalFullError
from gateway.replay import last_words
from gateway.retention import Retention
from shared import events
from shared.events import UsageEvent
from tests.harness.journals import read
from tests.harness.messages import used

SEGMENT_BYTES: Final = 4_096
BYTES_MAX: Final = SEGMENTS_MAX * SEGMENT_BYTES
CALLS: Final = 3 * BYTES_MAX // 800
"""Calls whose two records fill a journal several times."""


class Busy:
    """A gateway's journal, and what it knows of its calls."""

    def __init__(self, home: Path) -> None:
        self.journal = Journal(home, "own", BYTES_MAX)
        self.budget = Budget(cast("Any", None), ttl_s=60, stream_entries_max=1, spawn=lambda _: None)
        self.retelling = SimpleNamespace(needs_from=NO_SEGMENT)
        self.adoption = SimpleNamespace(needs_from=NO_SEGMENT)
        parts = cast("Any", self.retelling), cast("Any", self.adoption)
        self.retention = Retention(self.journal, self.budget, *parts)

    def failing(self) -> bool:
        return self.journal.failing

    def begin(self) -> UsageEvent:
        event = used("ana", 1, outcome="lost", evidence="none")
        self.budget.running[str(event.event_id)] = cast("Any", SimpleNamespace(noted=events.encode(event)))
        try:
            self.journal.write(b"D", events.encode(event))
        except JournalFullError:
            del self.budget.running[str(event.event_id)]  # refused
            raise
        return event

    def end(self, event: UsageEvent, *, confirmed: bool = True) -> None:
        try:
            self.journal.write(b"S", events.encode(event))
        finally:
            del self.budget.running[str(event.event_id)]
        if not confirmed:
            self.budget.closed._unsettled[str(event.event_id)] = event

    def confirm(self, event: UsageEvent) -> None:
        del self.budget.closed._unsettled[str(event.event_id)]

    def calls(self, number: int = CALLS) -> None:
        for place in range(number):
            self.end(self.begin())
            if place % 20 == 0:
                self.tick()

    def tick(self) -> None:
        """What upkeep does each second."""
        self.retention.look()
        self.journal.keep()
        self.journal.spare_below = self.retention.spare_below
        if self.failing():
            self.journal.probe()

    def fill(self) -> None:
        """Calls until no more can be written."""
        with pytest.raises(JournalFullError, match="64 segments"):
            self.calls()
        assert self.failing()

    def left(self) -> set[UUID]:
        """The calls that would be booked should the process die now."""
        return {event.event_id for event in last_words(read(self.journal.folder)[0])}


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Busy:
    """On a disk that is at once."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Busy(tmp_path)


def test_a_busy_gateway_runs_short_of_history_and_not_of_room(busy: Busy) -> None:
    """Three journals' worth of calls, each confirmed: none is refused, the limit holds, and what is newest is there."""
    for _ in range(3):
        busy.calls(CALLS // 3)
        busy.journal.keep()
        assert busy.journal.bytes <= BYTES_MAX
        assert busy.journal.kept <= SEGMENTS_MAX - SEGMENTS_MAX // SEGMENTS_FREE + 1
    assert len(busy.left()) > CALLS // 8
    assert not (busy.journal.folder / "000001.log").exists()


def test_a_long_call_is_noted_again(busy: Busy) -> None:
    """It neither stops the others nor is it lost: its last note stands in a segment that stays, once a while."""
    long = busy.begin()
    busy.calls()
    assert long.event_id in busy.left()
    records = [events.decode(payload) for kind, payload in read(busy.journal.folder)[0] if kind == b"C"]
    assert set(records) == {long}
    assert len(records) <= busy.journal.number // 8


def test_what_redis_has_not_confirmed_stays(busy: Busy) -> None:
    """However little it is; when it is confirmed calls begin again. Until then the journal is full."""
    waiting = busy.begin()
    busy.end(waiting, confirmed=False)
    busy.fill()
    busy.tick()
    assert busy.failing()
    assert waiting.event_id in busy.left()
    busy.confirm(waiting)
    for _ in range(2):
        busy.tick()
    assert not busy.failing()
    busy.calls()
    assert waiting.event_id not in busy.left()


def test_what_redis_may_have_lost_stays_until_it_is_told(busy: Busy) -> None:
    """From the segment on that is being told again; so does what was copied from the dead, and what memory dropped."""
    for pin in (busy.retelling, busy.adoption):
        pin.needs_from = needed = busy.journal.number + 2
        busy.fill()
        assert (busy.journal.folder / f"{needed:06d}.log").exists()
        pin.needs_from = NO_SEGMENT
        for _ in range(3):
            busy.tick()
        assert not busy.failing()
    busy.budget.closed.dropped = 1
    busy.tick()
    busy.fill()
    busy.budget.closed.dropped = 0
    for _ in range(3):
        busy.tick()
    assert not busy.failing()


def test_nothing_goes_while_there_is_room(busy: Busy) -> None:
    """The day's history is kept as far as the limit allows."""
    busy.calls(CALLS // 8)
    busy.tick()
    assert (busy.journal.folder / "000001.log").exists()
