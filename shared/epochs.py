"""The mark that a shard's projection bears in Redis: `run id of the server/id of the rebuild/id of the origin`.

The meter sets it after each rebuild. Another run id: Redis was restarted, and may lack the last it had confirmed.
Another origin: it had forgotten everything. The gateways tell by it what they must tell again.
"""

import uuid


def following(before: str | None, run_id: str) -> str:
    """The next mark after `before`; None where that is missing."""
    rebuild = uuid.uuid4()
    return f"{run_id}/{rebuild}/{rebuild if before is None else origin_of(before)}"


def run_id_of(epoch: str) -> str:
    return epoch.partition("/")[0]


def origin_of(epoch: str) -> str:
    """When Redis last began from nothing; marks of two parts have only that."""
    return epoch.rpartition("/")[2]
