"""What Redis may have forgotten, judged by its epochs; and what of a journal is told again."""

import os
from pathlib import Path
from typing import Final

import msgspec
import pytest

from gateway.journal import Journal, Kind, dead_journals, segments
from gateway.retelling import RESTART_LOSS_S_MAX, closed_calls, lost
from shared import epochs, events, ids
from tests.harness.calls import event_of
from tests.harness.messages import account_of, used

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
