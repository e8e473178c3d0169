"""What gateways wrote to their journals, as the audit takes it: read only, also while their processes run."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import msgspec

from gateway.journal import LOCK_FILE, read, segments
from meter.audit_journal import Call
from shared import ends, events
from shared.ends import End
from shared.events import UnreadableEntryError, UsageEvent

PAGE_CALLS = 1_000
"""Calls that are looked up at once."""
WAITING_MAX = 50_000
"""Closed calls of a journal whose ends are waited for; of those that were closed before them an end stands alone."""


class Journals:
    """Every journal under a gateway's SUNDIAL_HOME. Raises OSError."""

    def __init__(self, home: Path) -> None:
        inside = home / "journal"
        self._folders = sorted(path for path in (inside if inside.is_dir() else home).glob("[!.]*-*") if path.is_dir())
        self.damaged: Counter[Path] = Counter()
        """Lines that cannot be read, by file."""

    def __len__(self) -> int:
        return len(self._folders)

    def pages(self) -> Iterator[list[Call]]:
        """Each call once per journal, by its last word: so many at a time, in no order. What is written to a journal
        after its reading began may be missing."""
        page: list[Call] = []
        for folder in self._folders:
            running = _is_held(folder)
            for call in self._closed(folder, running=running):
                page.append(call)
                if len(page) == PAGE_CALLS:
                    yield page
                    page = []
        if page:
            yield page

    def _closed(self, folder: Path, *, running: bool) -> Iterator[Call]:
        """A close is final. Its end, where it has one, follows it. What has no close is given at the end."""
        begun: dict[UUID, UsageEvent] = {}
        closed: dict[UUID, Call] = {}
        ended: dict[UUID, End] = {}
        for kind, record in self._records(folder):
            if isinstance(record, End):
                call = closed.pop(record.event_id, None)
                if call is None:
                    ended[record.event_id] = record
                else:
                    yield msgspec.structs.replace(call, end=record)
            elif kind in (b"S", b"V"):
                begun.pop(record.event_id, None)
                call = Call(record, "settled" if kind == b"S" else "void", running=running)
                if early := ended.pop(record.event_id, None):
                    yield msgspec.structs.replace(call, end=early, late=True)
                    continue
                closed[record.event_id] = call
                if len(closed) > WAITING_MAX:
                    yield closed.pop(next(iter(closed)))
            else:
                begun[record.event_id] = record
        yield from closed.values()
        yield from (Call(event, "begun", running=running) for event in begun.values())
        yield from (Call(None, "ended", running=running, end=end) for end in ended.values())

    def _records(self, folder: Path) -> Iterator[tuple[bytes, UsageEvent | End]]:
        for path in segments(folder):
            try:
                records = list(read(path))
            except FileNotFoundError:
                continue  # its age has removed it
            for record in records:
                said = None if record is None else _decoded(*record)
                if record is None or said is None:
                    self.damaged[path] += 1
                else:
                    yield record[0], said


def _decoded(kind: bytes, payload: bytes) -> UsageEvent | End | None:
    """None where it cannot be read."""
    try:
        said = ends.decode(payload) if kind == b"E" else events.decode(payload)
    except (UnreadableEntryError, msgspec.DecodeError):
        return None
    return said if isinstance(said, UsageEvent | End) else None


def _is_held(folder: Path) -> bool:
    """Whether a process has the journal. Asked for by a shared lock that is given back at once: a gateway that takes
    over dead journals at that moment would come to this one at its next look."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
