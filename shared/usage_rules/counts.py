"""Counts out of whatever a provider put there, and wholes from which parts are taken."""

from collections.abc import Mapping
from typing import Any, Final

from shared.usage import COUNT_MAX

ABSURD: Final = "absurd"
"""The flag of counts that cannot be."""
NUMBER_LENGTH_MAX: Final = 32
"""Characters of a number that is written as a string."""


_NAMES: Final[dict[str, tuple[str, ...]]] = {}
"""The names that a path of the table goes through: split once."""


def number(value: Any) -> int | float | None:
    """`value` as a number, which may be infinite or no number; None for anything else, booleans among them."""
    if isinstance(value, str) and len(value) <= NUMBER_LENGTH_MAX:
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def count(value: Any) -> tuple[int, bool]:
    """A count from 0 to COUNT_MAX, and whether `value` was one. Null is 0 and right; 12.0 and "12" are 12."""
    if type(value) is int and 0 <= value <= COUNT_MAX:
        return value, True
    if value is None:
        return 0, True
    some = number(value)
    if some is None or some != some:  # only what is no number differs from itself
        return 0, False
    if not 0 <= some <= COUNT_MAX:
        return (COUNT_MAX if some > 0 else 0), False
    return round(some), True


class Counts:
    """Reads counts by path, and flags ABSURD those that are none."""

    __slots__ = ("_flags", "_raw")

    def __init__(self, raw: Mapping[str, Any], flags: set[str]) -> None:
        self._raw = raw
        self._flags = flags

    def first(self, paths: tuple[str, ...]) -> Any:
        """The first value that is not null; None where there is none."""
        for path in paths:
            value: Any = self._raw
            for name in _NAMES.get(path) or _split(path):
                if type(value) is not dict and not isinstance(value, Mapping):
                    value = None
                    break
                value = value.get(name)
            if value is not None:
                return value
        return None

    def of(self, paths: tuple[str, ...]) -> int:
        if not paths:
            return 0
        value = self.first(paths)
        if value is None:
            return 0
        if type(value) is int and 0 <= value <= COUNT_MAX:
            return value
        found, right = count(value)
        if not right:
            self._flags.add(ABSURD)
        return found

    def milliseconds(self, paths: tuple[str, ...]) -> int:
        """Seconds, whole or not, as milliseconds."""
        if not paths:
            return 0
        seconds = number(self.first(paths))
        if seconds is None:
            return self.of(paths) * 1000
        found, right = count(seconds * 1000)
        if not right:
            self._flags.add(ABSURD)
        return found


class Whole:
    """A count from which parts are taken; `left` is what is in none of them. Flags `inconsistent` what does not fit."""

    __slots__ = ("_flags", "_size", "left")

    def __init__(self, size: int, flags: set[str]) -> None:
        self.left = self._size = min(size, COUNT_MAX)
        self._flags = flags

    def part(self, wanted: int) -> int:
        """Takes a part that overlaps with no other."""
        if wanted > self.left:
            self._flags.add("inconsistent")
        return self._take(wanted)

    def share(self, wanted: int) -> int:
        """Takes a part that may overlap with those taken before: it is wrong only where it exceeds the whole."""
        if wanted > self._size:
            self._flags.add("inconsistent")
        return self._take(wanted)

    def _take(self, wanted: int) -> int:
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


def _split(path: str) -> tuple[str, ...]:
    names = _NAMES[path] = tuple(path.split("."))
    return names
