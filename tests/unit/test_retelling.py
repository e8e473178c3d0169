"""What Redis may have forgotten, judged by its epochs; and what of a journal is told again."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.journal import NO_SEGMENT, DeadJournal, Journal, Kind, dead_journals, segments
from gateway.redis_wire import RedisAnswerError, RedisAwayError
from gateway.retelling import RESTART_LOSS_S_MAX, Retelling, closed_calls, lost
from shared import epochs, events, ids, redis_keys
from shared.events import UsageEvent
from tests.harness.calls import event_of
from tests.harness.messages import account_of, used
from tests.harness.waiting import until

STOOD_AT_S: Final = 1_000_000.0
FIRST: Final = epochs.following(None, "run1")
RESTARTED: Final = epochs.following(FIRST, "run2")
FORGOTTEN: Final = epochs.following(None, "run2")
LATELY_S: Final = STOOD_AT_S - RESTART_LOSS_S_MAX


@pytest.mark.parametrize(
    ("told", "present", "since_s"),
    [
        (FIRST, FIRST, None),
        (FIRST, "", None),
        ("", "", None),
        ("", FIRST, 0.0),
        (FIRST, FORGOTTEN, 0.0),
        (FIRST, RESTARTED, LATELY_S),
        (RESTARTED, FIRST, LATELY_S),
        ("run1/old", epochs.following("run1/old", "run2"), LATELY_S),
    ],
    ids=("same", "missing", "never any", "first", "forgotten", "restarted", "older copy", "of an earlier release"),
)
def test_the_epoch_tells_what_is_lost(told: str, present: str, since_s: float | None) -> None:
    """The same: nothing. Missing: not yet known. Another origin, or none known: everything. Else: what is of late."""
    assert lost([told], [present], STOOD_AT_S) == ({} if since_s is None else {0: since_s})


def test_each_shard_is_judged_for_itself() -> None:
    """Also where fewer are known than there are."""
    assert lost([FIRST, FIRST], [FIRST, FORGOTTEN, FIRST], STOOD_AT_S) == {1: 0.0, 2: 0.0}


def test_only_closed_calls_of_these_shards_are_told(tmp_path: Path) -> None:
    """S records alone; of other shards, or of a segment that is too old, none; a damaged line hides no other."""
    journal = Journal(tmp_path, "own")
    event = used("ana", 1, event_id=event_of(1))
    life: list[tuple[Kind, int]] = [(b"D", 1), (b"C", 1), (b"S", 1), (b"D", 2), (b"V", 2), (b"D", 3)]
    for kind, number in life:
        journal.write(kind, events.encode(msgspec.structs.replace(event, event_id=event_of(number))))
    journal.write(b"S", b"{}")
    journal.close()
    (segment,) = segments(journal.folder)
    segment.write_bytes(b"00000000 S {}\n" + segment.read_bytes())
    shard = ids.shard_of(account_of("ana"))
    assert closed_calls(segment, {shard: 0.0}) == [event]
    assert closed_calls(segment, {shard + 1: 0.0}) == []
    os.utime(segment, (STOOD_AT_S, STOOD_AT_S))
    assert closed_calls(segment, {shard: STOOD_AT_S}) == [event]
    assert closed_calls(segment, {shard: STOOD_AT_S + 1}) == []
    segment.unlink()
    assert closed_calls(segment, {shard: 0.0}) == []


def test_a_settled_journal_names_the_epochs(tmp_path: Path) -> None:
    """Also where some are unknown; it can be marked anew."""
    journal = Journal(tmp_path, "own")
    journal.close(told=[FIRST, "", ""])
    (dead,) = dead_journals(tmp_path, but=Path(), settled=True)
    assert lost(dead.told, [FIRST, "", FIRST], STOOD_AT_S) == {2: 0.0}
    dead.mark([FIRST, "", FIRST])
    assert lost(dead.told, [FIRST, "", FIRST], STOOD_AT_S) == {}
    dead.release()


# The gateway's looks ----------------------------------------------------------------------------------------------


class Link:
    """Redis as a cluster has it: a command names keys of one shard."""

    def __init__(self) -> None:
        self.on_connect: list[Any] = []
        self.epochs = {redis_keys.epoch(shard): FIRST for shard in range(ids.SHARDS)}
        self.error: Exception | None = None

    def send(self, name: str, *keys: str) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(self.error, RedisAwayError):
            raise self.error
        if self.error is not None or len(keys) > 1:
            answer.set_exception(self.error or RedisAnswerError("CROSSSLOT Keys don't hash to the same slot"))
        else:
            assert name == "GET"
            answer.set_result(self.epochs.get(keys[0], "").encode() or None)
        return answer


async def renew() -> None:
    """No call runs."""


def watching(home: Path, link: Link, told: list[UsageEvent], needed: list[int] | None = None) -> Retelling:
    async def resettle_all(calls: Iterable[UsageEvent]) -> None:
        told.extend(calls)
        if needed is not None:
            needed.append(retelling.needs_from)

    closed = SimpleNamespace(dropped=0, resettle_all=resettle_all)
    budget = SimpleNamespace(closed=closed, renew=renew)
    retelling = Retelling(cast("Any", link), cast("Any", budget), Journal(home, "own"), home)
    return retelling


async def test_epochs_are_asked_for_one_by_one(tmp_path: Path) -> None:
    """Each shard has its slot: a cluster answers no command that names two."""
    retelling = watching(tmp_path, Link(), [])
    with capture_logs() as lines:
        await retelling.start()
    assert (retelling.told, lines) == ([FIRST] * ids.SHARDS, [])


async def test_an_error_of_redis_is_said(tmp_path: Path) -> None:
    """A look that Redis refuses has no result: it is no quiet failure, and until one succeeds all is kept."""
    link = Link()
    retelling = watching(tmp_path, link, [])
    await retelling.start()
    await retelling._look()
    assert retelling.needs_from == NO_SEGMENT
    link.error = RedisAnswerError("NOPERM this user has no permissions")
    with capture_logs() as lines:
        keeping = asyncio.create_task(retelling.keep())
        await until(lambda: bool(lines))
        keeping.cancel()
    assert [(line["event"], line["error"]) for line in lines] == [("retelling_refused", str(link.error))]
    assert retelling.needs_from == 0


async def test_what_may_be_lost_is_kept_until_it_is_told(tmp_path: Path) -> None:
    """From the connection to a Redis that is not known, to the end of its telling, segment by segment."""
    link, told, needed = Link(), cast("list[UsageEvent]", []), cast("list[int]", [])
    retelling = watching(tmp_path, link, told, needed)
    journal = retelling._journal
    assert retelling.needs_from == 0
    await retelling.start()
    await retelling._look()
    assert retelling.needs_from == NO_SEGMENT
    for number in (1, 2):
        journal.write(b"S", events.encode(used("ana", 1, event_id=event_of(number))))
        journal._open_next(0.0)
    link.on_connect[0]()
    assert retelling.needs_from == 0
    retelling._connected.clear()
    link.epochs = {}
    await retelling._look()
    assert (retelling.needs_from, told) == (0, [])
    link.epochs = {redis_keys.epoch(shard): FORGOTTEN for shard in range(ids.SHARDS)}
    await retelling._look()
    assert [event.event_id for event in told] == [event_of(1), event_of(2)]
    assert needed == [1, 2, 3]
    assert retelling.needs_from == NO_SEGMENT
    journal.close()


@pytest.mark.parametrize("fault", ["read", "remove"])
async def test_one_that_cannot_be_read_keeps_no_other_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Of three journals that ended in order the first cannot be read, or removed: the others are told, all are free."""
    link, told = Link(), cast("list[UsageEvent]", [])
    retelling = watching(tmp_path, link, told)
    await retelling.start()
    folders = []
    for number in (1, 2, 3):
        ended = Journal(tmp_path, "ended")
        ended.write(b"S", events.encode(used("ana", 1, event_id=event_of(number))))
        ended.close(told=[FORGOTTEN] * ids.SHARDS)
        folders.append(ended.folder)
    if fault == "remove":
        os.utime(segments(folders[0])[0], (0, 0))
    else:
        (folders[0] / "settled").unlink()
        (folders[0] / "settled").mkdir()
    with monkeypatch.context() as patched:
        if fault == "remove":
            patched.setattr(DeadJournal, "remove", lambda _: (folders[0] / "lock").mkdir())
        await retelling._look()
    assert [event.event_id for event in told] == [event_of(2), event_of(3)]
    free = dead_journals(tmp_path, but=retelling._journal.folder)
    assert [dead.folder for dead in free] == folders
    for dead in free:
        dead.release()
