"""What processes cost, as the kernel accounts it: CPU in nanoseconds, memory in bytes. Linux."""

from collections.abc import Iterable
from pathlib import Path


def tree(root: int) -> list[int]:
    """`root` and all its descendants that live now."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found, open_ends = [], [root]
    while open_ends:
        found.append(open_ends.pop())
        open_ends += parents.get(found[-1], [])
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of all threads of these processes since their start; what has ended counts no more."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text(encoding="ascii").split()[0])
            except OSError:
                continue
    return total


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes, shared pages counted in each."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total
