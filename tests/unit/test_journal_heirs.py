"""Journals of dead processes: each has one heir, and no living one loses its own."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("call", ["open", "flock"])
def test_a_folder_that_cannot_be_locked_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """No descriptors, no rights, no locks: the others are taken, and nothing stays open when they are released."""
    folders = [filled(tmp_path) for _ in range(3)]
    before = open_files()
    number = 0

    def second_fails(module: Any, name: str) -> None:
        real = getattr(module, name)

        def called(*arguments: Any) -> Any:
            nonlocal number
            number += 1
            if number == 2:
                raise OSError(24, "Too many open files")
            return real(*arguments)

        monkeypatch.setattr(module, name, called)

    second_fails(*((os, "open") if call == "open" else (fcntl, "flock")))
    found = dead_journals(tmp_path, but=NOBODY)
    assert [dead.folder for dead in found] == [folders[0], folders[2]]
    assert open_files() == before + 2
    for dead in found:
        dead.release()
        dead.release()
    assert open_files() == before
    assert [dead.folder for dead in dead_journals(tmp_path, but=NOBODY)] == folders


def test_a_folder_that_a_disk_keeps_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS keeps what is open: removing may fail, and may be tried again; meanwhile nobody finds half of it."""
    filled(tmp_path)
    heir = only_dead(tmp_path)
    before = open_files()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(OSError(39, "Directory not empty")))
        with pytest.raises(OSError, match="not empty"):
            heir.remove()
    assert open_files() == before - 1
    assert dead_journals(tmp_path, but=NOBODY) == []
    heir.remove()
    assert list((tmp_path / "journal").iterdir()) == []


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
