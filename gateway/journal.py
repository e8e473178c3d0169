"""The gateway's local file: what was sent (D), what had streamed (C), what was used (S), what came to nothing (V), and
which answers ended well for their clients (E).

A D record is written before the upstream is called, the S record before the last bytes reach the client: from then on
the usage is a fact, whatever happens to Redis or to this process. Records survive the death of the process as soon as
they are written, and the death of the machine once they are synced, each second.

One folder per process, held by a lock; living processes take over the folders whose lock is free, that is, those of
dead ones. A segment is lines of `crc32 kind json`: a torn last line is dropped, a line whose sum is wrong is
skipped and counted, an empty line means nothing.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal
from zlib import crc32

import structlog

SEGMENT_BYTES_MAX: Final = 16 * 1024 * 1024
SEGMENTS_MAX: Final = 64
"""Segments of one process at least: at its limit the oldest goes that nobody needs; where none can, no call begins."""
SEGMENTS_FREE: Final = 8
"""One in so many is kept free: room for the time in which Redis is told again, and nothing may go."""
SEGMENT_AGE_S_MAX: Final = 24 * 3600
"""Age at which a segment is dropped: so far back, if there is room, a lost Redis or an older Postgres is made good."""
SEGMENT_OPEN_S_MAX: Final = 3 * 3600
"""Time after which the next segment is begun: what little traffic leaves is dropped in time, too."""
NO_SEGMENT: Final = 1 << 62
"""Above the number of any segment."""
PROBE_BYTES: Final = 4096
"""Empty lines written to see whether the disk takes a whole block again."""
LOCK_FILE: Final = "lock"
"""Locked for as long as the process lives that writes the journal."""
_COPIED: Final = "copied"
"""Marks a dead journal of which all that is of its day is in another one."""
_SETTLED: Final = "settled"
"""Marks the journal of a process that ended in order, and names the epochs of Redis, a line for each shard, to which
all of it was told: kept for its day, should Redis or Postgres lose what it holds."""

Kind = Literal[b"D", b"C", b"S", b"V", b"E"]

log = structlog.get_logger()


class JournalFullError(Exception):
    """The disk or the journal's own bound is reached: no call may begin, running ones still close."""


class Journal:
    """The journal that this process writes. Not thread-safe but for `sync` and `keep`."""

    def __init__(self, home: Path, name: str, bytes_max: int = 0) -> None:
        """`bytes_max`: the most that it may have on the disk; 0: SEGMENTS_MAX whole segments."""
        self.bytes_max = bytes_max or SEGMENTS_MAX * SEGMENT_BYTES_MAX
        self._segment_bytes_max = min(SEGMENT_BYTES_MAX, self.bytes_max // SEGMENTS_MAX)
        self.segments_max = self.bytes_max // self._segment_bytes_max
        # Locked before it gets its name: a process that starts at the same moment cannot take it for a dead one's.
        self.folder = home / "journal" / f"{name}-{time.time_ns()}"
        unnamed = self.folder.with_name(f".{self.folder.name}")
        unnamed.mkdir(parents=True)
        self._lock = _lock(unnamed)
        unnamed.rename(self.folder)
        self.number = 0
        """Of the segment that is written; they count from 1."""
        self.kept = 0
        """Segments that there are."""
        self.scarce = asyncio.Event()
        """Set with each new segment above half of those that there may be: a look each second may come too late."""
        self.spare_below = 0
        """Segments with a smaller number may go before their day (gateway.retention)."""
        self.bytes = 0
        """Its size on the disk at the last upkeep."""
        self._begun_at_s: dict[int, float] = {}
        self._size = 0
        self._descriptor = -1
        self._full: list[tuple[int, int]] = []
        """Number and descriptor of full segments, closed by the thread that syncs them."""
        self._late = b""
        """Lines that go with the next record."""
        self._dirty = False
        self._syncing = threading.Lock()
        self._torn = False
        """The disk filled in mid-line: the next record begins on a line of its own."""
        self._unwritten = False
        """The last write failed."""
        self._doubtful = 0
        """The last segment of which a sync failed: its pages may be gone, and a second sync would not tell."""
        self._open_next(time.time())

    @property
    def failing(self) -> bool:
        """Not ready: the last write failed, or a sync did and no later segment is on the disk yet."""
        return self._unwritten or bool(self._doubtful)

    @property
    def reaches_to_s(self) -> float:
        """The Unix time at which its oldest segment was begun."""
        return next(iter(list(self._begun_at_s.values())))

    def write(self, kind: Kind, payload: bytes) -> None:
        """Append one record. Raises JournalFullError; a record is then either whole or dropped when it is read."""
        line = b"%b %b\n" % (kind, payload)
        data = b"%b%08x %b" % (self._late, crc32(line), line)
        self._late = b""
        self._append(data)

    def later(self, kind: Kind, payload: bytes) -> None:
        """Append one record that may be lost: with the next one, or at the next `flush`. It never precedes one that was
        written before it."""
        line = b"%b %b\n" % (kind, payload)
        self._late = b"%b%08x %b" % (self._late, crc32(line), line)

    def flush(self) -> None:
        """Write what waits; it is lost where that fails."""
        if self._late:
            data, self._late = self._late, b""
            with contextlib.suppress(JournalFullError):
                self._append(data)

    def probe(self) -> None:
        """See whether there is room again, or the disk takes a sync; meant for each second while `failing`, as no call
        begins then that would write a record."""
        with contextlib.suppress(JournalFullError):
            self._append(b"\n" * PROBE_BYTES)

    def _append(self, data: bytes) -> None:
        try:
            if self._torn:
                data = b"\n" + data
            length = len(data)
            size = self._size + length
            if size > self._segment_bytes_max and self._size:
                self._open_next(time.time())
                size = length
            written = os.write(self._descriptor, data)
        except BaseException as error:
            self._unwritten = True
            if isinstance(error, OSError):
                raise JournalFullError(str(error)) from error
            raise
        self._dirty = True
        if written != length:
            self._size += written
            self._torn = self._unwritten = True
            raise JournalFullError(f"only {written} of {length} bytes were written")
        self._size = size
        if self._unwritten:
            self._torn = self._unwritten = False

    def sync(self) -> None:
        """Flush to the disk; meant for a thread. Raises OSError, once for what could not be flushed: Linux drops it
        then, and says that all is well when it is asked again. So the journal is failing until `turn_over` has begun
        another segment, and that is on the disk."""
        with self._syncing:
            while self._full:
                number, descriptor = self._full[0]
                try:
                    os.fsync(descriptor)
                except OSError:
                    self._doubtful = max(self._doubtful, number)
                    raise
                finally:
                    os.close(descriptor)
                    self._full.pop(0)
            if self._dirty:
                number = self.number
                self._dirty = False
                try:
                    os.fsync(self._descriptor)
                except OSError:
                    self._dirty = True
                    if self._size:  # else nothing can be gone, and one file after the other would be begun
                        self._doubtful = self.number
                    raise
                if number > self._doubtful:
                    self._doubtful = 0

    def turn_over(self, now_s: float) -> None:
        """Begin the next segment where the present one has been open for long, and holds anything, or where a sync has
        failed. `now_s`: Unix time. Where none can be opened the present one is written on, and the next write tells."""
        if self._doubtful >= self.number or (self._size and now_s - self._begun_at_s[self.number] > SEGMENT_OPEN_S_MAX):
            with contextlib.suppress(OSError, JournalFullError):
                self._open_next(now_s)

    def keep(self) -> None:
        """Upkeep, each second, from a thread: sync, and drop segments above the age limit but the last, and what may go
        of the others while there is little room."""
        self.sync()
        size = 0
        for path in segments(self.folder):
            with contextlib.suppress(FileNotFoundError):  # the loop has dropped it
                found = path.stat()
                if time.time() - found.st_mtime > SEGMENT_AGE_S_MAX and number_of(path) != self.number:
                    self._drop(path)
                else:
                    size += found.st_size
        self.bytes = size
        self.kept = self._drop_spare(self.segments_max - self.segments_max // SEGMENTS_FREE)

    def close(self, *, told: Sequence[str] | None = None) -> None:
        """`told`: the epochs of Redis, by shard, in which every call in it was confirmed; None: not all was."""
        self.flush()
        self.sync()
        os.close(self._descriptor)
        if told is not None:
            _mark(self.folder, told)
        if self._lock is not None:
            os.close(self._lock)

    def _open_next(self, now_s: float) -> None:
        kept = self._drop_spare(self.segments_max - 1)
        if kept >= self.segments_max:
            raise JournalFullError(f"{kept} segments of {self._segment_bytes_max} bytes are full")
        path = self.folder / f"{self.number + 1:06d}.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.number += 1
        self.kept = kept + 1
        if 2 * self.kept > self.segments_max:
            self.scarce.set()
        self._begun_at_s[self.number] = now_s
        if self._descriptor >= 0:
            self._full.append((self.number - 1, self._descriptor))
        self._descriptor, self._size, self._torn = descriptor, 0, False

    def _drop_spare(self, left: int) -> int:
        """Drop the oldest segments that may go until so many are left. Returns how many there are."""
        found = segments(self.folder)
        for place, path in enumerate(found[: max(0, len(found) - left)]):
            if number_of(path) >= self.spare_below:
                return len(found) - place
            log.info("journal_dropped_early", segment=path.name)
            self._drop(path)
        return min(left, len(found))

    def _drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._begun_at_s.pop(number_of(path), None)


class DeadJournal:
    """The journal of a process that is gone, taken over by this one."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self.damaged = 0
        """Lines whose checksum was wrong, skipped."""

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """(kind, payload) of every intact record, in the order of writing."""
        for path in segments(self.folder):
            for record in read(path):
                if record is None:
                    self.damaged += 1
                else:
                    yield record

    @property
    def settled(self) -> bool:
        """Its process ended in order, with nothing left to report."""
        return _is_settled(self.folder)

    @property
    def told(self) -> list[str]:
        """Of a settled one: the epochs in which it was told, by shard."""
        return (self.folder / _SETTLED).read_text(encoding="utf-8").splitlines()

    @property
    def told_at_s(self) -> float:
        """Of a settled one: the Unix time at which those epochs still stood."""
        return (self.folder / _SETTLED).stat().st_mtime

    def mark(self, told: Sequence[str]) -> None:
        """It has been told again, in these epochs."""
        _mark(self.folder, told)

    @property
    def outdated(self) -> bool:
        """Nothing was written to it within the age limit."""
        newest = max((path.stat().st_mtime for path in segments(self.folder)), default=0.0)
        return time.time() - newest > SEGMENT_AGE_S_MAX

    @property
    def copied(self) -> bool:
        """All of it that is of its day is in another journal."""
        return (self.folder / _COPIED).exists()

    def mark_copied(self) -> None:
        (self.folder / _COPIED).touch()

    def release(self) -> None:
        """Leave it as it is. No harm where it was removed, or released before."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """All of it is told: away with it. At once, as half of its records would tell another story than all of them.
        Raises OSError, and may be tried again."""
        if not self.folder.name.startswith("."):
            doomed = self.folder.with_name(f".{self.folder.name}")
            self.folder.rename(doomed)
            self.folder = doomed
        self.release()  # nobody looks for it there; and NFS keeps a file, so its folder, for as long as it is open
        shutil.rmtree(self.folder)


def dead_journals(home: Path, *, but: Path, settled: bool | None = None) -> list[DeadJournal]:
    """The journals of processes that are gone, oldest first. Each is locked: no other process takes it too.

    `settled`: only those of processes that ended in order, or only the others. One that cannot be locked now, for want
    of descriptors or rights, is left for the next look.
    """
    found: list[DeadJournal] = []
    for path in sorted((home / "journal").glob("[!.]*-*")):
        try:
            if path != but and path.is_dir() and settled in (None, _is_settled(path)):  # else no need to lock it
                dead = _taken(path, settled)
                found += [dead] if dead is not None else []
        except OSError as error:
            log.error("journal_not_locked", folder=path.name, error=str(error))  # noqa: TRY400
    return found


def _taken(path: Path, settled: bool | None) -> DeadJournal | None:
    lock = _lock(path)
    if lock is None:
        return None
    if settled is None or _is_settled(path) is settled:
        return DeadJournal(path, lock)
    os.close(lock)  # its process has just ended in order
    return None


def segments(folder: Path) -> list[Path]:
    """The files of a journal, oldest first."""
    return sorted(folder.glob("*.log"))


def number_of(segment: Path) -> int:
    return int(segment.stem)


def read(path: Path) -> Iterator[tuple[bytes, bytes] | None]:
    """(kind, payload) of every record of a segment, in the order of writing; None for a line whose checksum is wrong.

    Raises FileNotFoundError where its age has removed it.
    """
    data = path.read_bytes()
    torn = len(data) - (data.rfind(b"\n") + 1)
    if torn:
        log.info("journal_torn_tail", path=path.name, bytes=torn)
    for line in data[: len(data) - torn].split(b"\n"):
        try:
            intact = int(line[:8], 16) == crc32(line[9:] + b"\n") and line[8:9] == b" "
        except ValueError:
            intact = False
        if intact:
            yield line[9:10], line[11:]
        elif line:
            yield None


def _is_settled(folder: Path) -> bool:
    return (folder / _SETTLED).exists()


def _mark(folder: Path, told: Sequence[str]) -> None:
    draft = folder / f".{_SETTLED}"
    draft.write_text("\n".join(told), encoding="utf-8")
    draft.replace(folder / _SETTLED)


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the folder's lock; None where another living process holds it, or has removed it."""
    path = folder / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
