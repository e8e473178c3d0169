"""The plan that permits is the account's, whatever its key's says, and whatever it was before."""

from typing import Any

from redis import asyncio as aioredis

from shared import ids, redis_keys
from tests.harness.chain import Chain
from tests.harness.waiting import until

MESSAGES: Any = [{"role": "user", "content": "Oi"}]
SMALL, LARGE = ({"model": name, "messages": MESSAGES, "max_tokens": 5} for name in ("gpt-4o-mini", "gpt-4o"))
USER = "X-Sundial-User-Id"


async def listed(chain: Chain, secret: str, user: str) -> set[str]:
    async with chain.session(secret) as session, session.get("/v1/models", headers={USER: user}) as answer:
        return {entry["id"] for entry in (await answer.json())["data"]} & {"gpt-4o-mini", "gpt-4o"}


async def moved(chain: Chain, user: str, plan: str) -> None:
    """The account's plan, and Redis has been told."""
    await chain.stack.sundial("account", "plan", user, plan)
    account = ids.account_id(ids.directory_id("librechat"), user)
    redis: Any = aioredis.Redis.from_url(chain.stack.redis_url)

    async def told() -> bool:
        return bool(await redis.hget(redis_keys.account(ids.shard_of(account), account), "plan") == plan.encode())

    await until(told)
    await redis.aclose()


async def test_an_accounts_plan_permits_and_refuses_from_the_moment_on(chain: Chain) -> None:
    """Wider than the key's: the first call runs, and the list has the model. Narrower again, and back at the key's: at
    once, too, without a call that was permitted in between."""
    secret = await chain.service()
    await chain.stack.sundial("plan", "set", "default", "--allowance", "1000000", "--model", "gpt-4o-mini")
    await chain.stack.sundial("plan", "set", "vip", "--card", "tokens@1", "--allowance", "0", "--all-models")
    for user in ("ana", "bob"):
        await chain.stack.sundial("account", "create", user)
    bob = {USER: "bob"}
    assert (await chain.post(secret, SMALL, bob))[0] == 200

    async def refused() -> bool:
        status, _, answer = await chain.post(secret, LARGE, bob)
        return status == 403 and answer["error"]["code"] == "model_not_allowed"

    await until(refused)  # once the catalog is there
    await moved(chain, "bob", "vip")
    assert await listed(chain, secret, "bob") == {"gpt-4o-mini", "gpt-4o"}
    assert (await chain.post(secret, LARGE, bob))[0] == 200
    assert (await chain.post(secret, LARGE, {USER: "ana"}))[0] == 403
    await moved(chain, "bob", "default")
    assert (await chain.post(secret, LARGE, bob))[0] == 403
    assert await listed(chain, secret, "bob") == {"gpt-4o-mini"}

    await chain.stack.sundial(
        "plan", "set", "small", "--card", "tokens@1", "--allowance", "5", "--model", "gpt-4o-mini"
    )
    await chain.stack.sundial("plan", "set", "default", "--all-models")
    await moved(chain, "bob", "small")
    await until(refused)
    await moved(chain, "bob", "default")
    assert (await chain.post(secret, LARGE, bob))[0] == 200
