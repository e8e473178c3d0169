"""The real programs on real servers: gateway and meter as processes of their own, driven from outside."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy.ports import free_port
from tests.harness import forked
from tests.harness.forked import ForkedProgram
from tests.harness.servers import Database

START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 30.0
POLL_S: Final = 0.02
ROOT: Final = Path(__file__).parents[2]
LAUNCH: Final = ROOT / "deploy" / "launch.py"


class ProgramError(AssertionError):
    """A program did not start, or a command failed; the text holds its output."""


class Program:
    """One `sundial …` process with a log file and a metrics port.

    It is forked from a process that has imported it. `fresh`, or a variable for the interpreter or the linker: it is
    started as users start it.
    """

    def __init__(
        self, name: str, environment: Mapping[str, str], metrics_port: int, log: Path, *, fresh: bool = False
    ) -> None:
        self.name = name
        self._environment = dict(environment)
        self._metrics_port = metrics_port
        self._log = log
        self.fresh = fresh
        self._process: subprocess.Popen[bytes] | ForkedProgram | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def launch(self, **more: str) -> None:
        """Start without waiting."""
        assert self._process is None, f"{self.name} runs already"
        environment = {**_plain(), **self._environment, **more}
        if not self.fresh and not any(name.startswith(("LD_", "PYTHON")) for name in {**self._environment, **more}):
            self._process = ForkedProgram([self.name], environment, ROOT, self._log)
            return
        die_with_us = ["-I", "-S", str(LAUNCH), "--die-with", str(os.getpid()), str(int(signal.SIGKILL)), "--"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *die_with_us, sys.executable, "-m", "sundial", self.name],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    async def start(self, **more: str) -> None:
        """Start and wait until it is ready."""
        self.launch(**more)
        await self.until_ready()

    async def until_ready(self, *, ready: bool = True) -> None:
        """Wait until /readyz says so, or, with `ready=False`, until it says otherwise."""
        until = time.monotonic() + START_S_MAX
        async with aiohttp.ClientSession() as client:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with client.get(self.url("/readyz"), timeout=aiohttp.ClientTimeout(total=2)) as answer:
                        if (answer.status == 200) is ready and self.alive:
                            return
                if not self.alive or time.monotonic() > until:
                    raise ProgramError(f"{self.name} did not become {'ready' if ready else 'unready'}:\n{self.output}")
                await asyncio.sleep(POLL_S)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._metrics_port}{path}"

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_S_MAX)
        self._process = None

    async def ended(self) -> int:
        """The exit code, once it ends."""
        assert self._process is not None
        code = await asyncio.to_thread(self._process.wait, STOP_S_MAX)
        self._process = None
        return code

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return await self.ended()
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramError(f"{self.name} did not end within {STOP_S_MAX} s:\n{self.output}") from None


class Stack:
    """Gateway and meter on given servers, and the command line beside them."""

    def __init__(
        self,
        home: Path,
        database: Database,
        *,
        redis_url: str,
        upstream_url: str,
        upstream_key: str,
        settings: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> None:
        gateway_port, gateway_metrics, meter_metrics = free_port(), free_port(), free_port()
        self.base_url = f"http://127.0.0.1:{gateway_port}/v1"
        self.database_url = database.url
        self.redis_url = redis_url
        self.environment = {
            "SUNDIAL_HOME": str(home),
            "SUNDIAL_DATABASE_URL": database.console_url,
            "SUNDIAL_REDIS_URL": redis_url,
            "SUNDIAL_UPSTREAM_URL": upstream_url,
            "SUNDIAL_UPSTREAM_KEY": upstream_key,
            "SUNDIAL_GATEWAY_PORT": str(gateway_port),
            "SUNDIAL_GATEWAY_METRICS_PORT": str(gateway_metrics),
            "SUNDIAL_METER_METRICS_PORT": str(meter_metrics),
            "SUNDIAL_GATEWAY_METRICS_URL": f"http://127.0.0.1:{gateway_metrics}",
            "SUNDIAL_METER_METRICS_URL": f"http://127.0.0.1:{meter_metrics}",
            "SUNDIAL_DRAIN_GRACE_S": "0",
            "SUNDIAL_LOG": "json",
            "SUNDIAL_DEFAULT_ALLOWANCE": "0",
            "SUNDIAL_CREDITS_URL": "https://creditos.example.com",
            **(settings or {}),
        }
        home.mkdir(parents=True, exist_ok=True)
        self.gateway = Program("gateway", self.environment, gateway_metrics, home / "gateway.log", fresh=fresh)
        as_meter = {**self.environment, "SUNDIAL_DATABASE_URL": database.meter_url}
        self.meter = Program("meter", as_meter, meter_metrics, home / "meter.log", fresh=fresh)

    async def start(self) -> None:
        """Meter first: the gateway becomes ready when keys and prices are there."""
        self.meter.launch()
        self.gateway.launch()
        await asyncio.gather(self.meter.until_ready(), self.gateway.until_ready())

    async def stop(self) -> None:
        try:
            await self.gateway.stop()
        finally:  # what stayed would take the entries of the next test's stream
            await self.meter.stop()

    async def sundial(self, *arguments: str, code: int = 0) -> Any:
        """Run `sundial … --json`; its parsed answer."""
        words = arguments.index("--") if "--" in arguments else len(arguments)
        asked = (*arguments[:words], "--json", *arguments[words:])
        ended, out, err = await forked.sundial(asked, {**_plain(), **self.environment})
        if ended != code:
            raise ProgramError(f"sundial {' '.join(arguments)}: exit {ended}\n{out}{err}")
        return json.loads(out)


def _plain() -> dict[str, str]:
    """The environment, less what would change the programs under test."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SUNDIAL_", "OPENAI_"))}
