"""Real PostgreSQL and Redis servers from wheels, for `sundial up` and for tests.

postgres = EmbeddedPostgres(Path(".sundial/postgres"))
postgres.start()
postgres.url()      # postgresql://sundial:…@127.0.0.1:…/sundial
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

from deploy.binaries import BinaryMissingError, postgres_bin_dir, redis_server
from deploy.server_process import (
    EmbeddedServerError,
    PortTakenError,
    ServerProcess,
    plain_environment,
    write_secret,
)

__all__ = [
    "BinaryMissingError",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "EmbeddedServerError",
    "PortTakenError",
    "write_secret",
]


class EmbeddedPostgres(ServerProcess):
    """PostgreSQL on 127.0.0.1: superuser `sundial`, scram-sha-256, UTF-8, times in UTC, a database `sundial`."""

    name = "PostgreSQL"

    def url(self, user: str = "sundial", database: str = "sundial", *, password: str | None = None) -> str:
        """`password` where it is not the superuser's."""
        secret = quote(password or self.password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """An empty database, or a copy of `template`, to which nobody may be connected."""
        source = f" TEMPLATE {_identifier(template)}" if template else ""
        self.execute(f"CREATE DATABASE {_identifier(name)}{source}")

    def drop_database(self, name: str) -> None:
        """Drop it if it exists, ending the connections to it."""
        self.execute(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    def ensure_user(self, name: str, password: str, group: str) -> None:
        """A user who may log in with this password and do what `group`, a role that exists, may do."""
        user, role = _identifier(name), _identifier(group)
        self.execute(  # every name is quoted as SQL quotes it
            f"SELECT 'CREATE ROLE {user}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(name)})"  # noqa: S608
            f"\\gexec\nALTER ROLE {user} LOGIN PASSWORD {_literal(password)}; GRANT {role} TO {user}"
        )

    def execute(self, sql: str, *, database: str = "postgres") -> str:
        """Run statements as the superuser; what psql prints, unaligned. Raises EmbeddedServerError with the server's
        words."""
        psql = postgres_bin_dir() / "psql"
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "sundial", "-d", database)
        done = subprocess.run(
            [str(psql), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *address],
            input=sql,
            capture_output=True,
            text=True,
            env={**plain_environment(), "PGPASSWORD": self.password},
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedServerError(f"{self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start(self) -> None:
        super().start()
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = 'sundial'"):
            self.create_database("sundial")

    def _prepare(self) -> None:
        binaries = postgres_bin_dir()
        major = _major_version(binaries / "postgres")
        version = self.data / "PG_VERSION"
        if not version.exists():
            self._create_cluster(binaries, major)
        elif int(version.read_text(encoding="ascii")) != major:
            raise EmbeddedServerError(
                f"{self.data} was made by PostgreSQL {version.read_text(encoding='ascii').strip()}, but {binaries} "
                f"has {major}; name the binaries of that version in SUNDIAL_POSTGRES_BIN_DIR"
            )
        self._hand_over(self.data)
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # left by a kill -9: the lock says that nobody runs

    def _create_cluster(self, binaries: Path, major: int) -> None:
        if self.data.exists():
            shutil.rmtree(self.data)  # an initdb that was interrupted: PG_VERSION is written at its end
        fresh = self.home / "data.fresh"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        self._hand_over(fresh)
        _ = self.password
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        if major < 17:  # the builtin provider came with 17
            locale = ["--locale=C.UTF-8"]
        command = [
            *(str(binaries / "initdb"), "--pgdata", str(fresh), "--username=sundial", "--encoding=UTF8"),
            *("--auth=scram-sha-256", "--pwfile", str(self.home / "password")),
            *("--no-instructions", "--no-sync", *locale),
        ]
        done = subprocess.run(
            self._wrapped(command, die=False),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=plain_environment(),
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedServerError(f"initdb failed:\n{done.stdout.strip()}")
        fresh.replace(self.data)

    def _hand_over(self, folder: Path) -> None:
        if owner := self._owner():
            try:
                os.chown(folder, *owner)
            except PermissionError:
                raise EmbeddedServerError(
                    "PostgreSQL refuses to run as root, and this root may not start it as somebody else "
                    "(CAP_CHOWN, CAP_SETUID, CAP_SETGID): run this as a normal user"
                ) from None

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "max_connections": "100",
            **self.settings,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(postgres_bin_dir() / "postgres"), "-D", str(self.data), *options]

    def _answers(self) -> bool:
        """The postmaster writes its state into the eighth line of its pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return entry.pw_uid, entry.pw_gid
        return 65534, 65534


class EmbeddedRedis(ServerProcess):
    """Redis on 127.0.0.1: a password, an append-only file flushed each second, and nothing is ever evicted."""

    name = "Redis"

    def url(self) -> str:
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}/0"

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)

    def _command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": _quoted(self.password),
            "dir": _quoted(str(self.data)),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            **self.settings,
        }
        text = "".join(f"{key} {value}\n" for key, value in settings.items())
        write_secret(self.home / "redis.conf", text)
        return [str(redis_server()), str(self.home / "redis.conf")]

    def _answers(self) -> bool:
        """PING is answered with PONG once the append-only file has been loaded."""
        secret = self.password.encode()
        request = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n*1\r\n$4\r\nPING\r\n" % (len(secret), secret)
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(request)
                answer = b""
                while answer.count(b"\r\n") < 2:
                    part = connection.recv(256)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    def _stop_signal(self, mode: str) -> signal.Signals:
        return signal.SIGQUIT if mode == "immediate" else signal.SIGTERM


def _major_version(postgres: Path) -> int:
    printed = subprocess.run([str(postgres), "--version"], capture_output=True, text=True, check=True).stdout
    return int(printed.split()[2].split(".")[0])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
