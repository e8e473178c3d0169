"""Make `.venv` and `.venv-litellm` from the lock files. Standard library only: runs before anything is installed.

    python3 deploy/install.py

Every package is pinned with its hashes, so it does not matter which index it comes from: the ones that pip is
configured with are handed to uv. A stamp of the locks' digest makes the next run instant and needs no network.
"""
# ruff: noqa: T201 - it speaks to a person, and runs on Pythons that it has to refuse

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Command = list[str | Path]

OLDEST = (3, 11)
REDIS_WHEELS_UP_TO = (3, 12)
"""Newest Python that the wheel with redis-server is made for."""
LOG_TAIL_LINES = 25
"""Lines of the log that a failure repeats."""
RETRY_HINT = "Nothing is half done that matters: put it right and run the same command again."

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
VENV = ROOT / ".venv"
LITELLM = ROOT / ".venv-litellm"
PIP_TO_UV = {
    # pip's name: uv's variable
    "index-url": "UV_DEFAULT_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


class InstallError(Exception):
    """The installation cannot go on; the text says what to do."""


class Steps:
    """Shows what is being done: one living line per step on a terminal, plain lines elsewhere."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.log = ROOT / ".venv" / "install.log"

    def run(self, what: str, commands: list[Command], envs: list[dict[str, str]] | None = None) -> None:
        """Run commands one after the other, each in the first of the environments in which it succeeds. Raises
        InstallError with the end of the output."""
        self.done += 1
        head = f"[{self.done}/{self.count}] {what}"
        started = time.monotonic()
        finished = threading.Event()
        clock = threading.Thread(target=self._tick, args=(head, started, finished), daemon=True)
        if self.live:
            clock.start()
        else:
            print(f"{head} ...", flush=True)
        try:
            for command in commands:
                self._run(what, [str(part) for part in command], envs or [dict(os.environ)])
        finally:
            finished.set()
            if self.live:
                clock.join()
                print("\r\033[K", end="")
        took = time.monotonic() - started
        if self.live:
            print(f"\033[32m✓\033[0m {head} \033[2m{took:.1f} s\033[0m", flush=True)

    def _run(self, what: str, command: list[str], envs: list[dict[str, str]]) -> None:
        for env in envs:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
            if self.log.parent.is_dir():
                with self.log.open("a", encoding="utf-8") as log:
                    log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
            if done.returncode == 0:
                return
        tail = "\n".join("    " + line for line in done.stdout.splitlines()[-LOG_TAIL_LINES:])
        raise InstallError(f"{what} failed:\n\n{tail}\n\n{advice(done.stdout)}")

    def _tick(self, head: str, started: float, finished: threading.Event) -> None:
        frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
        turn = 0
        while not finished.wait(0.1):
            turn += 1
            frame = frames[turn % len(frames)]
            print(f"\r\033[K{frame} {head} \033[2m{time.monotonic() - started:.0f} s\033[0m", end="", flush=True)


def advice(output: str) -> str:
    """What a person can do about a failed command, from its output."""
    text = output.lower()
    if "hash" in text and "mismatch" in text:
        return (
            "A package differs from the one that was locked. Ask whoever runs your package index; do not go around it."
        )
    if any(sign in text for sign in ("no space left", "disk quota")):
        return f"The disk is full: about 1.5 GB are needed. {RETRY_HINT}"
    if any(sign in text for sign in ("timed out", "name resolution", "connect", "dns error", "proxy", "certificate")):
        return (
            "The package index was not reached. Is there a network? Behind a proxy set HTTPS_PROXY; for an index of "
            f"your own set PIP_INDEX_URL or `pip config set global.index-url`. {RETRY_HINT}"
        )
    if "no matching distribution" in text or "no solution found" in text or "no version of" in text:
        return (
            "A package has no build for this machine or is missing on your index. Linux and macOS on x86-64 and arm64 "
            f"are known to work. {RETRY_HINT}"
        )
    return RETRY_HINT


def check_python() -> None:
    if sys.version_info < OLDEST:
        for minor in (12, 11, 13, 14):
            other = shutil.which(f"python3.{minor}")
            if other and subprocess.run([other, "-c", ""], capture_output=True, check=False).returncode == 0:
                os.execv(other, [other, *sys.argv])  # noqa: S606
        raise InstallError(
            "Python 3.11 or later is needed; this is {}.{}. Install one (Debian, Ubuntu: apt install python3.11 "
            "python3.11-venv; macOS: brew install python@3.12) and run `make PYTHON=python3.11 install`.".format(
                *sys.version_info[:2]
            )
        )
    if os.name != "posix":
        raise InstallError("Sundial runs on Linux and macOS; on Windows use WSL.")


def check_redis() -> None:
    """Above the Python that the wheel is made for, redis-server must come from elsewhere."""
    if sys.version_info[:2] <= REDIS_WHEELS_UP_TO or os.environ.get("SUNDIAL_REDIS_BIN"):
        return
    if not shutil.which("redis-server") and not os.environ.get("SUNDIAL_REDIS_URL"):
        print(
            "Note: for Python {}.{} there is no packaged redis-server. Before `make up` install Redis (Debian, Ubuntu: "
            "apt install redis-server; macOS: brew install redis) or use Python 3.11 or 3.12 "
            "(make PYTHON=python3.12 install).".format(*sys.version_info[:2])
        )


def digest() -> str:
    """Names this Python and everything that decides what is installed."""
    total = hashlib.sha256(sys.version.encode() + str(ROOT).encode())
    for path in [*sorted(LOCKS.glob("*.txt")), ROOT / "pyproject.toml", Path(__file__)]:
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def works(venv: Path) -> bool:
    """Whether `venv` has a Python that starts and is of our version."""
    if not python_of(venv).exists():
        return False
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([str(python_of(venv)), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split() == [str(part) for part in sys.version_info[:2]]


def bootstrap() -> list[Command]:
    """Commands that make `.venv` with uv in it; where this Python has no ensurepip, by what else there is."""
    lock = LOCKS / "installer.txt"
    has_pip = importlib.util.find_spec("pip") is not None
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    install: Command = ["-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", lock]
    make: list[Command] = [] if works(VENV) else [[sys.executable, "-m", "venv", "--clear", VENV]]
    if has_ensurepip or (VENV / "bin" / "pip").exists():
        return [*make, [python_of(VENV), *install]]
    make = [[*command, "--without-pip"] for command in make]
    if has_pip:
        return [*make, [sys.executable, "-m", "pip", "--python", python_of(VENV), *install[2:]]]
    uv = shutil.which("uv")
    if uv:
        return [*make, [uv, "pip", "install", "--python", python_of(VENV), "--require-hashes", "-r", lock]]
    raise InstallError(
        "This Python can make no virtual environment: ensurepip, pip and uv are all missing. Debian and Ubuntu: "
        "apt install python{}.{}-venv".format(*sys.version_info[:2])
    )


def uv_environments() -> list[dict[str, str]]:
    """Our environment with pip's settings as uv's, in the variants to try: with the main index alone, with the extra
    ones too; and, where no certificates are named, with the system's instead of uv's own, as a company's proxy needs.

    pip pools all indexes, while uv takes a release from the first index that has it, and looks at the extra ones first:
    an extra index that mirrors some wheels of a release would hide the better ones. The hashes make any index safe.
    """
    settings = pip_settings()
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env.setdefault("UV_PYTHON_DOWNLOADS", "never")
    for name, variable in PIP_TO_UV.items():
        if name in settings and variable not in env:
            env[variable] = ",".join(settings[name]) if variable == "UV_FIND_LINKS" else " ".join(settings[name])
    envs = [env]
    if "extra-index-url" in settings and "UV_INDEX" not in env:
        pooled = {"UV_INDEX": " ".join(settings["extra-index-url"]), "UV_INDEX_STRATEGY": "unsafe-best-match"}
        envs.append({**env, **pooled})
    if "SSL_CERT_FILE" not in env:
        envs += [{**each, "UV_SYSTEM_CERTS": "true"} for each in envs]
    return envs


def pip_settings() -> dict[str, list[str]]:
    """The words of each setting of pip, environment before files. (`pip config get` does not know all of them.)"""
    python = python_of(VENV) if (VENV / "bin" / "pip").exists() else sys.executable
    done = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    found: dict[str, list[str]] = {}
    for scope in ("global.", "install.", ":env:."):
        for line in done.stdout.splitlines():
            key, sign, value = line.partition("=")
            if sign and key.startswith(scope):
                found[key[len(scope) :]] = str(ast.literal_eval(value)).split()
    return found


def install() -> None:
    check_python()
    stamp = VENV / "installed"
    want = digest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == want and works(VENV) and works(LITELLM):
        return
    print("Installing Sundial (a few hundred megabytes at the first time, into .venv and .venv-litellm)", flush=True)
    check_redis()
    stamp.unlink(missing_ok=True)
    steps = Steps(4)
    steps.run("the installer", bootstrap())
    (VENV / "install.log").write_text("", encoding="utf-8")
    envs = uv_environments()
    uv = VENV / "bin" / "uv"
    into: Command = [uv, "pip", "install", "--quiet", "--python"]
    locked: Command = ["--require-hashes", "--requirement"]
    editable: Command = ["--no-deps", "--no-build-isolation", "--editable", ROOT]
    steps.run("Sundial's packages", [[*into, python_of(VENV), *locked, LOCKS / "dev.txt"]], envs)
    steps.run("Sundial itself", [[*into, python_of(VENV), *editable]], envs)
    make: list[Command] = (
        [] if works(LITELLM) else [[uv, "venv", "--quiet", "--clear", "--python", python_of(VENV), LITELLM]]
    )
    neighbour: Command = [*into, python_of(LITELLM), *locked, LOCKS / "litellm-proxy.txt"]
    steps.run("LiteLLM, the neighbour", [*make, neighbour], envs)
    stamp.write_text(want, encoding="utf-8")


def main() -> int:
    try:
        install()
    except InstallError as error:
        print(f"\nsundial: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if not error.filename:
            raise
        print(
            f"sundial: {error.filename}: {error.strerror}. Where another user has installed this folder, run it as "
            "that user, or in a copy of your own.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. {RETRY_HINT}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
