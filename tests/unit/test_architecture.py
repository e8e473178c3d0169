"""The form of the code and the truth of the map."""

import ast
from pathlib import Path

import pytest

from tests.harness.map import MAP, ROOT, written

PARTS = ("gateway", "meter", "console")
LINES_MAX = {"tests": 500}
LINES_MAX_ELSEWHERE = 400


def _files(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_shared_alone(part: str) -> None:
    """gateway, meter and console import `shared`, never one another, and never what starts them."""
    others = {*PARTS, "sundial", "deploy", "tests"} - {part}
    for path in _files(part):
        assert not _imports(path) & others, path


def test_shared_imports_nobody() -> None:
    """`shared` stands below all others."""
    for path in _files("shared"):
        assert not _imports(path) & {*PARTS, "sundial", "deploy", "tests"}, path


def test_the_gateway_knows_no_database() -> None:
    """The gateway speaks to Redis and the upstream only; and litellm is the meter's."""
    for path in _files("gateway"):
        assert not _imports(path) & {"asyncpg", "litellm"}, path


def test_every_file_says_what_it_is_for() -> None:
    """Each module begins with a docstring, and none has grown beyond a screenful of screens."""
    for part in (*PARTS, "shared", "sundial", "deploy", "tests"):
        for path in _files(part):
            text = path.read_text(encoding="utf-8")
            if text.strip():
                assert ast.get_docstring(ast.parse(text)), path
            assert text.count("\n") <= LINES_MAX.get(part, LINES_MAX_ELSEWHERE), path


def test_the_map_is_true() -> None:
    """The tables of files and limits in ARCHITECTURE.md are those of the code: `make map` writes them."""
    text = MAP.read_text(encoding="utf-8")
    assert text == written(text)
