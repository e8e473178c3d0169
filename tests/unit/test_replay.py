"""What dead processes left behind: which event each call is booked with, and that no journal is lost on the way."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import metrics, replay
from gateway.journal import SEGMENT_AGE_S_MAX, DeadJournal, Journal, JournalFullError, Kind, dead_journals
from gateway.replay import Adoption, last_words
from gateway.retelling import Retelling
from shared import events
from shared.events import UsageEvent
from shared.usage import Usage
from tests.harness.calls import event_of
from tests.harness.messages import seen, used

STEPS: Final[dict[bytes, dict[str, Any]]] = {
    b"D": {"evidence": "none", "outcome": "lost", "usage": Usage(), "charge_mc": 30},
    b"C": {"evidence": "checkpoint", "outcome": "lost", "charge_mc": 40},
    b"S": {"evidence": "provider", "outcome": "complete", "charge_mc": 50},
    b"V": {"evidence": "none", "outcome": "lost", "usage": Usage(), "charge_mc": 60},
}


def record(kind: str, number: int = 1, **more: Any) -> tuple[Kind, UsageEvent]:
    """What a gateway writes of call `number` at that point of its life; the charges tell the points apart."""
    step = kind.encode()
    event = used("ana", 1, event_id=event_of(number), **(STEPS[step] | more))
    return cast("Kind", step), event


def words(*records: tuple[Kind, UsageEvent]) -> list[UsageEvent]:
    return list(last_words((kind, events.encode(event)) for kind, event in records))


def left_behind(home: Path, *records: tuple[Kind, UsageEvent], settled: bool = False) -> Path:
    dead = Journal(home, "dead")
    for kind, event in records:
        dead.write(kind, events.encode(event))
    dead.close(told=["epoch"] if settled else None)
    return dead.folder


async def replayed(home: Path, own: Journal) -> list[UsageEvent]:
    """What one look for the dead tells."""
    told: list[UsageEvent] = []

    async def tell(calls: list[UsageEvent]) -> None:
        told.extend(calls)

    await Adoption(home, own, tell).look()
    return told


# The last word ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "word"),
    [
        ("D", "D"),
        ("DC", "C"),
        ("DCC", "C"),
        ("DS", "S"),
        ("DCS", "S"),
        ("DV", None),
        ("DCV", None),
        ("SC", "S"),
        ("SD", "S"),
        ("VC", None),
        ("S", "S"),
        ("C", "C"),
        ("", None),
    ],
)
def test_a_call_is_booked_by_its_last_word(life: str, word: str | None) -> None:
    """D: lost, at nothing. C: lost, at its last note. S: as it was settled. V: not at all. A close is final, even
    where a note was written after it, and even where the records before it are damaged."""
    records = [record(kind, charge_mc=10 * place) for place, kind in enumerate(life)]
    expected = [] if word is None else [records[life.rindex(word)][1]]
    assert words(*records) == expected


def test_calls_do_not_touch_each_other() -> None:
    """Interleaved records of several calls: one event for each that needs one."""
    records = [record("D", 1), record("D", 2), record("D", 3), record("C", 1), record("V", 2), record("S", 3)]
    assert words(*records) == [records[5][1], records[3][1]]


def test_what_cannot_be_read_is_skipped() -> None:
    """A payload that is no event, or of another kind, hides no other."""
    good = record("S")[1]
    payloads = [b"", b"{}", b"[" * 60_000, events.encode(seen("ana")), events.encode(good), b'{"kind":"usage"}']
    assert list(last_words((b"S", payload) for payload in payloads)) == [good]


@given(st.lists(st.tuples(st.sampled_from("DCSV"), st.integers(1, 4)), max_size=30))
def test_no_call_is_booked_twice_and_no_close_is_overruled(lives: list[tuple[str, int]]) -> None:
    """Any order of records: at most one event for each call; the first close decides."""
    booked = words(*(record(kind, number) for kind, number in lives))
    expected = {}
    for number in {number for _, number in lives}:
        of_call = [kind for kind, one in lives if one == number]
        last_word = next((kind for kind in of_call if kind in "SV"), of_call[-1])
        if last_word != "V":
            expected[event_of(number)] = STEPS[last_word.encode()]["charge_mc"]
    assert len(booked) == len(expected)
    assert {event.event_id: event.charge_mc for event in booked} == expected


# Taking over ------------------------------------------------------------------------------------------------------


async def test_the_dead_are_reported_copied_and_removed(tmp_path: Path) -> None:
    """Every call of every dead journal reaches Redis and our own journal; the folders are gone."""
    records = [record("S", 1), record("D", 2), record("V", 3)]
    folders = [left_behind(tmp_path, *records[:2]), left_behind(tmp_path, records[2], record("C", 4))]
    own = Journal(tmp_path, "own")
    reported = await replayed(tmp_path, own)
    assert {event.event_id for event in reported} == {event_of(1), event_of(2), event_of(4)}
    assert not any(folder.exists() for folder in folders)
    own.close()
    (heir,) = dead_journals(tmp_path, but=Path())
    assert [(kind, events.decode(data)) for kind, data in heir.records()] == [(b"S", event) for event in reported]


async def test_a_process_that_dies_while_it_replays_loses_nothing(tmp_path: Path) -> None:
    """The copy is whole and synced before the original goes: at the next start either journal tells the same."""
    event = record("C", 1)[1]
    left_behind(tmp_path, (b"C", event))
    own = Journal(tmp_path, "own")
    own.write(b"S", events.encode(event))
    own.close()
    again = Journal(tmp_path, "again")
    assert await replayed(tmp_path, again) == [event, event]
    again.close()


async def test_where_our_own_journal_is_full_theirs_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start does not fail: calls are reported to Redis, and the folder waits, locked, for the next start."""
    records = [record("S", number) for number in range(1, 6)]
    folder = left_behind(tmp_path, *records)
    own = Journal(tmp_path, "own")
    room = [2]

    def write(kind: Kind, payload: bytes) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise JournalFullError("full")

    monkeypatch.setattr(own, "write", write)
    assert [event.event_id for event in await replayed(tmp_path, own)] == [event_of(number) for number in range(1, 6)]
    assert folder.exists()
    assert dead_journals(tmp_path, but=own.folder) == []
    own.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_history_is_not_handed_on_for_ever(tmp_path: Path) -> None:
    """What is older than a day is told, and not copied: a gateway that dies daily carries one day, not all of them."""
    old_us = int((time.time() - SEGMENT_AGE_S_MAX - 60) * 1e6)
    old, young = record("S", 1, settled_at_us=old_us), record("S", 2)
    folder = left_behind(tmp_path, old, young)
    own = Journal(tmp_path, "own")
    assert await replayed(tmp_path, own) == [old[1], young[1]]
    assert not folder.exists()
    own.close()
    (heir,) = dead_journals(tmp_path, but=Path())
    assert [events.decode(data) for _, data in heir.records()] == [young[1]]


async def test_of_a_large_journal_few_calls_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied and told a few at a time, the open ones last."""
    monkeypatch.setattr(replay, "TOLD_AT_ONCE", 3)
    left_behind(tmp_path, record("D", 9), *(record("S", number) for number in range(1, 8)))
    own = Journal(tmp_path, "own")
    told: list[list[UsageEvent]] = []

    async def tell(calls: list[UsageEvent]) -> None:
        told.append(calls)

    await Adoption(tmp_path, own, tell).look()
    assert [len(calls) for calls in told] == [3, 3, 2]
    assert told[-1][-1].event_id == event_of(9)
    own.close()


async def test_what_an_heir_had_copied_is_copied_by_nobody_else(tmp_path: Path) -> None:
    """It died before all was told: who comes next tells the calls of both, and has one copy. Else each death while
    Redis is away would double what there is."""
    event = record("S", 1)[1]
    left_behind(tmp_path, (b"S", event))
    own = Journal(tmp_path, "own")

    async def never(_: list[UsageEvent]) -> None:
        raise asyncio.CancelledError

    before = open_files()
    adoption = Adoption(tmp_path, own, never)
    with pytest.raises(asyncio.CancelledError):
        await adoption.look()
    assert open_files() == before
    assert adoption.owing
    own.close()
    again = Journal(tmp_path, "again")
    assert await replayed(tmp_path, again) == [event, event]
    again.close()
    (heir,) = dead_journals(tmp_path, but=Path())
    assert [events.decode(data) for _, data in heir.records()] == [event]


async def test_one_that_cannot_be_read_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the disk: the others are taken over, it is free for a later look, and so long we owe."""
    folders = [left_behind(tmp_path, record("S", number)) for number in (1, 2)]
    records = DeadJournal.records

    def broken(dead: DeadJournal) -> Iterator[tuple[bytes, bytes]]:
        if dead.folder == folders[0]:
            raise OSError(5, "Input/output error")
        return records(dead)

    own = Journal(tmp_path, "own")
    before = open_files()
    told: list[UsageEvent] = []

    async def tell(calls: list[UsageEvent]) -> None:
        told.extend(calls)

    adoption = Adoption(tmp_path, own, tell)
    with monkeypatch.context() as patched:
        patched.setattr(DeadJournal, "records", broken)
        await adoption.look()
    assert ([event.event_id for event in told], adoption.owing) == ([event_of(2)], True)
    assert open_files() == before
    await adoption.look()
    assert ([event.event_id for event in told], adoption.owing) == ([event_of(2), event_of(1)], False)
    assert not any(folder.exists() for folder in folders)
    own.close()


async def test_what_cannot_be_removed_is_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; and removed later."""
    folder = left_behind(tmp_path, record("S"))
    own = Journal(tmp_path, "own")
    told: list[UsageEvent] = []

    async def tell(calls: list[UsageEvent]) -> None:
        told.extend(calls)

    adoption = Adoption(tmp_path, own, tell)
    with monkeypatch.context() as patched:
        patched.setattr(DeadJournal, "remove", lambda _: (_ for _ in ()).throw(OSError(39, "Directory not empty")))
        for _ in range(2):
            await adoption.look()
        assert (len(told), adoption.owing, folder.exists()) == (1, False, True)
    await adoption.look()
    assert (len(told), folder.exists()) == (1, False)
    own.close()


async def test_damage_is_counted_for_all_to_see(tmp_path: Path) -> None:
    """A record whose checksum is wrong is skipped, and moves a metric."""
    folder = left_behind(tmp_path, record("S", 1), record("S", 2))
    segment = folder / "000001.log"
    segment.write_bytes(segment.read_bytes().replace(b'"complete"', b'"complate"', 1))
    before = metrics.JOURNAL_DAMAGED._value.get()
    own = Journal(tmp_path, "own")
    assert [event.event_id for event in await replayed(tmp_path, own)] == [event_of(2)]
    assert metrics.JOURNAL_DAMAGED._value.get() == before + 1
    own.close()


async def test_with_nobody_dead_there_is_nothing_to_do(tmp_path: Path) -> None:
    """The first start of all, and a start beside a living process."""
    own = Journal(tmp_path, "own")
    living = Journal(tmp_path, "living")
    living.write(b"D", events.encode(record("D")[1]))
    assert await replayed(tmp_path, own) == []
    living.close()
    own.close()


async def test_a_process_that_ended_in_order_is_not_reported_again(tmp_path: Path) -> None:
    """A restart is no flood of repeats: the settled journal stays as it is, for whoever may have lost what it holds."""
    folder = left_behind(tmp_path, record("S"), settled=True)
    own = Journal(tmp_path, "own")
    assert await replayed(tmp_path, own) == []
    assert folder.exists()
    own.close()


async def test_a_settled_journal_goes_after_its_day(tmp_path: Path) -> None:
    """Nobody needs it any more: the folder is removed."""
    folder = left_behind(tmp_path, record("S"), settled=True)
    own = Journal(tmp_path, "own")
    retelling = Retelling(cast("Any", None), cast("Any", None), own, tmp_path)
    for aged in (False, True):
        await retelling._tell_dead([])
        assert folder.exists() is not aged
        for segment in folder.glob("*.log"):
            os.utime(segment, (0, 0))
    own.close()


async def test_what_is_not_told_is_owed(tmp_path: Path) -> None:
    """From before the first copy until all is confirmed our journal is not one of which nothing need be reported; a
    process that dies while we live is taken over at the next look."""
    own = Journal(tmp_path, "own")
    seen_owing: list[bool] = []

    async def tell(_: list[UsageEvent]) -> None:
        seen_owing.append(adoption.owing)

    adoption = Adoption(tmp_path, own, tell)
    for _ in range(2):
        left_behind(tmp_path, record("D"))
        await adoption.look()
    assert (seen_owing, adoption.owing) == ([True, True], False)

    async def never(_: list[UsageEvent]) -> None:
        raise asyncio.CancelledError

    adoption = Adoption(tmp_path, own, never)
    left_behind(tmp_path, record("D"))
    with pytest.raises(asyncio.CancelledError):
        await adoption.look()
    assert adoption.owing
    own.close()
