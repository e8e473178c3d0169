"""The meter's statements by name, read once from sql/queries.sql."""

from pathlib import Path
from typing import Final

from shared import sql

QUERIES: Final = sql.parse((Path(__file__).parent / "sql" / "queries.sql").read_text(encoding="utf-8"))
