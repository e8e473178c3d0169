"""docs/reliability.md says what is true: each test, target and option that it names exists, and no row is forgotten."""

import ast
import re
from functools import cache
from itertools import chain
from typing import Final

import pytest

from tests.harness.map import ROOT

PAGE: Final = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
LAST: Final = {"G": 9, "C": 7, "U": 11, "R": 10, "P": 8, "M": 7, "A": 6}
"""Groups of the fault matrix, and the number of each one's last row."""
ROWS: Final = [*(f"{group}{number}" for group, last in LAST.items() for number in range(1, last + 1)), "X"]
INVARIANTS: Final = [f"I{number}" for number in range(1, 17)]
STATES: Final = ("met", "partly", "not tested", "not built")
"""How the last cell of a row of the matrix begins."""
NODE: Final = re.compile(r"`(?:\.venv/bin/pytest )?(tests/[\w/]+\.py)(?:::(\w+))?`")


def _table_row(name: str) -> list[str]:
    """The cells of the one row of a table that begins with this name; empty where there is none, or more."""
    found = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in found[0].strip("|").split(" | ")] if len(found) == 1 else []


@cache
def _tests_of(file: str) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_named_exists() -> None:
    """Node ids and files of tests are those of the code; and nothing that looks like one escapes the reading."""
    named = NODE.findall(PAGE)
    assert len(named) == len(re.findall(r"tests/\w+/test_\w+", PAGE)) > len(ROWS)
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or test in _tests_of(file), f"{file}::{test}"


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_matrix_has_its_state_and_its_tests(row: str) -> None:
    """Each row stands in the matrix once; it is met by tests that are named, or the page says what is missing."""
    number, fault, tests, state = _table_row(row)
    assert number == row
    assert fault
    assert state.startswith(STATES), state
    assert bool(NODE.search(tests)) is state.startswith(("met", "partly")), row
    assert state == "met" or len(state.split(": ", 1)[1]) > 10, f"{row}: what is missing?"


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_every_invariant_says_where_it_is_enforced_and_checked(invariant: str) -> None:
    """Each invariant is promised once, with where it is enforced and what shows it."""
    _, promise, enforced, checked = _table_row(invariant)
    assert promise
    assert enforced
    assert checked


def test_every_fault_test_of_a_row_stands_in_it() -> None:
    """A test whose name has a row's number is named in that row, by itself or by its file."""
    missing: list[str] = []
    for path in sorted((ROOT / "tests" / "fault").glob("test_*.py")):
        file = str(path.relative_to(ROOT))
        for test in sorted(_tests_of(file)):
            numbered = re.match(r"test_([a-z]\d+|x)_", test)
            row = numbered[1].upper() if numbered else ""
            if row in ROWS:
                named = NODE.findall(_table_row(row)[2])
                if (file, test) not in named and (file, "") not in named:
                    missing.append(f"{row}: {file}::{test}")
    assert not missing, "to be named in docs/reliability.md:\n" + "\n".join(missing)


def test_every_target_and_option_that_is_named_exists() -> None:
    """`make …` names targets of the Makefile, `sundial audit …` options that the command has."""
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"`make ([a-z-]+)", PAGE):
        assert target in targets, target
    commands = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = chain(*(re.findall(r"--[a-z-]+", command) for command in re.findall(r"`sundial audit([^`]*)`", PAGE)))
    for option in named:
        assert f"`{option}" in commands, option
