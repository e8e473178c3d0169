"""The table of settings in docs/settings.md, as the code has them. `make map` writes it anew; a test compares."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from shared import settings
from tests.harness.map import ROOT, between

PAGE: Final = ROOT / "docs" / "settings.md"
READERS: Final[dict[str, type[Any]]] = {
    "gateway": settings.GatewaySettings,
    "meter": settings.MeterSettings,
    "commands": settings.CommandSettings,
    "`sundial up`": settings.UpSettings,
}
UNITS: Final = {
    "_s": "seconds",
    "_bytes_max": "bytes",
    "_tokens": "tokens",
    "_entries_max": "entries",
    "_usd": "USD per million tokens",
    "_allowance": "credits",
    "_workers": "processes",
    "_sample": "share of 1",
}


def meanings() -> dict[str, str]:
    """What stands below a setting, the first time that something does."""
    found: dict[str, str] = {}
    tree = ast.parse(Path(settings.__file__).read_text(encoding="utf-8"))
    for part in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for statement, following in zip(part.body, part.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                found.setdefault(ast.unparse(statement.target), " ".join(str(following.value.value).split()))
    return found


def table() -> str:
    rows = ["| setting | read by | default | unit, range | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*rows, *_rows()])


def _rows() -> Iterator[str]:
    means = meanings()
    names = dict.fromkeys(name for reader in READERS.values() for name in reader.model_fields)
    for name in names:
        readers = [who for who, reader in READERS.items() if name in reader.model_fields]
        field: FieldInfo = READERS[readers[0]].model_fields[name]
        read_by = "all" if len(readers) == len(READERS) else ", ".join(readers)
        cells = (f"`SUNDIAL_{name.upper()}`", read_by, _default(name, field), _range(name, field), means.get(name, ""))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    if field.default in ("", None):
        return ""
    if name == "shards":
        return f"`{field.default[0]}-{field.default[-1]}`"
    value = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    return f"`{value}`"


def _range(name: str, field: FieldInfo) -> str:
    """The unit, and what a value must lie within, or be one of."""
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    bounds = [
        f"{sign} {getattr(bound, attribute):,}"
        for bound in field.metadata
        for kind, attribute, sign in ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"))
        if isinstance(bound, kind)
    ]
    return ", ".join([*([unit] if unit else []), *bounds])


def written(text: str) -> str:
    """`text` of the page with its table as the code has it."""
    return between(text, "settings", table())


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
