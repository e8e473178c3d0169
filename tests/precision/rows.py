"""The rows of the tables: how near one kind of calls came to the truth, whatever is counted."""

from typing import Any, Final

COLUMNS: Final = ("family", "kind", "calls", "exact", "within_1_percent")
ERRORS: Final = ("total_error_percent", "absolute_error_percent")

Key = tuple[str, str]
"""Family and kind of request."""


class Row:
    """One line of a table: how near the counts of one kind of calls came."""

    def __init__(self) -> None:
        self.calls = self.exact = self.near = self.true = self.error = self.absolute = 0

    def add(self, found: int, true: int, *, exact: bool = True) -> None:
        """`exact`: whether what the counts are made of is right too."""
        error = found - true
        self.calls += 1
        self.exact += error == 0 and exact
        self.near += abs(error) * 100 <= true
        self.true += true
        self.error += error
        self.absolute += abs(error)

    def shown(self, family: str, kind: str, unit: str = "tokens") -> dict[str, Any]:
        """Errors in percent of all that the row's calls are truly worth, which stands under `unit`."""
        whole = max(1, self.true)
        return {
            "family": family,
            "kind": kind,
            "calls": self.calls,
            "exact": self.exact,
            "within_1_percent": self.near,
            unit: self.true,
            "total_error_percent": 100 * self.error / whole,
            "absolute_error_percent": 100 * self.absolute / whole,
        }


def columns(unit: str) -> tuple[str, ...]:
    """The columns of a table whose counts are in `unit`."""
    return (*COLUMNS, unit, *ERRORS)
