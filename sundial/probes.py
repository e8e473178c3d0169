"""What `sundial doctor` asks of every part; each probe ends within a few seconds, whatever it meets."""

import asyncio
import importlib.metadata
import json
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from shared import redis_keys
from shared.ids import SHARDS
from shared.settings import CommandSettings
from sundial import checks, database, projection
from sundial.checks import Check
from sundial.problems import UnreachableError

TIMEOUT_S: Final = 5.0
ROLES: Final = ("sundial_meter", "sundial_console", "sundial_reader")


async def all_checks(settings: CommandSettings) -> list[Check]:
    """Every part at once, reported in the order in which a call meets them."""
    parts = await asyncio.gather(
        postgres(settings.database_url),
        redis(settings.redis_url),
        upstream(settings.upstream_url, settings.upstream_key),
        program("gateway", settings.gateway_metrics_url),
        program("meter", settings.meter_metrics_url),
    )
    return [check for part in parts for check in part]


async def postgres(url: str) -> list[Check]:
    from meter import migrate

    found: list[Check] = []
    sql = database.statements()
    try:
        async with database.connect(url) as db:
            facts = await db.fetchrow(sql["server_facts"])
            found.append(checks.postgres_version(facts["version"]))
            found.append(checks.clock("postgres", (facts["now"] - datetime.now(UTC)).total_seconds()))
            try:
                outstanding = await migrate.outstanding(db)
            except migrate.MigrationError as error:
                return [*found, Check("migrations", "fail", str(error), "see the migration files of this release")]
            found.append(checks.migrations(outstanding))
            if outstanding:
                return found
            known = {row["rolname"] for row in await db.fetch(sql["known_roles"], list(ROLES))}
            member = bool(await db.fetchval(sql["is_member"], database.ROLE))
            found.append(checks.roles([role for role in ROLES if role not in known], facts["login"], member))
            found.append(await _prices(db))
            for name in ("order", "projection"):
                backlog = await db.fetchrow(sql[f"{name}_backlog"])
                found.append(checks.queue(f"{name} queue", backlog["length"], backlog["oldest_s"]))
            found.append(checks.dead_letters(await db.fetchval(sql["dead_letter_count"])))
    except UnreachableError as error:
        found.append(Check("postgres", "fail", str(error)))
    return found


async def _prices(db: Any) -> Check:
    newest = await db.fetchrow(database.statements()["newest_import"])
    try:
        installed = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    if newest is None:
        return checks.prices(None, "", None, datetime.now(UTC), installed)
    return checks.prices(newest["price_version"], newest["source"], newest["created_at"], datetime.now(UTC), installed)


async def redis(url: str) -> list[Check]:
    try:
        async with projection.connect(url) as client:
            seconds, microseconds = await client.time()
            ahead_s = seconds + microseconds / 1e6 - datetime.now(UTC).timestamp()
            present = [bool(await client.exists(redis_keys.epoch(shard))) for shard in range(SHARDS)]
            published = await client.get(redis_keys.CATALOG_VERSION)
            return [
                checks.redis_version((await client.info("server"))["redis_version"]),
                checks.redis_memory(await _config(client, "maxmemory-policy")),
                checks.redis_persistence(await _config(client, "appendonly")),
                checks.clock("redis", ahead_s),
                checks.epochs(present),
                checks.catalog(int(published) if published else None),
            ]
    except UnreachableError as error:
        return [Check("redis", "fail", str(error))]


async def _config(client: Any, name: str) -> str | None:
    """A setting of Redis; None where the server does not tell, as managed ones do."""
    from redis import ResponseError

    try:
        answer = await client.config_get(name)
    except ResponseError:
        return None
    value: str | None = answer.get(name)
    return value


async def upstream(url: str, key: str) -> list[Check]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    status, body, trouble = await _get(f"{url}/models", headers)
    try:
        models = len(json.loads(body)["data"]) if status == 200 else 0
    except (ValueError, KeyError, TypeError):
        return [Check("upstream", "fail", f"{url}/models is no list of models", "correct SUNDIAL_UPSTREAM_URL")]
    return [checks.upstream(url, status, models, trouble)]


async def program(name: str, url: str) -> list[Check]:
    status, body, trouble = await _get(f"{url}/readyz", {})
    return [checks.program(name, url, status, trouble, body.decode(errors="replace"))]


async def _get(url: str, headers: dict[str, str]) -> tuple[int | None, bytes, str]:
    """Status and body, or no status and the reason."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, await answer.read(), ""
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return None, b"", database.reason(error)
