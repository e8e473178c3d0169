"""Journals of dead processes: each has one heir, and no living one loses its own."""

import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.journal import Journal, dead_journals
from tests.harness.journals import NOBODY, RECORDS, Records, filled, only_dead


def test_the_folder_of_a_living_process_is_not_taken(tmp_path: Path) -> None:
    """Its lock is held from before it has a name until the process is gone."""
    code = (
        "import sys; from pathlib import Path; from gateway.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), 'living'); journal.write(b'D', b'{}')\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == b"ready\n"
        assert dead_journals(tmp_path, but=NOBODY) == []
        living.kill()
        living.wait()
    assert list(only_dead(tmp_path).records()) == [(b"D", b"{}")]


def test_ones_own_folder_is_never_taken(tmp_path: Path) -> None:
    """Two journals of one process: neither is another's heir, nor its own."""
    first, second = Journal(tmp_path, "gateway"), Journal(tmp_path, "gateway")
    assert dead_journals(tmp_path, but=first.folder) == []
    second.close()
    assert [dead.folder for dead in dead_journals(tmp_path, but=first.folder)] == [second.folder]
    first.close()


def test_a_dead_journal_has_one_heir(tmp_path: Path) -> None:
    """As long as one process reads it no other gets it; once removed it is gone for all."""
    folder = filled(tmp_path)
    heir = only_dead(tmp_path)
    assert dead_journals(tmp_path, but=NOBODY) == []
    heir.remove()
    assert dead_journals(tmp_path, but=NOBODY) == []
    assert not folder.exists()


def test_an_heir_that_dies_leaves_it_to_the_next(tmp_path: Path) -> None:
    """The lock ends with its holder: nothing is lost when a process dies while it replays."""
    filled(tmp_path)
    heir = only_dead(tmp_path)
    os.close(heir._lock)
    assert list(only_dead(tmp_path).records()) == RECORDS


def test_a_folder_that_goes_while_we_take_it_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heir removes it after we have opened its lock: what we hold then is the lock of nothing."""
    filled(tmp_path)
    heir = only_dead(tmp_path)
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        heir.remove()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert dead_journals(tmp_path, but=NOBODY) == []


def test_many_starters_share_the_dead_without_meeting(tmp_path: Path) -> None:
    """Some read while others remove: each journal is taken exactly once, and no starter fails."""
    for number in range(40):
        filled(tmp_path, [(b"S", b"%d" % number)])
    starters = 4
    line = threading.Barrier(starters)

    def start() -> Records:
        line.wait()
        taken: Records = []
        for _ in range(20):
            for dead in dead_journals(tmp_path, but=NOBODY):
                taken.extend(dead.records())
                dead.remove()
        return taken

    with ThreadPoolExecutor(starters) as pool:
        running = [pool.submit(start) for _ in range(starters)]
        taken = [record for done in running for record in done.result()]
    assert sorted(taken) == sorted((b"S", b"%d" % number) for number in range(40))
    assert list((tmp_path / "journal").iterdir()) == []
