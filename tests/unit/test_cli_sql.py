"""Statements in files, found by name."""

import ast
from pathlib import Path

import pytest

import sundial
from shared.sql import load, parse
from sundial.database import statements


def test_a_statement_stands_below_its_name() -> None:
    """Prose above the first name, comments and the final semicolon's absence are all kept as they are."""
    text = "-- prose\n\n-- name: one --\nSELECT 1;\n\n-- name: two --\nSELECT 2 -- not a name: x\n"
    assert parse(text) == {"one": "SELECT 1", "two": "SELECT 2 -- not a name: x"}


@pytest.mark.parametrize(
    "text", ["-- name: a --\nSELECT 1\n-- name: a --\nSELECT 2", "-- name: a --\n-- name: b --\nSELECT 1"]
)
def test_doubled_and_empty_names_are_refused(text: str) -> None:
    """A name that occurs twice, or has no statement, raises when the file is read."""
    with pytest.raises(ValueError, match="a"):
        parse(text)


def test_a_name_is_unique_over_a_folder(tmp_path: Path) -> None:
    """Two files of one folder cannot both define a name."""
    (tmp_path / "a.sql").write_text("-- name: x --\nSELECT 1")
    (tmp_path / "b.sql").write_text("-- name: x --\nSELECT 2")
    with pytest.raises(ValueError, match=r"b\.sql"):
        load(tmp_path)


def test_the_command_uses_every_statement_and_no_other() -> None:
    """Every name that the command's code looks up exists in its SQL files, and every statement there is used."""
    used: set[str] = set()
    for path in Path(sundial.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) in {
                "statements()",
                "sql",
                "database.statements()",
            }:
                assert isinstance(node.slice, ast.Constant | ast.JoinedStr), f"{path.name}: a computed name"
                if isinstance(node.slice, ast.Constant):
                    used.add(str(node.slice.value))
    used |= {"order_backlog", "projection_backlog"}
    assert used == set(statements())
