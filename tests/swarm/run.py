"""The swarm: clients call in closed loops while everything breaks; healed, the books say exactly the truth."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from deploy.embedded import EmbeddedRedis
from meter.audit_journal import audit_journals
from sundial.journals import Journals
from tests.harness.books import assert_books, until_quiet
from tests.harness.chain import Chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.own_postgres import OwnPostgres
from tests.harness.own_postgres import running as running_postgres
from tests.harness.postgres_proxy import PostgresProxy
from tests.harness.proxy import Proxy
from tests.harness.redis_versions import programs
from tests.harness.redis_versions import running as running_redis
from tests.harness.stack import Program, Stack
from tests.harness.waiting import until
from tests.swarm.crowd import Client, Crowd, Player
from tests.swarm.faults import Faults, Parts
from tests.swarm.plan import Step, plan
from tests.swarm.truth import Truth, books, must_be_booked

RICH: Final = ("ana", "bia", "caio")
"""Users with keys of their own, who never run out."""
POOR: Final = "eva"
"""Has the allowance alone, and runs out under way."""
NAMED: Final = ("u1", "u2", "u3", "u4")
"""Users whom a service key names, ever new ones: their accounts and allowances come amid the faults."""
RICH_CREDITS: Final = 1_000_000
ALLOWANCE_CREDITS: Final = 4_000
CLIENTS: Final = 12
PAYMENT_REQUIRED: Final = 402
HEAL_S_MAX: Final = 90.0
"""From when all is healed until calls succeed, and then until all is booked: generous, machines are slow and shared."""
SETTINGS: Final = {
    "SUNDIAL_DEFAULT_ALLOWANCE": str(ALLOWANCE_CREDITS),
    "SUNDIAL_HOLD_TTL_S": "6",
    "SUNDIAL_DRAIN_S": "2",
    "SUNDIAL_FIRST_BYTE_TIMEOUT_S": "4",
    "SUNDIAL_IDLE_TIMEOUT_S": "4",
}


class SwarmError(AssertionError):
    """The swarm found something; the text says how to find it again."""


class Outcome(NamedTuple):
    """What a run was like, for people."""

    calls: int
    whole: int
    served: int
    booked: int
    late: int
    faults: int
    counts: dict[str, int]


class _Swarm(NamedTuple):
    chain: Chain
    parts: Parts
    redis_url: str
    """Redis itself, not by way of the proxy."""
    home: Path
    """The gateway's."""


async def swarm(seed: int, seconds: float, home: Path, postgres_template: Path) -> Outcome:
    """One run. Raises SwarmError with seed, plan and log where anything is wrong."""
    steps = plan(seed, seconds)
    async with _running(seed, home, postgres_template) as running:
        faults = Faults(running.parts, seed)
        try:
            return await _run(running, faults, seed, seconds, steps)
        except Exception as error:
            told = "\n".join([f"seed {seed}, {seconds:g} s: {_reason(error)}", "the faults:", *faults.log])
            raise SwarmError(told) from error
        finally:
            running.parts.redis.kill()
            running.parts.postgres.kill()
            faults.close()


async def _run(running: _Swarm, faults: Faults, seed: int, seconds: float, steps: list[Step]) -> Outcome:
    chain, parts = running.chain, running.parts
    clients = await _users(chain)
    chain.upstream.script = Player(seed)
    crowd = Crowd(chain, [clients[number % len(clients)] for number in range(CLIENTS)], seed)
    calling = asyncio.create_task(crowd.run())
    try:
        await faults.play(steps, seconds)
    finally:
        crowd.stop()
        await calling
    faults.note(f"all is healed: {dict(crowd.counts)}")
    for program in (parts.meter, parts.gateway):
        await _ready(program)
    faults.note("both are ready")
    by_name = {client.user: client for client in clients}
    for user in sorted({one.user for one in crowd.seen} | by_name.keys()):
        # Everybody, also who never had an answer: where Redis forgot a newcomer before the meter knew of it, only its
        # next call brings the allowance.
        await _answered(chain, crowd, by_name[user.partition(".")[0]], user)
    seen = crowd.seen
    faults.note("calls succeed")
    truth = Truth(seen, chain.upstream.served, _granted, faults.bad_ways, _journaled(running.home))
    contradictions: list[str] = []

    async def true() -> bool:
        await until_quiet(running.redis_url, 1)
        found = await books(chain.stack.database_url)
        contradictions[:] = truth.contradictions(found)
        return not contradictions

    with contextlib.suppress(AssertionError):
        await until(true, HEAL_S_MAX)
    assert not contradictions, "\n".join(["the books differ from the truth:", *contradictions])
    await assert_books(chain.stack.database_url, running.redis_url)
    calls = Journals(running.home).pages()
    wrong = (await audit_journals(chain.stack.database_url, running.redis_url, calls, quiet=True)).violations
    assert not wrong, "\n".join(["the journals say something else:", *map(str, wrong)])
    twice = [one for one in chain.upstream.surprises if not one.endswith("came twice")]
    assert not twice, twice
    faults.note("the books are true")
    events = (await books(chain.stack.database_url)).events
    return Outcome(
        calls=len(seen),
        whole=len(must_be_booked(seen)),
        served=len(chain.upstream.served),
        booked=len(events),
        late=sum(event["late"] for event in events),
        faults=faults.done,
        counts=dict(crowd.counts),
    )


async def _users(chain: Chain) -> list[Client]:
    clients = [Client(user, await chain.personal(user, credit=str(RICH_CREDITS)), named=False) for user in RICH]
    clients.append(Client(POOR, await chain.personal(POOR, credit="0"), named=False))
    service = await chain.service()
    return clients + [Client(user, service, named=True) for user in NAMED]


def _journaled(home: Path) -> set[UUID]:
    """Calls that stand as used in the gateway's journals."""
    return {call.event_id for page in Journals(home).pages() for call in page if call.word == "settled"}


async def _ready(program: Program) -> None:
    """Wait for it for longer than one start may take: much has to heal."""
    end = asyncio.get_running_loop().time() + HEAL_S_MAX
    while True:
        try:
            return await program.until_ready()
        except AssertionError:
            if not program.alive or asyncio.get_running_loop().time() > end:
                raise


async def _answered(chain: Chain, crowd: Crowd, client: Client, user: str) -> None:
    """Until a call of this user's comes to its end, or is refused because its credit has."""
    chance = random.Random(1)
    async with chain.session(client.secret) as session:

        async def answered() -> bool:
            seen = await crowd.call(session, client, user, chance)
            crowd.seen.append(seen)
            return seen.how == "whole" or seen.status == PAYMENT_REQUIRED

        await until(answered, HEAL_S_MAX, f"a call of {user} is answered")


def _granted(user: str) -> int:
    """Millicredits that this user has been given."""
    return 1000 * (ALLOWANCE_CREDITS + (RICH_CREDITS if user in RICH else 0))


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


@contextlib.asynccontextmanager
async def _running(seed: int, home: Path, template: Path) -> AsyncIterator[_Swarm]:
    versions = sorted(programs())
    async with contextlib.AsyncExitStack() as stack:
        redis: EmbeddedRedis = stack.enter_context(running_redis(versions[seed % len(versions)], home / "redis"))
        postgres: OwnPostgres = stack.enter_context(running_postgres(template, home / "postgres"))
        upstream = await stack.enter_async_context(FakeUpstream().listening())
        upstream_port = int(upstream.url.rpartition(":")[2].partition("/")[0])
        to_upstream = await stack.enter_async_context(Proxy(upstream_port, seed).listening())
        to_redis = await stack.enter_async_context(Proxy(redis.port, seed).listening())
        to_postgres = await stack.enter_async_context(PostgresProxy(postgres.port).listening())
        programs_ = Stack(
            home / "home",
            postgres.addresses(to_postgres.port),
            redis_url=redis.url().replace(f":{redis.port}/", f":{to_redis.port}/"),
            upstream_url=upstream.url.replace(f":{upstream_port}/", f":{to_upstream.port}/"),
            upstream_key=upstream.key,
            settings=SETTINGS,
        )
        parts = Parts(programs_.gateway, programs_.meter, redis, postgres, to_upstream, to_redis, to_postgres)
        try:
            await programs_.start()
            yield _Swarm(Chain(programs_, upstream), parts, redis.url(), home / "home")
        finally:
            for program in (programs_.gateway, programs_.meter):
                if program.alive:
                    program.kill()
