"""SQL lives in files: every statement stands below a line `-- name: x --` and is called by that name."""

import re
from functools import cache
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z][a-z0-9_]*) --$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """The statements of one file by name. What stands above the first name is prose.

    Raises ValueError for a name that occurs twice and for one without a statement.
    """
    _prose, *parts = _NAME.split(text)
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        statement = body.strip().removesuffix(";")
        if name in statements:
            raise ValueError(f"two statements are named {name}")
        if not statement:
            raise ValueError(f"nothing stands below the name {name}")
        statements[name] = statement
    return statements


@cache
def load(folder: Path) -> dict[str, str]:
    """The statements of all `*.sql` files that lie in `folder` itself. Raises ValueError as `parse` does."""
    statements: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        for name, statement in parse(path.read_text(encoding="utf-8")).items():
            if name in statements:
                raise ValueError(f"two statements are named {name}; the second is in {path.name}")
            statements[name] = statement
    return statements
