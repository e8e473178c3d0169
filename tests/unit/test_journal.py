"""The gateway's local file: what survives a death, a damaged disk and a full disk."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import journal as module
from gateway.journal import Journal, JournalFullError, Kind, segments
from tests.harness.journals import RECORDS, Records, filled, only_dead, read


def failing(journal: Journal) -> bool:
    return journal.failing


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def file_size_max(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs may be mounted here; the same is proven with a limit on the size of files")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# Writing and reading ----------------------------------------------------------------------------------------------


def test_records_come_back_in_the_order_of_writing(tmp_path: Path) -> None:
    """Kinds and payloads are read as they were written, whatever text they hold."""
    filled(tmp_path)
    dead = only_dead(tmp_path)
    assert list(dead.records()) == RECORDS
    assert dead.damaged == 0


def test_records_survive_kill_9_as_soon_as_they_are_written(tmp_path: Path) -> None:
    """A process that dies without closing, flushing or syncing leaves every record that it wrote."""
    code = (
        "import os, signal, sys; from pathlib import Path; from gateway.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), 'doomed')\n"
        "for number in range(100): journal.write(b'S', b'%d' % number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert list(only_dead(tmp_path).records()) == [(b"S", b"%d" % number) for number in range(100)]


def test_a_torn_tail_is_dropped_wherever_it_tore(tmp_path: Path) -> None:
    """Cut at every byte of the last line: the lines before it are whole, nothing counts as damaged."""
    folder = filled(tmp_path)
    segment = folder / "000001.log"
    whole = segment.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        segment.write_bytes(whole[:end])
        assert read(folder) == (RECORDS[:-1], 0), end


@pytest.mark.parametrize("bits", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_costs_its_own_record_and_is_counted(tmp_path: Path, bits: int) -> None:
    """Flip each byte of the second line in turn: every record that is read is one that was written, and others stay.

    A flip of case in the checksum's hex digits changes nothing; one of the line's end takes the next line with it.
    """
    folder = filled(tmp_path)
    segment = folder / "000001.log"
    whole = segment.read_bytes()
    start = whole.index(b"\n") + 1
    end = whole.index(b"\n", start)
    for position in range(start, end + 1):
        flipped = bytearray(whole)
        flipped[position] ^= bits
        segment.write_bytes(flipped)
        records, damaged = read(folder)
        if position == end:
            assert (records, damaged) == ([RECORDS[0], *RECORDS[3:]], 1)
        elif records == RECORDS:
            assert bits == 0x20
            assert position < start + 8
        else:
            assert records == [RECORDS[0], *RECORDS[2:]], position
            assert damaged == 1


@pytest.mark.parametrize("byte", [b"\n", b"\r", b"\x00", b"\x85", b"\x1c"])
def test_a_byte_that_becomes_a_line_break_costs_no_other_record(tmp_path: Path, byte: bytes) -> None:
    """Only \\n ends a line; a damaged line that falls into two is skipped, both halves."""
    folder = filled(tmp_path)
    segment = folder / "000001.log"
    whole = segment.read_bytes()
    middle = whole.index(b'"so"')
    segment.write_bytes(whole[:middle] + byte + whole[middle + 1 :])
    assert read(folder) == ([RECORDS[0], *RECORDS[2:]], 2 if byte == b"\n" else 1)


@pytest.mark.parametrize("rubbish", [b"\n", b"rubbish\n", b"\x00" * 64 + b"\n", b"00000000 S {}\n", b"zzzzzzzz S {}\n"])
def test_rubbish_is_no_record(tmp_path: Path, rubbish: bytes) -> None:
    """Lines that nobody wrote are skipped; an empty one is not even damage."""
    folder = filled(tmp_path)
    segment = folder / "000001.log"
    segment.write_bytes(rubbish + segment.read_bytes())
    assert read(folder) == (RECORDS, 0 if rubbish == b"\n" else 1)


# Segments ---------------------------------------------------------------------------------------------------------


def test_segments_are_bounded_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record never spans two segments, none grows above its limit, and the order of writing is kept."""
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 110)
    records: list[tuple[Kind, bytes]] = [(b"S", b"%040d" % number) for number in range(25)]
    folder = filled(tmp_path, records)
    segments = sorted(folder.glob("*.log"))
    assert len(segments) == 25 // 2 + 1
    assert max(path.stat().st_size for path in segments) <= 110
    assert read(folder) == (records, 0)


def test_beyond_its_segments_the_journal_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's own bound is as hard as the disk's: no record, failing, until an old segment has been dropped."""
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 110)
    monkeypatch.setattr(module, "SEGMENTS_MAX", 3)
    journal = Journal(tmp_path, "gateway")
    for number in range(6):
        journal.write(b"S", b"%040d" % number)
    with pytest.raises(JournalFullError, match="3 segments"):
        journal.write(b"S", b"%040d" % 6)
    assert failing(journal)

    oldest = journal.folder / "000001.log"
    os.utime(oldest, (0, time.time() - module.SEGMENT_AGE_S_MAX - 60))
    journal.keep()
    assert not oldest.exists()
    journal.write(b"S", b"%040d" % 7)
    assert not failing(journal)
    journal.close()
    assert [payload for _, payload in read(journal.folder)[0]] == [b"%040d" % number for number in (2, 3, 4, 5, 7)]


def test_upkeep_never_drops_the_segment_that_is_written(tmp_path: Path) -> None:
    """However old the last segment is, its records stay."""
    journal = Journal(tmp_path, "gateway")
    journal.write(b"S", b"kept")
    os.utime(journal.folder / "000001.log", (0, 0))
    journal.keep()
    journal.close()
    assert read(journal.folder) == ([(b"S", b"kept")], 0)


def test_little_traffic_is_dropped_in_its_time(tmp_path: Path) -> None:
    """A segment that has been open for long is followed by the next one, so that its age can drop it; one that holds
    nothing stays."""
    journal = Journal(tmp_path, "gateway")
    journal.write(b"S", b"old")
    journal.turn_over(time.time())
    assert len(segments(journal.folder)) == 1
    later_s = time.time() + module.SEGMENT_OPEN_S_MAX + 1
    for _ in range(2):
        journal.turn_over(later_s)
        assert len(segments(journal.folder)) == 2
    os.utime(journal.folder / "000001.log", (0, 0))
    journal.keep()
    journal.write(b"S", b"new")
    journal.close()
    assert read(journal.folder) == ([(b"S", b"new")], 0)


def test_a_segment_may_change_while_a_thread_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation on the loop and a sync in a thread never meet on a closed descriptor, and none is left open."""
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 110)
    monkeypatch.setattr(module, "SEGMENTS_MAX", 10_000)
    journal = Journal(tmp_path, "gateway")
    before = open_files()
    written = threading.Event()

    def sync() -> None:
        while not written.is_set():
            journal.keep()

    with ThreadPoolExecutor(1) as thread:
        syncing = thread.submit(sync)
        for number in range(400):
            journal.write(b"S", b"%040d" % number)
        written.set()
        syncing.result()
    journal.sync()
    assert open_files() == before
    journal.close()
    assert len(read(journal.folder)[0]) == 400


def test_a_segment_that_is_being_synced_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on to the next segment while the thread is within fsync of the one before."""
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 110)
    begun, rotated, synced = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        begun.set()
        assert rotated.wait(10)
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    journal = Journal(tmp_path, "gateway")
    journal.write(b"S", b"%040d" % 0)
    with ThreadPoolExecutor(1) as thread:
        syncing = thread.submit(journal.sync)
        assert begun.wait(10)
        for number in range(1, 6):
            journal.write(b"S", b"%040d" % number)
        rotated.set()
        syncing.result()
    journal.close()
    assert len(read(journal.folder)[0]) == 6


# A full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", range(30))
def test_a_record_that_did_not_fit_takes_no_other_with_it(tmp_path: Path, room: int) -> None:
    """The disk fills `room` bytes into a record, and has room again later: the next record begins on its own line."""
    journal = Journal(tmp_path, "gateway")
    journal.write(b"D", b"before")
    size = (journal.folder / "000001.log").stat().st_size
    with file_size_max(size + room):
        for _ in range(3):
            with pytest.raises(JournalFullError):
                journal.write(b"D", b"x" * 40)
        assert failing(journal)
    journal.write(b"S", b"after")
    assert not failing(journal)
    journal.close()
    assert read(journal.folder) == ([(b"D", b"before"), (b"S", b"after")], 1 if room else 0)


def test_what_was_torn_counts_towards_its_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None grows above its limit, though half of the first record is all that the disk took of it."""
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 110)
    journal = Journal(tmp_path, "gateway")
    with file_size_max(25), pytest.raises(JournalFullError):
        journal.write(b"D", b"%040d" % 0)
    for number in (1, 2):
        journal.write(b"S", b"%040d" % number)
    journal.close()
    assert [path.stat().st_size for path in segments(journal.folder)] == [25 + 1 + 51 + 1, 51 + 1]
    assert read(journal.folder) == ([(b"S", b"%040d" % 1), (b"S", b"%040d" % 2)], 1)


def test_a_journal_that_failed_is_ready_again_once_there_is_room(tmp_path: Path) -> None:
    """No call begins while the journal fails, so it probes by itself; a probe leaves nothing that is read."""
    journal = Journal(tmp_path, "gateway")
    journal.write(b"D", b"before")
    with file_size_max((journal.folder / "000001.log").stat().st_size + 10):
        with pytest.raises(JournalFullError):
            journal.write(b"D", b"x" * 40)
        journal.probe()
        assert failing(journal)
    journal.probe()
    assert not failing(journal)
    journal.write(b"S", b"after")
    journal.close()
    assert read(journal.folder) == ([(b"D", b"before"), (b"S", b"after")], 1)


def test_on_a_full_disk_every_acknowledged_record_is_read_back(small_disk: Path) -> None:
    """Fill a real file system, free some of it, go on: what `write` accepted is there, and only that."""
    stone = small_disk / "stone"
    stone.write_bytes(b"x" * 100_000)
    journal = Journal(small_disk, "gateway")
    accepted: Records = []

    def fill() -> None:
        while True:
            record = b"%0200d" % len(accepted)
            journal.write(b"S", record)
            accepted.append((b"S", record))

    with pytest.raises(JournalFullError):
        fill()
    journal.probe()
    assert failing(journal)
    stone.unlink()
    journal.probe()
    assert not failing(journal)
    with pytest.raises(JournalFullError):
        fill()
    journal.close()
    assert read(journal.folder)[0] == accepted


def test_after_a_sync_that_failed_another_segment_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells of what it could not write once, and drops it: that a second sync of the same file succeeds says
    nothing. Not ready until one of the next file does; whatever fails meanwhile, files do not pile up."""
    journal = Journal(tmp_path, "gateway")
    journal.write(b"S", b"doubtful")
    synced, broken = os.fsync, True

    def told_once(descriptor: int) -> None:
        if broken:
            raise OSError(5, "Input/output error")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", told_once)
    for _ in range(5):
        with pytest.raises(OSError, match="Input/output"):
            journal.keep()
        assert failing(journal)
        journal.turn_over(time.time())
    assert len(segments(journal.folder)) == 2
    journal.write(b"S", b"sound")
    assert failing(journal)
    broken = False
    journal.keep()
    assert not failing(journal)
    journal.close()
    assert [path.stat().st_size > 0 for path in segments(journal.folder)] == [True, True]
    assert read(journal.folder)[0] == [(b"S", b"doubtful"), (b"S", b"sound")]


def test_a_full_segment_that_was_not_synced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is no more the one that is written: failing until a later one is on the disk, none stays open."""
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 110)
    before = open_files()
    journal = Journal(tmp_path, "gateway")
    for number in range(3):
        journal.write(b"S", b"%040d" % number)
    synced = os.fsync
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            journal.keep()
    assert os.fsync is synced
    assert failing(journal)
    journal.turn_over(time.time())
    journal.keep()
    assert not failing(journal)
    journal.close()
    assert open_files() == before


def test_a_sync_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is told, and what was not flushed is not forgotten: the next sync flushes it."""
    journal = Journal(tmp_path, "gateway")
    journal.write(b"S", b"kept")
    flushed: list[int] = []

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()
    monkeypatch.setattr(os, "fsync", flushed.append)
    journal.sync()
    assert len(flushed) == 1
    journal.close()
