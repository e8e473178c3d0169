"""Proves that each price version is what was written: its digest, computed again from its rows.

The digest in `price_versions` alone is no proof, as nothing reads it where a price is changed, added or deleted by
somebody with all rights; that it was not written anew too is for a signed checkpoint to say (`meter.checkpoints`).
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from meter.prices import digest_of
from meter.violation import Violation
from shared.pricing import PricedModel

RULE: Final = "prices"

_VERSIONS: Final = """
    SELECT price_version, v.digest
      FROM sundial.price_versions v
      FULL JOIN (SELECT DISTINCT price_version FROM sundial.prices) p USING (price_version)
     ORDER BY price_version
"""
_ROWS: Final = "SELECT model, definition::text AS definition FROM sundial.prices WHERE price_version = $1"
_decode = msgspec.json.Decoder(PricedModel).decode


async def audit_prices(connection: Any, *, found_max: int) -> list[Violation]:
    """What is wrong, of `found_max` versions at most. Raises asyncpg's errors."""
    found: list[Violation] = []
    for version, digest in await connection.fetch(_VERSIONS):
        if detail := _wrong(digest, await connection.fetch(_ROWS, version)):
            found.append(Violation(RULE, f"price version {version}", detail))
            if len(found) == found_max:
                break
    return found


def _wrong(digest: bytes | None, rows: Iterable[Any]) -> str:
    """What is wrong with a version; empty if nothing is."""
    if digest is None:
        return "is gone, and its prices are not"
    models = {}
    for row in rows:
        try:
            models[row["model"]] = _decode(row["definition"])
        except msgspec.DecodeError as error:
            return f"the price of {row['model']} cannot be read: {error}"
        if models[row["model"]].model != row["model"]:
            return f"the price of {row['model']} says that it is that of {models[row['model']].model}"
    return "" if digest_of(models) == digest else "its prices are not those that its digest was made of"
