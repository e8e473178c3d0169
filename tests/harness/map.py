"""The parts of ARCHITECTURE.md that the code says best itself: its files and its limits.

`make map` writes them anew between their markers; a test compares.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("gateway", "meter", "shared")
MAP: Final = ROOT / "ARCHITECTURE.md"


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
        return _first_sentence(str(statement.value.value))
    return ""


def _first_sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0].replace("|", "\\|")


def files_table() -> str:
    """Every module of the programs, with the first sentence of its docstring."""
    rows = ["| file | what it is for |", "| --- | --- |"]
    for part in (*PARTS, "sundial", "deploy"):
        for path in sorted((ROOT / part).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring:
                name = path.parent if path.name == "__init__.py" else path
                rows.append(f"| `{name.relative_to(ROOT)}` | {_first_sentence(docstring)} |")
    return "\n".join(rows)


def limits_table() -> str:
    head = ["| limit | value | where | meaning |", "| --- | ---: | --- | --- |"]
    return "\n".join([*head, *(limit.row() for limit in limits())])


def written(text: str) -> str:
    """`text` of ARCHITECTURE.md with both tables as the code has them."""
    for name, table in (("files", files_table()), ("limits", limits_table())):
        text = between(text, name, table)
    return text


def between(text: str, name: str, table: str) -> str:
    """`text` with this table between its markers."""
    begin, end = f"<!-- {name}: make map -->", f"<!-- end of {name} -->"
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    MAP.write_text(written(MAP.read_text(encoding="utf-8")), encoding="utf-8")
