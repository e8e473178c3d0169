"""One server of another make as a child process on a home folder: start, wait, end, kill.

The home folder holds the server's data, password, port, lock and log. The lock is a file descriptor that the server
and all its children inherit: held as long as one of them lives, however the starter died. Whoever gets it knows that
no server is left on the data, so what a killed one left behind is safely removed.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from deploy.ports import free_port, port_is_free

START_TIMEOUT_S: Final = 60.0
"""Seconds for a server to become ready, recovery of its data included."""
STOP_TIMEOUT_S: Final = 30.0
"""Seconds for a server to end when asked, before it is killed."""
LOCK_TIMEOUT_S: Final = 15.0
"""Seconds to wait for an earlier server on the same data to end."""
PORT_TRIES: Final = 5
"""How often a free port is chosen again when somebody else takes it first."""
POLL_S: Final = 0.02
LOG_TAIL_LINES: Final = 12
"""Lines of a server's log that an error repeats."""

_LAUNCH: Final = Path(__file__).with_name("launch.py")
_ADDRESS_IN_USE: Final = ("Address already in use", "Address in use")


class EmbeddedServerError(RuntimeError):
    """A server could not be started; the message says which, why, and how its log ends."""


class PortTakenError(EmbeddedServerError):
    """The port asked for is in use by another process."""


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


class ServerProcess(ABC):
    """One server process on one home folder. Not thread-safe."""

    name: str

    def __init__(
        self,
        home: Path,
        *,
        port: int = 0,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
    ) -> None:
        self.home = home.resolve()
        self.settings = dict(settings or {})
        self.die_with_parent = die_with_parent
        self._asked_port = port
        self._port = 0
        self._given_password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The server's own log of this start; the one before is kept beside it with the ending `.1`."""
        return self.home / "server.log"

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises EmbeddedServerError before start and after the end."""
        if self._process is None:
            raise EmbeddedServerError(f"{self.name} is not running")
        return self._process.pid

    @property
    def port(self) -> int:
        assert self._port, "the port is known once the server has been started"
        return self._port

    @property
    def password(self) -> str:
        """The password given, else the one in the home folder, made on first use."""
        path = self.home / "password"
        if not path.exists():
            self._make_home()
            write_secret(path, self._given_password or secrets.token_urlsafe(24))
        return path.read_text(encoding="utf-8")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. With `die_with_parent` call it from a thread that lives on, such as the
        main one: the kernel ends the server with the thread. Raises PortTakenError, EmbeddedServerError."""
        assert not self.alive, f"{self.name} is running already"
        self._make_home()
        with self._locked() as lock:
            self._prepare()
            for _ in range(PORT_TRIES):
                self._port = self._choose_port()
                if self._log_is_worth_keeping():
                    self.log.replace(self.log.with_suffix(".log.1"))
                self._process = self._launch(self._command(), lock=lock)
                if self._wait_until_ready():
                    (self.home / "port").write_text(str(self._port), encoding="utf-8")
                    return
                if not any(text in self.log_tail() for text in _ADDRESS_IN_USE):
                    break
                (self.home / "port").unlink(missing_ok=True)
            self.kill()
        raise EmbeddedServerError(f"{self.name} did not start; its log ends:\n{self.log_tail()}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """End it in order; killed where it does not end within STOP_TIMEOUT_S. Nothing happens if it has ended."""
        if self._process is None:
            return
        self._signal(self._stop_signal(mode))
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL the server and its children, as a crash of the machine would."""
        if self._process is None:
            return
        children = children_of(self._process.pid)
        for pid in (self._process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        """To the server and its children, which may end while they are counted: a dump that is written, a worker."""
        os.kill(self.pid, number)
        for pid in children_of(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def log_tail(self) -> str:
        """The last lines of the log, for a person."""
        if not self.log.exists():
            return "(it wrote no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])

    @abstractmethod
    def _prepare(self) -> None: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _stop_signal(self, mode: str) -> signal.Signals: ...

    def _owner(self) -> tuple[int, int] | None:
        """The unprivileged uid and gid to run as; None: as whoever we are."""
        return None

    def _make_home(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EmbeddedServerError(
                            f"{self.name} is running already on {self.home}; end the other one first"
                        ) from None
                    time.sleep(POLL_S)
            yield lock
        finally:
            os.close(lock)

    def _choose_port(self) -> int:
        if self._asked_port:
            if not port_is_free(self._asked_port):
                raise PortTakenError(f"{self.name} cannot listen on port {self._asked_port}: it is in use")
            return self._asked_port
        with contextlib.suppress(OSError, ValueError):
            kept = int((self.home / "port").read_text(encoding="utf-8"))
            if 0 < kept < 65536 and port_is_free(kept):
                return kept
        return free_port()

    def _log_is_worth_keeping(self) -> bool:
        return self.log.exists() and self.log.stat().st_size > 0

    def _launch(self, command: list[str], *, lock: int) -> subprocess.Popen[bytes]:
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
            return subprocess.Popen(
                self._wrapped(command, die=self.die_with_parent),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=plain_environment(),
                start_new_session=True,
                pass_fds=(lock,),
            )

    def _wrapped(self, command: list[str], *, die: bool) -> list[str]:
        options: list[str] = []
        if owner := self._owner():
            options += ["--as", str(owner[0]), str(owner[1])]
        if die:
            options += ["--die-with", str(os.getpid()), str(int(self._stop_signal("fast")))]
        return [sys.executable, "-I", "-S", str(_LAUNCH), *options, "--", *command]

    def _wait_until_ready(self) -> bool:
        """False where the process ended; raises EmbeddedServerError where it hangs."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.alive:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise EmbeddedServerError(
                    f"{self.name} was not ready after {START_TIMEOUT_S:.0f} s; its log ends:\n{self.log_tail()}"
                )
            time.sleep(POLL_S)
        return False

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def children_of(parent: int) -> list[int]:
    """Direct children of a process, from /proc; empty where there is none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            found.append(int(folder.name))
    return found


def plain_environment() -> dict[str, str]:
    """Ours without what would redirect a PostgreSQL client or server, and without any other program's secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
