"""Every key in Redis, and who writes it.

Keys of one shard carry its hash tag, so that a hold, the account it is on and the stream it will be reported to lie in
one slot and one script. Keys without a tag are read-only projections for the gateways, written by the meter.
"""

from typing import Final
from uuid import UUID

from shared.ids import SHARDS

CATALOG_VERSION: Final = "sundial:catalog:version"
"""String: the version of the newest catalog. Meter writes."""

API_KEYS: Final = "sundial:keys"
"""Hash: SHA-256 of an API key (hex) → JSON KeyRecord. Meter writes."""

KEY_REVISIONS: Final = "{sundial:keys}:revisions"
"""Hash: SHA-256 of an API key (hex) → how often it had been changed in Postgres when it was told, for keys that were.
Meter writes; in the slot of API_KEYS. Gateways do not read it."""

CHANGES: Final = "sundial:changes"
"""Stream: one entry per change of keys or catalog, field `what`: `key:<sha256 hex>` or `catalog`. Meter writes, trimmed
to about CHANGES_KEPT entries; a gateway that fell behind loads everything again."""

CHANGES_KEPT: Final = 10_000

PROBE: Final = "sundial:probe"
"""String that lasts a second: with it a gateway whom Redis refused a write sees whether it takes writes again."""

PASSED_ON: Final = "sundial:passed_on"
"""String: in how many rounds announcements were passed on, by Postgres's count. Meter writes: see meter.marks."""

RESTORATIONS: Final = "sundial:restorations"
"""String: how often Postgres was found older than what Redis had been told. Meter writes."""


def catalog(version: int) -> str:
    """String: JSON Catalog. Meter writes; the last two versions are kept."""
    return f"sundial:catalog:{version}"


_TAGS: Final = tuple(f"{{s{shard:02d}}}" for shard in range(SHARDS))


def tag(shard: int) -> str:
    return _TAGS[shard]


def epoch(shard: int) -> str:
    """String: mark of the projection's last rebuild, see shared.epochs. Meter writes. Missing: admission is closed."""
    return f"{tag(shard)}:epoch"


def booked(shard: int) -> str:
    """String: entries of the shard's stream that Postgres had dealt with when Redis was told. Meter writes: see
    meter.marks."""
    return f"{tag(shard)}:booked"


def account(shard: int, account_id: UUID | str) -> str:
    """Hash of one account.

    Meter writes `balance`, `seq`, `floor`, `status`, `plan`, `mode`; scripts of the gateway keep `held` and `unposted`,
    the sums of the two hashes below. All amounts in millicredits.
    """
    return f"{tag(shard)}:a:{account_id}"


def holds(shard: int, account_id: UUID | str) -> str:
    """Hash: event id → `amount charge draft`: millicredits held; what would be charged if the gateway died now; and
    the usage event that would then be booked, as JSON. Scripts of the gateway write; the meter expires."""
    return f"{tag(shard)}:h:{account_id}"


def unposted(shard: int, account_id: UUID | str) -> str:
    """Hash: `unposted_field` → millicredits that were settled but are not in `balance` yet."""
    return f"{tag(shard)}:u:{account_id}"


LOST: Final = "/lost"
"""Ends the field of what was lost: see shared/lua/settle.lua."""


def unposted_field(event_id: UUID | str, *, lost: bool) -> str:
    """A call's true record and what was lost of it count apart: either may come first, and corrects or is corrected."""
    return f"{event_id}{LOST if lost else ''}"


def deadlines(shard: int) -> str:
    """Sorted set: `account id/event id` of each open hold → Unix seconds at which it may be expired."""
    return f"{tag(shard)}:deadlines"


def usage_stream(shard: int) -> str:
    """Stream: field `d`, a message of shared.events. Gateway adds, the meter alone trims."""
    return f"{tag(shard)}:usage"


METER_GROUP: Final = "meter"
"""Consumer group on every usage stream."""
