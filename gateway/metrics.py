"""Every metric of the gateway, each with its meaning. Never a user, account or call id in a label.

Generic ones carry the names of OpenTelemetry's gen_ai conventions, ours begin with sundial_.
"""

from prometheus_client import Counter, Gauge, Histogram

from gateway.tallies import Spread, Tally

CALLS = Tally("sundial_gateway_calls_total", "Closed calls.", ("family", "outcome", "evidence"))
REFUSALS = Counter("sundial_gateway_refusals_total", "Requests that were refused, by code.", ["code"])
FORWARDED = Counter(
    "sundial_gateway_forwarded_total", "Requests that were passed on unmetered, by the path that is listed.", ["path"]
)
FLAGS = Counter(
    "sundial_gateway_flags_total",
    "Closed calls whose usage is less certain than its evidence says, by why: `absurd` and `inconsistent` want a look.",
    ["flag"],
)
TOKENS_IN, TOKENS_OUT = ("input",), ("output",)
TOKENS = Tally(
    "gen_ai_client_token_usage_total", "Tokens booked.", ("gen_ai_token_type",), begun=(TOKENS_IN, TOKENS_OUT)
)
DURATION = Spread(
    "gen_ai_server_request_duration_seconds",
    "From the request's first byte to the call's close.",
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
    "stream",
    ("true", "false"),
)
FIRST_BYTE = Spread(
    "gen_ai_server_time_to_first_token_seconds",
    "From the request's first byte to the first byte of the answer's body.",
    (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
)
CREDITS = Tally("sundial_gateway_charged_millicredits_total", "Charged by the gateway's own arithmetic.")
COST = Tally("sundial_gateway_provider_cost_nanousd_total", "Provider cost by the gateway's own arithmetic.")
RUNNING = Gauge("sundial_gateway_holds_open", "Calls between their reservation and their close.")
HOLDS_AGAIN = Counter(
    "sundial_gateway_holds_again_total",
    "Holds of running calls that had expired, or that Redis had forgotten, and that were made again.",
)
UNSETTLED = Gauge("sundial_gateway_unsettled", "Closed calls that Redis has not confirmed yet.")
READY = Gauge("sundial_gateway_ready", "1 while calls can begin.")
CONNECTIONS = Gauge("sundial_gateway_connections", "Open connections of clients.")
CONNECTIONS_MAX = Gauge(
    "sundial_gateway_connections_max", "Connections of clients that are served: by the limit of file descriptors."
)
OVERLOAD = Gauge(
    "sundial_gateway_overload",
    "1 while connections are let go because memory or file descriptors are short, 2 while no call begins.",
)
WORKERS = Gauge("sundial_gateway_workers", "Processes that take calls.")
WORKER_ENDS = Counter(
    "sundial_gateway_worker_ends_total", "Worker processes that ended though nobody had told them to."
)
REDIS_COMMANDS = Gauge("sundial_gateway_redis_commands", "Commands sent to Redis since the start.")
RESENT = Gauge("sundial_gateway_upstream_resent", "Requests sent again because a kept connection had died.")
RECOUNT_ERROR = Histogram(
    "sundial_gateway_recount_error_ratio",
    "Relative error of a recount by tokenizer against the provider's own usage, of a sample of calls that have one: "
    "0.01 is 1 % too many. OpenAI's hidden thought, which no text shows, is left out.",
    ["direction"],
    buckets=(
        *(-0.5, -0.25, -0.1, -0.05, -0.02, -0.01, -0.005, -0.001),
        *(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5),
    ),
)
RECOUNTS_SKIPPED = Counter(
    "sundial_gateway_recounts_skipped_total",
    "Calls of that sample that were not counted: busy (too many waited), large (too much text), failed, untrue (its "
    "usage may not be the provider's).",
    ["reason"],
)
RETOLD = Counter(
    "sundial_gateway_retold_total", "Calls told again from a journal, because Redis may have forgotten them."
)
VIOLATIONS = Counter(
    "sundial_gateway_invariant_violations_total",
    "Answers of which an invariant did not hold, by rule; any is a page. client_last: the end left and the journal has "
    "no record. bytes: the client's bytes are not the upstream's. floor: a call cost more than its hold and one slice. "
    "isolation: the upstream gave another call's answer, which was refused.",
    ["rule"],
)
JOURNAL_BYTES = Gauge("sundial_gateway_journal_bytes", "Size of the journal on the disk.")
JOURNAL_BYTES_MAX = Gauge(
    "sundial_gateway_journal_bytes_max",
    "The most that it may have. Near it the oldest of what Redis has confirmed goes before its day; where nothing can "
    "go no call begins.",
)
JOURNAL_REACH = Gauge(
    "sundial_gateway_journal_reach_seconds",
    "Age of the oldest record in the journal: so far back a Redis that has lost what it confirmed can be told again.",
)
JOURNAL_FAILURES = Counter("sundial_gateway_journal_failures_total", "Records that could not be written.")
JOURNAL_DAMAGED = Counter("sundial_gateway_journal_damaged_total", "Records of a dead journal with a wrong checksum.")
UPKEEP_FAILURES = Counter(
    "sundial_gateway_upkeep_failures_total",
    "Times that a task which renews holds or syncs the journal died of a fault, and began anew.",
    ["task"],
)
