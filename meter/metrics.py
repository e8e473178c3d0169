"""Every metric of the meter, with its meaning. Labels never name an account, a user or a key."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from meter.cost_check import differs
from meter.posting import Posting

ENTRIES: Final = Counter(
    "sundial_meter_entries",
    "Stream entries that are dealt with, by result: booked, repeated (known by its id), or dead (set aside).",
    ["result"],
)
ODD_EVENTS: Final = Counter(
    "sundial_meter_odd_events",
    "Booked usage events that carry a flag: unpriced (booked at the gateway's charge), provisional (booked at the "
    "operator's provisional price), charge_differs (the gateway had counted another charge), off_time (its id's time "
    "is days from its booking).",
    ["flag"],
)
EVIDENCE: Final = Counter(
    "sundial_meter_usage_events", "Booked usage events, by how their usage was counted.", ["evidence"]
)
BATCH_ENTRIES: Final = Histogram(
    "sundial_meter_batch_entries",
    "Entries in one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
BATCH_SECONDS: Final = Histogram(
    "sundial_meter_batch_seconds",
    "Seconds that a batch takes: post is the transaction in Postgres, apply the telling of Redis, finish the "
    "acknowledging and trimming.",
    ["step"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STREAM_ENTRIES: Final = Gauge(
    "sundial_meter_stream_entries", "Entries in a shard's stream: read or not, none of them trimmed yet.", ["shard"]
)
STREAM_PENDING: Final = Gauge(
    "sundial_meter_stream_pending", "Entries that a consumer has read and not yet acknowledged.", ["shard"]
)
STREAM_LAG: Final = Gauge(
    "sundial_meter_stream_lag_seconds",
    "Age of a shard's oldest entry that is not acknowledged: how far the books are behind.",
    ["shard"],
)
SHARDS_STOPPED: Final = Gauge(
    "sundial_meter_shards_stopped",
    "Shards whose reader has stopped because everything looked like poison: a person must look at the dead letters.",
)
COST_RATIO: Final = Histogram(
    "sundial_meter_cost_ratio",
    "Provider cost as our prices have it, over the cost that the upstream told (usage.cost), of booked events "
    "that we have a price for.",
    buckets=(0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1.001, 1.01, 1.02, 1.05, 1.1, 1.25, 1.5, 2),
)
COST_DIFFERENCES: Final = Counter(
    "sundial_meter_cost_differences",
    "Booked events whose provider cost differs from the one that the upstream told by more than 1 %, and by more than "
    "rounding explains. `sundial price differences` lists them.",
)
CORRECTIONS: Final = Counter(
    "sundial_meter_price_corrections",
    "Charges that were corrected when their price arrived: dearer, cheaper or same; failed where the books could not "
    "take the correction (it is tried again at the next price version).",
    ["result"],
)
LATE_RECORDS: Final = Counter(
    "sundial_meter_late_records",
    "Calls that were booked as lost, because their gateway was not heard of, and corrected by the record that it wrote "
    "after all: dearer, cheaper or same.",
    ["result"],
)
UNPRICED_EVENTS: Final = Gauge("sundial_meter_unpriced_events", "Booked events that wait for a price.")
DEAD_LETTERS: Final = Gauge(
    "sundial_meter_dead_letters",
    "Entries that are set aside and that no person has dealt with: `sundial dead-letter list`.",
)
DEAD_LETTER_ORDERS: Final = Counter(
    "sundial_meter_dead_letter_orders",
    "What people ordered about dead letters, by outcome: booked, kept (it cannot be booked yet), discarded, refused "
    "(it was closed already).",
    ["outcome"],
)
ORDERS_QUEUED: Final = Gauge("sundial_meter_orders_queued", "Orders that wait to be posted.")
ORDERS: Final = Counter("sundial_meter_orders", "Orders that are closed, by outcome: posted or refused.", ["outcome"])
EXPIRIES: Final = Counter("sundial_meter_grants_expired", "Grants whose rest was taken back because they expired.")
HOLDS_EXPIRED: Final = Counter(
    "sundial_meter_holds_expired", "Holds that were closed because their gateway was not heard of any more."
)
HOLDS_OVERDUE: Final = Gauge(
    "sundial_meter_holds_overdue", "Holds past their deadline that are not closed yet; 0 while the reaper keeps up."
)
REBUILDS: Final = Counter(
    "sundial_meter_rebuilds",
    "Shards whose projection was written anew, by reason: epoch (Redis had forgotten) or restart (it may have).",
    ["reason"],
)
RESTORATIONS: Final = Gauge(
    "sundial_meter_restorations",
    "How often Postgres was found older than what Redis had been told (put back to a backup, or a successor without "
    "the last commits), since Redis began; a change is a page. Calls are booked again from the gateways' journals; "
    "grants, keys, accounts and prices that were made since the backup are lost.",
)
CATALOG_VERSION: Final = Gauge("sundial_meter_catalog_version", "Version of the newest catalog told to the gateways.")
ANNOUNCEMENTS_QUEUED: Final = Gauge(
    "sundial_meter_announcements_queued", "Changes among accounts, keys and prices that Redis has not been told yet."
)
DEFAULT_PARTITION_ROWS: Final = Gauge(
    "sundial_meter_default_partition_rows",
    "Rows of the books outside of every month's partition, by table: wrong clocks, or a month that is missing.",
    ["table"],
)
FAULTS: Final = Counter(
    "sundial_meter_faults",
    "Faults after which a task waited and tried again, by task and kind of error.",
    ["task", "error"],
)
VIOLATIONS: Final = Gauge(
    "sundial_invariant_violations",
    "Broken invariants that the meter found, by rule; anything but 0 is a page. Exported are the rules that the meter "
    "looks at while it works, see ARCHITECTURE.md.",
    ["rule"],
)
CORRECTED: Final = Counter(
    "sundial_meter_projection_corrected",
    "Numbers in Redis that two looks had found wrong and that were set right, by rule: projection (accounts that were "
    "told again what the books say) or sums (of what is held or unposted). Look for who wrote them.",
    ["rule"],
)
AUDITED_TRANSFERS: Final = Counter(
    "sundial_meter_audited_transfers",
    "Transfers whose digest was recomputed; of several meters one at a time does it. It begins anew at each start.",
)


def count(posting: Posting) -> None:
    """Count what a committed batch came to."""
    for result, entries in (("booked", posting.booked), ("repeated", posting.repeated), ("dead", len(posting.dead))):
        ENTRIES.labels(result=result).inc(entries)
    for flag, events in (
        ("unpriced", posting.unpriced),
        ("provisional", posting.provisional),
        ("charge_differs", posting.differing),
        ("off_time", posting.off_time),
    ):
        ODD_EVENTS.labels(flag=flag).inc(events)
    for evidence, events in posting.evidence.items():
        EVIDENCE.labels(evidence=evidence).inc(events)
    for result, events in posting.late.items():
        LATE_RECORDS.labels(result=result).inc(events)
    for ours_nano, theirs_nano, usage in posting.costs:
        COST_RATIO.observe(ours_nano / theirs_nano)
        if differs(ours_nano, theirs_nano, usage):
            COST_DIFFERENCES.inc()
