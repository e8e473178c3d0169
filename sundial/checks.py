"""What `sundial doctor` concludes from what it found: one verdict per fact, with what to do. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from shared.ids import SHARDS

State = Literal["ok", "warn", "fail"]

POSTGRES_MAJOR_MIN: Final = 15
REDIS_MAJOR: Final = 7
"""Scripts may settle when memory is full from here on."""
CLOCK_WARN_S: Final = 2.0
CLOCK_FAIL_S: Final = 60.0
PRICES_AGE_DAYS: Final = 60
"""Providers change prices more often than that."""
_WORKERS: Final = re.compile(r"(?P<there>\d+) of (?P<all>\d+) workers")
QUEUE_AGE_S: Final = 30.0
"""A queue that has waited so long is not being worked on."""


class Check(msgspec.Struct, frozen=True):
    """One line of the report. `advice` is what to do, empty where all is well."""

    name: str
    state: State
    found: str
    advice: str = ""


def worst(checks: Sequence[Check]) -> State:
    states = {check.state for check in checks}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"


def postgres_version(number: int) -> Check:
    """`number` is server_version_num, 180003 for example."""
    found = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number // 10_000 < POSTGRES_MAJOR_MIN:
        return Check("postgres", "fail", found, f"use PostgreSQL {POSTGRES_MAJOR_MIN} or newer")
    return Check("postgres", "ok", found)


def migrations(outstanding: Sequence[str]) -> Check:
    if outstanding:
        return Check("migrations", "fail", f"not run: {', '.join(outstanding)}", "run: sundial migrate")
    return Check("migrations", "ok", "current")


def roles(missing: Sequence[str], user: str, member: bool) -> Check:
    if missing:
        return Check(
            "roles", "fail", f"missing: {', '.join(missing)}", "run: sundial migrate, as a user that may create roles"
        )
    if not member:
        return Check("roles", "warn", f"{user} is no member of sundial_console", f"GRANT sundial_console TO {user}")
    return Check("roles", "ok", f"{user} acts as sundial_console")


def redis_version(text: str) -> Check:
    major = int(text.partition(".")[0])
    if major < REDIS_MAJOR:
        return Check(
            "redis",
            "warn",
            f"Redis {text}",
            "production asks for Redis 7 or Valkey: settle must work when memory is full",
        )
    return Check("redis", "ok", f"Redis {text}")


def redis_memory(policy: str | None) -> Check:
    if policy is None:
        return Check("redis memory", "warn", "CONFIG GET is refused", "make sure that maxmemory-policy is noeviction")
    if policy != "noeviction":
        return Check(
            "redis memory",
            "fail",
            f"maxmemory-policy {policy}",
            "CONFIG SET maxmemory-policy noeviction: holds must not vanish",
        )
    return Check("redis memory", "ok", "maxmemory-policy noeviction")


def redis_persistence(appendonly: str | None) -> Check:
    if appendonly is None:
        return Check("redis persistence", "warn", "CONFIG GET is refused", "make sure that appendonly is yes")
    if appendonly != "yes":
        return Check(
            "redis persistence",
            "warn",
            f"appendonly {appendonly}",
            "CONFIG SET appendonly yes: else a restart closes admission for longer",
        )
    return Check("redis persistence", "ok", "appendonly yes")


def epochs(present: Sequence[bool]) -> Check:
    """One per shard: whether its projection is complete."""
    closed = [str(shard) for shard, there in enumerate(present) if not there]
    if closed:
        which = "all shards" if len(closed) == SHARDS else f"shards {', '.join(closed)}"
        return Check(
            "epochs", "fail", f"admission is closed for {which}", "start the meter: it rebuilds the projection"
        )
    return Check("epochs", "ok", f"all {SHARDS} shards admit calls")


def catalog(published: int | None) -> Check:
    if published is None:
        return Check("catalog", "fail", "no prices and plans in Redis", "start the meter: it publishes them")
    return Check("catalog", "ok", f"version {published} is published")


def clock(name: str, ahead_s: float) -> Check:
    """`ahead_s`: seconds by which another machine's clock is ahead of this one's."""
    found = f"differs by {abs(ahead_s):.1f} s"
    if abs(ahead_s) >= CLOCK_FAIL_S:
        return Check(f"{name} clock", "fail", found, "synchronise both (NTP): months and deadlines depend on it")
    if abs(ahead_s) >= CLOCK_WARN_S:
        return Check(f"{name} clock", "warn", found, "synchronise both clocks (NTP)")
    return Check(f"{name} clock", "ok", found)


def prices(version: int | None, source: str, created_at: datetime | None, now: datetime, installed: str) -> Check:
    """The newest imported price version; `installed` is the installed litellm's version, empty where there is none."""
    if version is None or created_at is None:
        return Check("prices", "fail", "there are none", "run: sundial price import")
    age = now - created_at
    found = f"version {version}, {source}, {age.days} days old"
    if installed and installed not in source:
        return Check("prices", "warn", f"{found}; litellm {installed} is installed", "run: sundial price import")
    if age > timedelta(days=PRICES_AGE_DAYS):
        return Check("prices", "warn", found, "update litellm, then run: sundial price import")
    return Check("prices", "ok", found)


def queue(name: str, length: int, oldest_s: float) -> Check:
    if length and oldest_s > QUEUE_AGE_S:
        return Check(
            name, "warn", f"{length} waiting, the oldest for {oldest_s:.0f} s", "see that a meter runs for its shard"
        )
    return Check(name, "ok", f"{length} waiting")


def dead_letters(count: int) -> Check:
    if count:
        return Check(
            "dead letters", "warn", f"{count} entries could not be booked", "see why: sundial dead-letter list"
        )
    return Check("dead letters", "ok", "none")


def upstream(url: str, status: int | None, models: int, trouble: str) -> Check:
    """`status` is that of GET /models; None where there was no answer, for the reason in `trouble`."""
    if status is None:
        return Check("upstream", "fail", f"{url}: {trouble}", "start LiteLLM, or correct SUNDIAL_UPSTREAM_URL")
    if status in (401, 403):
        return Check("upstream", "warn", f"{url} answers {status}", "set SUNDIAL_UPSTREAM_KEY to its key")
    if status != 200:
        return Check(
            "upstream",
            "fail",
            f"{url}/models answers {status}",
            "SUNDIAL_UPSTREAM_URL must end where /models follows, in /v1"
            + ("; SUNDIAL_UPSTREAM_KEY must be its key: LiteLLM says 400 to a wrong one" if status == 400 else ""),
        )
    return Check("upstream", "ok", f"{url} offers {models} models")


def program(name: str, url: str, status: int | None, trouble: str, said: str = "") -> Check:
    """A program's readiness, asked at its metrics port, which `said` so."""
    if status is None:
        return Check(
            name, "fail", f"{url}: {trouble}", f"start it (sundial {name}), or set SUNDIAL_{name.upper()}_METRICS_URL"
        )
    if status != 200:
        return Check(name, "warn", f"{url}/readyz answers {status}", "it is starting, draining or unfit: see its log")
    crew = _WORKERS.search(said)
    if crew and crew["there"] != crew["all"]:
        return Check(name, "warn", f"{crew[0]} at {url}", "one is starting, or keeps dying: see its log")
    return Check(name, "ok", f"ready at {url}" + (f", {crew[0]}" if crew else ""))
