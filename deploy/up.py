"""`sundial up`: the whole chain in the foreground, until Ctrl-C. The implementation of `make up`."""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy.chain import Chain
from deploy.child import PartFailedError
from deploy.embedded import BinaryMissingError, EmbeddedServerError
from deploy.ports import NoFreePortError, claim, free_port, port_is_free, trouble
from deploy.screen import Screen
from deploy.secrets_folder import Kept
from deploy.summary import summary
from deploy.surroundings import for_shells
from shared.settings import PORT_MAX, GatewaySettings, MeterSettings, SettingsError, UpSettings, load

FAILED: Final = 1
USAGE: Final = 2
PORTS: Final = (
    *("gateway_port", "gateway_metrics_port", "meter_metrics_port"),
    *("litellm_port", "demo_port", "postgres_port", "redis_port"),
)
UNPRIVILEGED_PORT_MIN: Final = 1_024


class BusyError(Exception):
    """Something that the chain needs for itself is in use; the text says what to do."""


async def run(settings: UpSettings, environment: Mapping[str, str], screen: Screen) -> int:
    """Start, watch, end. Returns the exit code: 0 after Ctrl-C or SIGTERM, 1 where a part failed."""
    kept = Kept(settings.home)
    chain = Chain(settings, environment, kept, screen)
    life = asyncio.create_task(_live(chain, settings, environment, kept, screen))
    _on_signals(life, chain)
    code = 0
    try:
        await life
    except asyncio.CancelledError:
        screen.say("")
    except (PartFailedError, EmbeddedServerError, BinaryMissingError, NoFreePortError) as error:
        screen.fail(str(error))
        code = FAILED
    finally:
        screen.relaying = True
        await chain.stop()
    screen.say("Everything has ended." if code == 0 else "Everything has been ended.", style="dim")
    return code


async def _live(chain: Chain, settings: UpSettings, environment: Mapping[str, str], kept: Kept, screen: Screen) -> None:
    try:
        with screen.progress("Sundial is starting"):
            addresses, demo_key, service_key = await chain.start()
        env = kept.write_env(for_shells(addresses, demo_key, service_key), wishes=environment)
        screen.show(summary(addresses, settings, env, demo_key, service_key, chain.parts))
        screen.relaying = True
        await chain.watch()
    except ExceptionGroup as faults:
        raise faults.exceptions[0] from None


def _on_signals(life: asyncio.Task[None], chain: Chain) -> None:
    """The first signal ends everything in order; a second one stops the waiting."""

    def end() -> None:
        if life.done() or life.cancelling():
            chain.forced.set()
        life.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)


def main() -> int:
    """Run with the settings of the environment. Returns 0; leaves by SystemExit with any other exit code."""
    screen = Screen()
    try:
        home = Path(os.environ.get("SUNDIAL_HOME") or ".sundial")
        environment = Kept(home).without_ours(os.environ)
        with _only_values(environment):
            settings = _settings()
        with _alone(settings.home):
            _check_ports(settings)
            code = asyncio.run(run(settings, environment, screen))
    except (SettingsError, BusyError) as error:
        screen.fail(str(error))
        code = USAGE
    if code:
        sys.exit(code)
    return code


@contextlib.contextmanager
def _only_values(environment: Mapping[str, str]) -> Iterator[None]:
    """Settings are read from os.environ: while open, it holds this environment alone."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _settings() -> UpSettings:
    """Raises SettingsError with the mistakes of `up`, gateway and meter together."""
    mistakes: dict[str, None] = {}
    settings = None
    placeholders = {
        "redis_url": "redis://127.0.0.1",
        "database_url": "postgresql://127.0.0.1",
        "upstream_url": "http://127.0.0.1",
    }
    try:
        settings = load(UpSettings)
    except SettingsError as error:
        mistakes |= dict.fromkeys(str(error).splitlines())
    for cls in (GatewaySettings, MeterSettings):
        try:
            load(cls, **placeholders)
        except SettingsError as error:
            mistakes |= dict.fromkeys(str(error).splitlines())
    if mistakes or settings is None:
        raise SettingsError("\n".join(mistakes))
    return settings


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `sundial up` per home. Raises BusyError."""
    lock = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise BusyError(
                f"Sundial runs on {home} already, as process {other}. End it with Ctrl-C where it was started, or "
                "choose another folder and other ports: SUNDIAL_HOME=… SUNDIAL_GATEWAY_PORT=… make up"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def _check_ports(settings: UpSettings) -> None:
    """Raises BusyError naming each setting whose port cannot be had, and one command with ports that can."""
    ports = {name: port for name in PORTS if (port := getattr(settings, name))}
    chosen, lines = dict(ports), []
    for name, port in ports.items():
        first = next(other for other in ports if ports[other] == port)
        why = f"is {_variable(first)} too" if first != name else trouble(port)
        if not why and not claim(port, name):
            why = "is in use by another Sundial"
        if why:
            chosen[name] = _instead_of(port, name, {*ports.values(), *chosen.values()})
            lines.append(f"{_variable(name)}: port {port} {why}")
    if lines:
        usual = UpSettings.model_fields
        words = [f"{_variable(name)}={port}" for name, port in chosen.items() if port != usual[name].default]
        raise BusyError("\n".join([*lines, f"End what is there, or choose other ports: {' '.join(words)} make up"]))


def _variable(name: str) -> str:
    return f"SUNDIAL_{name.upper()}"


def _instead_of(port: int, name: str, taken: set[int]) -> int:
    """The next port above that is free, and of no other setting."""
    for candidate in range(max(port + 1, UNPRIVILEGED_PORT_MIN), PORT_MAX + 1):
        if candidate not in taken and port_is_free(candidate) and claim(candidate, name):
            return candidate
    return free_port()
