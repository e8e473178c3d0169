"""The whole chain on one machine: which parts, in which order they start, are watched and end."""

import asyncio
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from deploy import demo_keys, surroundings
from deploy.child import Child, PartFailedError
from deploy.embedded import EmbeddedPostgres, EmbeddedRedis
from deploy.ports import free_port
from deploy.screen import Screen
from deploy.secrets_folder import Kept
from deploy.server_process import ServerProcess
from deploy.surroundings import Addresses
from shared.settings import UpSettings

LITELLM_START_S: Final = 180.0
"""Seconds for LiteLLM to answer: it takes ten where nothing else runs."""
LITELLM_PORT_USUAL: Final = 4000
DEMO_PORT_USUAL: Final = 4010
RESTART_WAIT_S: Final = 0.5
RESTART_WAIT_S_MAX: Final = 10.0
STEADY_S: Final = 60.0
"""A part that has run for so long starts with the shortest wait again."""
WATCH_S: Final = 0.25

T = TypeVar("T")

_ROOT: Final = Path(__file__).resolve().parent.parent
_LITELLM: Final = _ROOT / ".venv-litellm" / "bin" / "litellm"
_CONFIGS: Final = Path(__file__).parent / "litellm"
_GROUP_ROLES: Final = {"meter": "sundial_meter", "console": "sundial_console"}


class Chain:
    """Start it once, watch it, stop it. `forced` ends the waiting for parts that take their time."""

    def __init__(self, settings: UpSettings, environment: Mapping[str, str], kept: Kept, screen: Screen) -> None:
        self.forced = asyncio.Event()
        self._settings = settings
        self._environment = environment
        self._kept = kept
        self._screen = screen
        self._home = settings.home.resolve()
        self._log = settings.log if settings.log != "auto" else ("pretty" if screen.is_terminal else "json")
        self._servers: dict[str, ServerProcess] = {}
        self._children: dict[str, Child] = {}

    @property
    def parts(self) -> dict[str, int]:
        """Process ids of what runs, by name."""
        running = {name: part.pid for name, part in (self._servers | self._children).items() if part.alive}
        return dict(sorted(running.items()))

    async def start(self) -> tuple[Addresses, str, str]:
        """Everything up to both demo keys; returns these with the addresses. Raises PartFailedError and
        EmbeddedServerError, alone or in a group; what was started is for `stop` to end."""
        upstream_url, upstream_key, waiting = await self._start_upstream()
        async with asyncio.TaskGroup() as tasks:
            addresses = self._serve(upstream_url, upstream_key)
            for title, part, port in waiting:
                tasks.create_task(self._ready(title, part, port))
            await self._migrate(addresses)
            await self._start_ours(addresses)
            await self._ready("Meter", self._children["meter"], addresses.meter_metrics_port)
            await self._ready("Gateway", self._children["gateway"], addresses.gateway_port)
            environment = surroundings.command(self._environment, "json", addresses)
            keys = await self._step("Demo keys", demo_keys.ensure(self._kept, addresses.gateway_url, environment))
        return addresses, *keys

    async def watch(self) -> None:
        """Until a part ends that the chain cannot do without: raises PartFailedError in a group, naming it. Gateway and
        meter are started again."""
        async with asyncio.TaskGroup() as tasks:
            for name, server in self._servers.items():
                tasks.create_task(self._watch_server(name, server))
            for child in self._children.values():
                tasks.create_task(self._keep(child) if child.lasting else self._watch_child(child))

    async def stop(self) -> None:
        """End all in the order of the flow, so that what one part still says is heard by the next."""
        for name in ("gateway", "meter", "litellm", "demo"):
            if (child := self._children.get(name)) and child.alive:
                self._screen.say(f"Ending {name} …", style="dim")
                await self._end(child)
        for name in ("redis", "postgres"):
            if (server := self._servers.get(name)) and server.alive:
                self._screen.say(f"Ending {name} …", style="dim")
                server.stop()

    async def _end(self, child: Child) -> None:
        ending = asyncio.create_task(child.stop())
        forcing = asyncio.create_task(self.forced.wait())
        await asyncio.wait((ending, forcing), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            child.kill()
        forcing.cancel()
        await ending

    async def _start_upstream(self) -> tuple[str, str, list[tuple[str, Child, int]]]:
        """Its URL, its key, and whom to wait for (title, part, port): LiteLLM takes longest and is needed last."""
        settings, kept = self._settings, self._kept
        if settings.upstream_url:
            return settings.upstream_url, settings.upstream_key, []
        if not _LITELLM.exists():
            raise PartFailedError(f"{_LITELLM} is missing. Run `make install`, or set SUNDIAL_UPSTREAM_URL.")
        waiting: list[tuple[str, Child, int]] = []
        demo_url, demo_key = "", kept.secret("demo-upstream-key")
        with_openai = bool(self._environment.get("OPENAI_API_KEY"))
        if not with_openai:
            port = kept.port("demo", settings.demo_port, DEMO_PORT_USUAL)
            demo_url = f"http://127.0.0.1:{port}/v1"
            demo = self._child(
                "demo",
                [sys.executable, "-m", "deploy.demo", "--port", str(port)],
                surroundings.demo(self._environment, self._log, demo_key),
                ready_url=f"http://127.0.0.1:{port}/livez",
            )
            await demo.start()
            waiting.append(("Demo model", demo, port))
        port = kept.port("litellm", settings.litellm_port, LITELLM_PORT_USUAL)
        master_key = f"sk-{kept.secret('litellm-master-key')}"
        config = _CONFIGS / ("openai.yaml" if with_openai else "config.yaml")
        litellm = self._child(
            "litellm",
            [
                *(str(_LITELLM), "--config", str(config), "--telemetry", "False"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            surroundings.litellm(self._environment, self._log, master_key, demo_url, demo_key),
            ready_url=f"http://127.0.0.1:{port}/health/liveliness",
        )
        litellm.start_timeout_s = LITELLM_START_S
        await litellm.start()
        waiting.append(("LiteLLM", litellm, port))
        return f"http://127.0.0.1:{port}/v1", master_key, waiting

    def _serve(self, upstream_url: str, upstream_key: str) -> Addresses:
        """Start the servers that were not given. They start in this thread, the main one, with which they die."""
        settings = self._settings
        owner = meter = console = settings.database_url or ""
        if not settings.database_url:
            postgres = EmbeddedPostgres(self._home / "postgres", port=settings.postgres_port, die_with_parent=True)
            self._start_server("postgres", "PostgreSQL", postgres)
            owner = postgres.url()
            meter = postgres.url("meter", password=self._kept.secret("meter-database-password"))
            console = postgres.url("console", password=self._kept.secret("console-database-password"))
        redis_url = settings.redis_url or ""
        if not settings.redis_url:
            redis = EmbeddedRedis(self._home / "redis", port=settings.redis_port, die_with_parent=True)
            self._start_server("redis", "Redis", redis)
            redis_url = redis.url()
        return Addresses(
            home=self._home,
            owner_database_url=owner,
            meter_database_url=meter,
            console_database_url=console,
            redis_url=redis_url,
            upstream_url=upstream_url,
            upstream_key=upstream_key,
            gateway_host=settings.gateway_host,
            gateway_port=settings.gateway_port or free_port(),
            gateway_metrics_port=settings.gateway_metrics_port or free_port(),
            meter_metrics_port=settings.meter_metrics_port or free_port(),
        )

    def _start_server(self, name: str, title: str, server: ServerProcess) -> None:
        self._servers[name] = server
        self._screen.begin(title)
        server.start()
        self._screen.done(title, f"port {server.port}")

    async def _migrate(self, addresses: Addresses) -> None:
        environment = surroundings.command(self._environment, self._log, addresses, as_owner=True)
        migrate = Child("migrate", [sys.executable, "-m", "sundial", "migrate"], environment, self._screen.line)
        await self._step("Migrations", migrate.run())
        postgres = self._servers.get("postgres")
        if isinstance(postgres, EmbeddedPostgres):
            for user, group in _GROUP_ROLES.items():
                postgres.ensure_user(user, self._kept.secret(f"{user}-database-password"), group)

    async def _start_ours(self, addresses: Addresses) -> None:
        for name, environment, port in (
            ("meter", surroundings.meter(self._environment, self._log, addresses), addresses.meter_metrics_port),
            ("gateway", surroundings.gateway(self._environment, self._log, addresses), addresses.gateway_metrics_port),
        ):
            child = self._child(
                name, [sys.executable, "-m", "sundial", name], environment, ready_url=f"http://127.0.0.1:{port}/readyz"
            )
            child.lasting = True
            child.stop_timeout_s = self._settings.drain_s + child.stop_timeout_s
            await child.start()

    def _child(self, name: str, command: list[str], environment: Mapping[str, str], *, ready_url: str) -> Child:
        child = Child(name, command, environment, self._screen.line)
        child.ready_url = ready_url
        self._children[name] = child
        return child

    async def _ready(self, title: str, part: Child, port: int) -> None:
        await self._step(title, part.ready(), port)

    async def _step(self, title: str, work: Awaitable[T], port: int = 0) -> T:
        self._screen.begin(title)
        result = await work
        self._screen.done(title, f"port {port}" if port else "")
        return result

    async def _watch_server(self, name: str, server: ServerProcess) -> None:
        while True:
            if not server.alive:
                raise PartFailedError(f"{name} ended. Its log, {server.log}, ends:\n{server.log_tail()}")
            await asyncio.sleep(WATCH_S)

    async def _watch_child(self, child: Child) -> None:
        await child.ended()
        raise PartFailedError(await child.explain_end())

    async def _keep(self, child: Child) -> None:
        """Start a part again whenever it ends, after a wait that doubles while it does not last."""
        loop = asyncio.get_running_loop()
        wait_s = RESTART_WAIT_S
        while True:
            began = loop.time()
            await child.ended()
            if loop.time() - began > STEADY_S:
                wait_s = RESTART_WAIT_S
            self._screen.fail(await child.explain_end())
            self._screen.say(f"{child.name} is started again in {wait_s:.1f} s", style="bold")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RESTART_WAIT_S_MAX)
            await child.start()
