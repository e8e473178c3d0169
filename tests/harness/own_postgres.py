"""A PostgreSQL of a test's own, that may be stopped, killed, filled up and put back to an earlier state.

Its data is a copy of a cluster that is made once per session: migrated, with prices and the programs' logins.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from deploy.binaries import postgres_bin_dir
from deploy.embedded import EmbeddedPostgres
from deploy.server_process import children_of, plain_environment
from tests.harness.servers import LOGINS, PASSWORD, Database, fill

DATABASE: Final = "books"
SMALL: Final = {"shared_buffers": "16MB", "max_wal_size": "64MB", "min_wal_size": "32MB", "fsync": "off"}
"""Settings that start fast. Without fsync a killed process loses nothing: only a machine that loses power does."""


class OwnPostgres(EmbeddedPostgres):
    """Starts on the same port each time, so that whoever was connected finds it again."""

    def addresses(self, port: int = 0) -> Database:
        """The database's URLs; the meter's goes by `port`, where that of a proxy is given."""
        logins = {f"{login}_url": self.url(login, DATABASE, password=PASSWORD) for login in LOGINS}
        found = Database(url=self.url(database=DATABASE), **logins)
        if port:
            found = msgspec.structs.replace(found, meter_url=found.meter_url.replace(f":{self.port}/", f":{port}/"))
        return found

    def kill_backend(self, user: str = "meter") -> int:
        """kill -9 of one server process that serves this user; its pid, or 0 where there is none."""
        found = self.execute(f"SELECT pid FROM pg_stat_activity WHERE usename = '{user}' LIMIT 1")
        if found:
            os.kill(int(found), signal.SIGKILL)
        return int(found or 0)

    def kill_postmaster(self) -> None:
        """kill -9 of the postmaster alone; its children notice by themselves."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def wait_for_its_end(self, seconds: float) -> int:
        """The exit code of a server that is about to end by itself. subprocess.TimeoutExpired where it does not."""
        assert self._process is not None
        code = self._process.wait(seconds)
        self._process = None
        return code

    def back_up(self, folder: Path) -> None:
        """A base backup of the running server, with the WAL that it needs."""
        program = postgres_bin_dir() / "pg_basebackup"
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "sundial")
        subprocess.run(
            [str(program), *address, "-D", str(folder), "-X", "fetch", "-c", "fast", "--no-sync"],
            env={**plain_environment(), "PGPASSWORD": self.password},
            capture_output=True,
            check=True,
        )

    def restore(self, folder: Path) -> None:
        """Put the data of a stopped server back to a backup."""
        assert not self.alive
        shutil.rmtree(self.data)
        copy(folder, self.data)
        self.data.chmod(0o700)
        if owner := self._owner():
            for path in (self.data, *self.data.rglob("*")):
                os.chown(path, *owner, follow_symlinks=False)

    @property
    def processes(self) -> list[int]:
        return [self.pid, *children_of(self.pid)]


def make_template(home: Path) -> Path:
    """A stopped cluster to copy: its home folder."""
    postgres = EmbeddedPostgres(home, settings=SMALL, die_with_parent=True)
    postgres.start()
    try:
        postgres.create_database(DATABASE)
        fill(postgres.url(database=DATABASE))
    finally:
        postgres.stop()
    (home / "port").unlink()
    return home


@contextmanager
def running(template: Path, home: Path, settings: Mapping[str, str] | None = None) -> Iterator[OwnPostgres]:
    """A server on a copy of `template`, ended with the block."""
    copy(template, home)
    postgres = OwnPostgres(home, settings={**SMALL, **(settings or {})}, die_with_parent=True)
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.kill()


def copy(source: Path, target: Path) -> None:
    """A folder with owners and permissions as they are; by reference where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
