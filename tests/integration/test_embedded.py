"""The embedded servers are real servers: they keep their data, survive kill -9 and die with whoever started them."""

import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.embedded import EmbeddedPostgres, EmbeddedRedis, EmbeddedServerError, PortTakenError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
Server = EmbeddedPostgres | EmbeddedRedis


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis", settings={"appendfsync": "always"})
    server.start()
    yield server
    server.kill()


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url(), decode_responses=True)


def test_postgres_speaks_utf8_and_utc_as_superuser_sundial(postgres: EmbeddedPostgres) -> None:
    """The cluster is what the ledger expects: UTF-8, times in UTC, lower() that knows letters beyond ASCII."""
    answer = postgres.execute(
        "SHOW server_encoding; SHOW timezone; SELECT current_user; SELECT lower('ÉÇÃO'); SELECT current_database()",
        database="sundial",
    )
    assert answer.split("\n") == ["UTF8", "UTC", "sundial", "éção", "sundial"]


def test_postgres_listens_on_loopback_only_and_asks_for_the_password(postgres: EmbeddedPostgres) -> None:
    """Nobody gets in without the password, and there is no socket but the one on 127.0.0.1."""
    settings = postgres.execute("SHOW listen_addresses; SHOW unix_socket_directories; SHOW password_encryption")
    assert settings.split("\n") == ["127.0.0.1", "", "scram-sha-256"]
    assert postgres.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules") == "scram-sha-256"
    assert (postgres.home / "password").stat().st_mode & 0o777 == 0o600


def test_postgres_keeps_data_and_port_over_a_restart(postgres: EmbeddedPostgres) -> None:
    """A second start finds yesterday's rows under the same URL."""
    postgres.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)", database="sundial")
    url = postgres.url()
    postgres.stop()
    postgres.start()
    assert postgres.url() == url
    assert postgres.execute("SELECT n FROM kept", database="sundial") == "42"


def test_postgres_starts_after_kill_minus_nine(postgres: EmbeddedPostgres) -> None:
    """A crash leaves postmaster.pid behind. Although that id belongs to another process of the same user by then, the
    next start is not hindered, and it has every committed row."""
    postgres.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)", database="sundial")
    postgres.kill()
    stale = postgres.data / "postmaster.pid"
    _, *lines = stale.read_text().splitlines()
    waiting = postgres._wrapped([sys.executable, "-c", "input()"], die=False)
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as somebody_else:
        stale.write_text("\n".join([str(somebody_else.pid), *lines]) + "\n")
        postgres.start()
        somebody_else.kill()
    assert postgres.execute("SELECT n FROM kept", database="sundial") == "42"


def test_postgres_copies_a_template_database(postgres: EmbeddedPostgres) -> None:
    """A test's database is a copy of a migrated one, and is dropped although somebody is connected."""
    postgres.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)", database="sundial")
    postgres.create_database("copy", template="sundial")
    assert postgres.execute("SELECT n FROM kept", database="copy") == "1"
    postgres.drop_database("copy")
    with pytest.raises(EmbeddedServerError, match='"copy" does not exist'):
        postgres.execute("SELECT 1", database="copy")


def test_a_second_server_on_the_same_data_is_refused(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers never share a data folder, whoever started the first."""
    monkeypatch.setattr("deploy.server_process.LOCK_TIMEOUT_S", 0.0)
    with pytest.raises(EmbeddedServerError, match="running already"):
        EmbeddedPostgres(postgres.home).start()
    assert postgres.execute("SELECT 1") == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open a folder to another user")
def test_root_needs_to_open_no_folder_to_postgres(tmp_path: Path) -> None:
    """As root, PostgreSQL runs as somebody else below folders that only root may enter, and these stay as they are."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "home" / "postgres")
    server.start()
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "\nUid:\t0\t" not in status
        assert closed.stat().st_mode & 0o777 == 0o700
        owners = {path.name: path.stat().st_uid for path in (closed, server.home, server.data)}
        assert owners["closed"] == owners["postgres"] == 0
        assert owners["data"] != 0
    finally:
        server.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="elsewhere every other test runs as a normal user")
def test_a_normal_user_starts_both(tmp_path: Path) -> None:
    """Without root nothing is chown'd and no user is changed."""
    nobody = pwd.getpwnam("nobody")
    home = tmp_path / "theirs"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "deploy" / "launch.py"), "--as", str(nobody.pw_uid), str(nobody.pw_gid)),
            *("--", sys.executable, "-c", START_BOTH, str(home), "end"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (home / "postgres" / "data").stat().st_uid == nobody.pw_uid


def test_redis_keeps_data_over_restart_and_kill(redis_server: EmbeddedRedis) -> None:
    """What Redis acknowledged with appendfsync=always is there after an ordered end and after kill -9."""
    client(redis_server).set("kept", "1")
    redis_server.stop()
    redis_server.start()
    client(redis_server).incr("kept")
    redis_server.kill()
    redis_server.start()
    assert client(redis_server).get("kept") == "2"


def test_redis_asks_for_the_password_and_evicts_nothing(redis_server: EmbeddedRedis) -> None:
    """Its settings are those of production but for the size: append-only, no eviction, closed without password."""
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(f"redis://127.0.0.1:{redis_server.port}", retry=None).ping()
    for setting, value in {"maxmemory-policy": "noeviction", "appendonly": "yes", "bind": "127.0.0.1"}.items():
        assert client(redis_server).config_get(setting) == {setting: value}
    assert redis_server.password not in Path(f"/proc/{redis_server.pid}/cmdline").read_text()


def test_redis_paused_answers_nothing_and_resumed_answers_again(redis_server: EmbeddedRedis) -> None:
    """A paused server keeps its connections open and silent."""
    impatient = redis.Redis.from_url(redis_server.url(), socket_timeout=0.2, retry=None)
    assert impatient.ping()
    redis_server.pause()
    with pytest.raises(redis.TimeoutError):
        impatient.ping()
    redis_server.resume()
    assert client(redis_server).ping()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_port_in_use_is_named(tmp_path: Path, kind: type[Server]) -> None:
    """A port that was asked for and is taken ends in an error that names it; a port of its own is chosen again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(taken)):
            kind(tmp_path / "asked", port=taken).start()
        home = tmp_path / "chosen"
        home.mkdir()
        (home / "port").write_text(str(taken))
        server = kind(home)
        server.start()
        assert server.port != taken
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_servers_die_with_their_starter(tmp_path: Path) -> None:
    """kill -9 of the supervisor leaves no server behind: both end in order and the data can be opened again."""
    starter = subprocess.Popen(
        [sys.executable, "-c", START_BOTH, str(tmp_path), "wait"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "started\n"
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    for server in (EmbeddedPostgres(tmp_path / "postgres"), EmbeddedRedis(tmp_path / "redis")):
        server.start()
        if isinstance(server, EmbeddedPostgres):
            assert "shut down" in (server.home / "server.log.1").read_text()
        server.kill()


START_BOTH = """
import sys
from pathlib import Path
from deploy.embedded import EmbeddedPostgres, EmbeddedRedis
servers = [EmbeddedPostgres(Path(sys.argv[1], "postgres"), die_with_parent=True),
           EmbeddedRedis(Path(sys.argv[1], "redis"), die_with_parent=True)]
for server in servers:
    server.start()
print("started", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
for server in servers:
    server.stop()
"""
