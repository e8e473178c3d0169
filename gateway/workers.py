"""Several gateway processes on one port: this one starts them, starts a dead one again, and ends them in order.

Each worker is a whole gateway with a journal of its own; the kernel deals connections out among those that listen
(SO_REUSEPORT). The parent touches no call. When a worker dies its calls are cut, the others' go on, and its successor
takes over its journal, which books what it had begun (gateway.replay).

How a worker's end is met:
  told to stop, all are                → the parent ends when the last has, with 0 where each of them did
  before any of them has ever served   → something is wrong with all: the parent ends, and says so by its exit code
  else                                 → started again, at once where it had lasted, later where it keeps dying
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from gateway import metrics, workers_health
from gateway.lists import lists
from gateway.workers_health import Health
from shared import logs
from shared.settings import GatewaySettings

RESTART_S_MIN: Final = 0.1
"""Seconds between the end of a worker and its next start; twice as many each time that it did not last."""
RESTART_S_MAX: Final = 10.0
LASTED_S_MIN: Final = 30.0
"""Seconds after which a worker has lasted: its end is the first again."""
POLL_S: Final = 0.05
"""Seconds between two looks whether a worker that starts is there."""
STOP_S_MAX: Final = 30.0
"""Seconds beyond grace and drain that a worker has to end; then it is killed, and the next start books its calls."""
FAULT: Final = 4
"""Exit code where not all ended in order, as the command `sundial` has it for an unexpected fault."""

log = structlog.get_logger()


def run(settings: GatewaySettings) -> int:
    """Run until SIGTERM or SIGINT, then let all workers drain; further signals are passed on. Returns the exit code.

    Raises SettingsError, and OSError where the port is taken.
    """
    logs.configure(settings.log, settings.log_level, "gateway")
    lists(settings)  # a mistake is better said once, here
    with reserved(settings.gateway_host, settings.gateway_port) as port, tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(settings, port, Path(folder)))


async def _run(settings: GatewaySettings, port: socket.socket, folder: Path) -> int:
    crew = Crew(settings, port, folder)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, crew.stop)
    async with workers_health.served(settings, [worker.health for worker in crew.workers]):
        log.info("gateway_workers", workers=len(crew.workers))
        return await crew.run()


class Crew:
    """All workers."""

    def __init__(self, settings: GatewaySettings, port: socket.socket, folder: Path) -> None:
        environment = {**os.environ, "SUNDIAL_GATEWAY_PORT": str(port.getsockname()[1])}
        numbers = range(1, settings.gateway_workers + 1)
        self.workers = [Worker(number, folder / f"{number}.sock", environment) for number in numbers]
        self._port = port
        self._stop_s_max = settings.drain_grace_s + settings.drain_s + STOP_S_MAX
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Tell all to end, once more each time that we are told."""
        self._stopping.set()
        self._port.close()  # a successor may have it as soon as the workers have let go
        for worker in self.workers:
            worker.stop()

    async def run(self) -> int:
        """Until all have ended; the exit code."""
        watching = [asyncio.create_task(self._until_served()), asyncio.create_task(self._kill_late())]
        codes = await asyncio.gather(*(self._keep(worker) for worker in self.workers))
        for task in watching:
            task.cancel()
        return FAULT if any(codes) else 0

    async def _keep(self, worker: "Worker") -> int:
        """Until it has ended and is not to be started again; 0 where it ended in order."""
        pause_s = RESTART_S_MIN
        while not self._stopping.is_set():
            code, lasted_s = await worker.run()
            if self._stopping.is_set():
                log.info("worker_stopped", worker=worker.number, code=code)
                return 0 if code == -signal.SIGTERM else code  # by the signal itself: it had not begun
            metrics.WORKER_ENDS.inc()
            log.error("worker_ended", worker=worker.number, code=code, after_s=round(lasted_s, 1))
            if not any(each.health.came_up for each in self.workers):
                self.stop()
                return code or FAULT
            pause_s = RESTART_S_MIN if lasted_s >= LASTED_S_MIN else min(pause_s * 2, RESTART_S_MAX)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
        return 0

    async def _until_served(self) -> None:
        """Asks until one of them answers: from then on an end is that worker's own."""
        while not any([(await worker.health.said()).listens for worker in self.workers]):  # noqa: ASYNC110 (processes)
            await asyncio.sleep(POLL_S)

    async def _kill_late(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._stop_s_max)
        log.error("workers_killed", after_s=self._stop_s_max)
        for worker in self.workers:
            worker.kill()


class Worker:
    """One place in the crew: a process, and after its end the next one."""

    def __init__(self, number: int, health_socket: Path, environment: dict[str, str]) -> None:
        self.number = number
        self.health = Health(health_socket)
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._told = False

    def stop(self) -> None:
        self._told = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def run(self) -> tuple[int, float]:
        """One process from its start to its end: its exit code, and the seconds that it lasted."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            self._process = await self._start()
        except OSError as error:
            log.error("worker_not_started", worker=self.number, error=str(error))  # noqa: TRY400
            return FAULT, 0.0
        if self._told:
            self.stop()  # we were, while it was being started
        self.health.begin()
        code = await self._process.wait()
        self.health.end()
        return code, loop.time() - began_s

    async def _start(self) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C reaches the parent alone, and no worker is told twice.
        self.health.socket.unlink(missing_ok=True)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway.worker"),
            *(str(self.number), str(self.health.socket), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that keeps the port for us and our workers until it is closed; port 0: any free one.

    Raises OSError where another program has it.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as held:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)  # and never listens: no connection is dealt to it
        yield held
