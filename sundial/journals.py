"""What gateways wrote to their journals, as the audit takes it: read only, also while their processes run."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from gateway.journal import LOCK_FILE, read, segments
from meter.audit_journal import Call
from shared import events
from shared.events import UnreadableEntryError, UsageEvent

PAGE_CALLS = 1_000
"""Calls that are looked up at once."""


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
        """A close is final. What has none is given at the end."""
        begun: dict[UUID, UsageEvent] = {}
        for kind, event in self._records(folder):
            if kind in (b"S", b"V"):
                begun.pop(event.event_id, None)
                yield Call(event, "settled" if kind == b"S" else "void", running=running)
            else:
                begun[event.event_id] = event
        yield from (Call(event, "begun", running=running) for event in begun.values())

    def _records(self, folder: Path) -> Iterator[tuple[bytes, UsageEvent]]:
        for path in segments(folder):
            try:
                records = list(read(path))
            except FileNotFoundError:
                continue  # its age has removed it
            for record in records:
                try:
                    event = None if record is None else events.decode(record[1])
                except UnreadableEntryError:
                    event = None
                if record is None or not isinstance(event, UsageEvent):
                    self.damaged[path] += 1
                else:
                    yield record[0], event


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
