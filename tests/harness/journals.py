"""Journals on disk, written and read back."""

from pathlib import Path
from typing import Final

from gateway.journal import DeadJournal, Journal, Kind, dead_journals

Records = list[tuple[bytes, bytes]]

RECORDS: Final[list[tuple[Kind, bytes]]] = [
    (b"D", b'{"call":1}'),
    (b"C", b'{"call":1,"so":"far"}'),
    (b"S", '{"call":1,"name":"Zoë 🌻"}'.encode()),
    (b"V", b'{"call":2,"text":"\\n\\r"}'),
]
NOBODY: Final = Path("nobody")


def filled(home: Path, records: list[tuple[Kind, bytes]] = RECORDS) -> Path:
    """The folder of a journal with these records, closed."""
    written = Journal(home, "gateway")
    for kind, payload in records:
        written.write(kind, payload)
    written.close()
    return written.folder


def only_dead(home: Path) -> DeadJournal:
    """The one journal that nobody lives in."""
    (found,) = dead_journals(home, but=NOBODY)
    return found


def read(folder: Path) -> tuple[Records, int]:
    """The intact records of a folder, and the number of damaged lines."""
    dead = DeadJournal(folder, -1)
    return list(dead.records()), dead.damaged
