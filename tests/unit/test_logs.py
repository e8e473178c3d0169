"""Log calls: what would only fail when the line is written, that is, when something else has failed already."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
PARTS = ("gateway", "meter", "shared", "sundial", "deploy")


def log_calls(path: Path) -> list[ast.Call]:
    """Every `log.info(…)` and its like."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
    ]


@pytest.mark.parametrize("part", PARTS)
def test_no_fact_of_a_log_line_is_called_event(part: str) -> None:
    """`event` is structlog's own name for the line's text: a second one is a TypeError in the midst of a fault."""
    for path in sorted((ROOT / part).rglob("*.py")):
        for call in log_calls(path):
            assert "event" not in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"


def test_there_are_log_lines_to_look_at() -> None:
    """The search finds what it is for."""
    assert len(log_calls(ROOT / "gateway" / "budget.py")) > 3
