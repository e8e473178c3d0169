"""The limits of the programs, read from their code: every numeric constant, its value and its sentence.

`python -m tests.harness.limits` prints the table that ARCHITECTURE.md holds; a test compares the two.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("gateway", "meter", "shared")


class Limit(msgspec.Struct, frozen=True, order=True):
    """One constant. `meaning` is the docstring below it, its first sentence."""

    file: str
    name: str
    value: str
    meaning: str

    def row(self) -> str:
        return f"| `{self.name}` | {self.value} | {self.file} | {self.meaning} |"


def limits() -> list[Limit]:
    """Every module-level numeric constant of the programs whose name has a unit or a bound."""
    files = (path for part in PARTS for path in sorted((ROOT / part).rglob("*.py")))
    return sorted(limit for path in files for limit in _of_file(path))


def _of_file(path: Path) -> Iterator[Limit]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            continue
        name = ast.unparse(statement.target)
        if not name.isupper() or not name.endswith(("_MAX", "_MIN", "_S", "_MS", "_BYTES", "_TOKENS", "_KEPT")):
            continue
        try:
            value = eval(ast.unparse(statement.value), {"__builtins__": {}})
        except NameError:
            continue
        if isinstance(value, int | float):
            yield Limit(str(path.relative_to(ROOT)), name, f"{value:,}", _sentence(following))


def _sentence(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        text = " ".join(str(statement.value.value).split())
        return text.split(". ")[0].rstrip(".").replace("|", "\\|")
    return ""


def table() -> str:
    head = ["| limit | value | where | meaning |", "| --- | ---: | --- | --- |"]
    return "\n".join([*head, *(limit.row() for limit in limits())])


if __name__ == "__main__":
    print(table())  # noqa: T201
