"""Every test here may have a chain of its own; one that breaks a server starts servers of its own instead."""

from tests.harness.chain_fixtures import chain, scripted, upstream
from tests.harness.postgres_fixtures import own_chain, own_postgres, postgres_proxy, postgres_template
from tests.harness.redis_fixtures import own_redis, redis_chain, redis_proxy

__all__ = [
    "chain",
    "own_chain",
    "own_postgres",
    "own_redis",
    "postgres_proxy",
    "postgres_template",
    "redis_chain",
    "redis_proxy",
    "scripted",
    "upstream",
]
