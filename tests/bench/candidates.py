"""The candidates: what stands between the client and the upstream, each started as its users run it."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from redis import asyncio as aioredis

from deploy.ports import free_port
from shared import redis_keys
from shared.ids import SHARDS
from tests.bench import processes
from tests.bench.build import tool
from tests.harness.servers import Servers
from tests.harness.stack import ROOT, Stack
from tests.harness.waiting import until

START_S_MAX: Final = 600.0
SETTLED_S_MAX: Final = 120.0
PORTKEY: Final = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    # With a later server, which it takes by its range, Portkey answers every stream with 500 (`TypeError: immutable`).
    "overrides": {"@hono/node-server": "1.13.8"},
}
_CREDIT: Final = "1000000000"

_NGINX: Final = """
daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log crit;
events {{ worker_connections 16384; }}
http {{
    access_log off; client_max_body_size 64m; keepalive_requests 1000000000;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
    uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    upstream bench {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        location / {{
            {target} proxy_buffering off;
        }}
    }}
}}
"""

_POOLED: Final = 'proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection "";'
_UNPOOLED: Final = "proxy_pass http://127.0.0.1:{upstream};"


class Candidate:
    """Something that answers POST on `port` at `path`. `parts`: process ids by part."""

    path = "/v1/chat/completions"
    key = "sk-bench"
    headers = ""
    compares = ""
    """The part whose cost is compared; empty for none."""
    faultless = False
    """One wrong answer ends the run."""
    slow = False
    """Makes fewer calls, in the scenarios that are meant for it too."""

    def __init__(self, name: str, home: Path, upstream_port: int) -> None:
        self.name = name
        self.home = home
        self.upstream_port = upstream_port
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)

    def launch(self) -> None:
        """Start what must be started in the main thread, with which it dies."""

    async def start(self) -> None:
        """Start the rest, and wait until a call is answered."""
        await self._until_answered()

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)

    async def settle(self) -> None:
        """Wait until all that the calls so far have caused is done."""

    def parts(self) -> dict[str, list[int]]:
        return {self.compares: processes.tree(self._process.pid)} if self._process is not None else {}

    def _run(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        log = (self.home / "log").open("wb")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home, env=environment
        )

    async def _until_answered(self) -> None:
        lines = [line.split(": ", 1) for line in self.headers.split("\r\n") if line]
        headers = {"Authorization": f"Bearer {self.key}", **dict(lines)}
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "bench chunks=0 gap_us=0."}]}
        async with aiohttp.ClientSession(headers=headers) as client:

            async def answered() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.post(f"http://127.0.0.1:{self.port}{self.path}", json=body) as answer:
                        return answer.status == 200
                return False

            await until(answered, START_S_MAX, f"{self.name} answers; its files are in {self.home}")


class Direct(Candidate):
    """Nothing between: what the client and the upstream themselves take."""

    faultless = True

    def __init__(self, home: Path, upstream_port: int) -> None:
        super().__init__("direct", home, upstream_port)
        self.port = upstream_port


class Nginx(Candidate):
    """`pooled`: it keeps its connections to the upstream, as Sundial and Go do; by itself nginx opens one per call."""

    compares = "nginx"

    def __init__(self, home: Path, upstream_port: int, *, pooled: bool = True) -> None:
        super().__init__("nginx" if pooled else "nginx, no pool", home, upstream_port)
        self._pooled = pooled

    def launch(self) -> None:
        config = self.home / "nginx.conf"
        target = _POOLED if self._pooled else _UNPOOLED.format(upstream=self.upstream_port)
        text = _NGINX.format(home=self.home, port=self.port, upstream=self.upstream_port, target=target)
        config.write_text(text, encoding="utf-8")
        self._run([tool("nginx", "nginx-light"), "-c", str(config), "-e", str(self.home / "error.log")])


class GoProxy(Candidate):
    """`pooled`: as with nginx; by itself it keeps two idle connections to the upstream."""

    compares = "go"

    def __init__(self, home: Path, upstream_port: int, program: Path, *, pooled: bool = True) -> None:
        super().__init__("Go ReverseProxy" if pooled else "Go, no pool", home, upstream_port)
        self._program = program
        self._pooled = pooled

    def launch(self) -> None:
        addresses = [f"127.0.0.1:{self.port}", f"http://127.0.0.1:{self.upstream_port}"]
        self._run([str(self._program), *addresses, *(["pooled"] if self._pooled else [])])


class Sundial(Candidate):
    """Gateway and meter with everything switched on, and servers that keep what they are told: fsync on, an
    append-only file each second."""

    compares = "gateway"
    faultless = True

    def __init__(
        self, home: Path, upstream_port: int, workers: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("Sundial" if workers == 1 else f"Sundial, {workers} workers", home, upstream_port)
        self._settings = {"SUNDIAL_GATEWAY_WORKERS": str(workers), **(settings or {})}
        self._servers = Servers(home / "servers", postgres_settings={"max_connections": "200"})
        self._stack: Stack | None = None

    def launch(self) -> None:
        self._servers.start()

    async def start(self) -> None:
        self._stack = Stack(
            self.home / "home",
            self._servers.create_database(),
            redis_url=self._servers.redis.url(),
            upstream_url=f"http://127.0.0.1:{self.upstream_port}/v1",
            upstream_key="sk-upstream",
            settings=self._settings,
            fresh=True,
        )
        self.port = int(self._stack.environment["SUNDIAL_GATEWAY_PORT"])
        await self._stack.start()
        self.key = (await self._stack.sundial("key", "create", "--personal", "bench"))["secret"]
        await self._stack.sundial("grant", "bench", _CREDIT)
        await self._until_answered()

    async def stop(self) -> None:
        if self._stack is not None:
            await self._stack.stop()
        self._servers.stop()

    async def settle(self) -> None:
        """Until every call is booked and its entry trimmed."""
        client = aioredis.from_url(self._servers.redis.url())
        streams = [redis_keys.usage_stream(shard) for shard in range(SHARDS)]

        async def booked() -> bool:
            pipeline = client.pipeline(transaction=False)
            for stream in streams:
                pipeline.xlen(stream)
            for shard in range(SHARDS):
                pipeline.zcard(redis_keys.deadlines(shard))
            return not any(await pipeline.execute())

        try:
            await until(booked, SETTLED_S_MAX, "all calls are booked")
        finally:
            await client.aclose()

    def parts(self) -> dict[str, list[int]]:
        assert self._stack is not None
        return {
            "gateway": processes.tree(self._stack.gateway.pid),
            "redis": processes.tree(self._servers.redis.pid),
            "meter": processes.tree(self._stack.meter.pid),
            "postgres": processes.tree(self._servers.postgres.pid),
        }


class LiteLLM(Candidate):
    """LiteLLM's proxy with one worker, from `.venv-litellm`, without a database."""

    compares = "litellm"
    slow = True

    def __init__(self, home: Path, upstream_port: int) -> None:
        super().__init__("LiteLLM proxy", home, upstream_port)

    def launch(self) -> None:
        config = self.home / "config.yaml"
        config.write_text(
            "model_list:\n- model_name: gpt-4o-mini\n  litellm_params:\n    model: openai/gpt-4o-mini\n"
            f"    api_base: http://127.0.0.1:{self.upstream_port}/v1\n    api_key: sk-upstream\n",
            encoding="utf-8",
        )
        environment = {**os.environ, "LITELLM_MASTER_KEY": self.key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [str(ROOT / ".venv-litellm" / "bin" / "litellm"), "--config", str(config), "--telemetry", "False"]
        self._run([*command, "--host", "127.0.0.1", "--port", str(self.port)], environment)


class Portkey(Candidate):
    """Portkey's open gateway, from npm."""

    compares = "portkey"
    slow = True

    def __init__(self, home: Path, upstream_port: int) -> None:
        super().__init__("Portkey", home, upstream_port)
        self.headers = f"x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1\r\n"

    def launch(self) -> None:
        (self.home / "package.json").write_text(json.dumps(PORTKEY), encoding="utf-8")
        install = [tool("npm", "npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps"]
        subprocess.run(install, cwd=self.home, check=True, capture_output=True)
        script = self.home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        command = [tool("node", "nodejs"), str(script), f"--port={self.port}", "--headless"]
        self._run(command, {**os.environ, "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"})
