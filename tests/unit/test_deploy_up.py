"""What `sundial up` decides before and around the parts it starts."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import surroundings
from deploy.secrets_folder import Kept
from deploy.summary import first_steps
from deploy.surroundings import Addresses

REAL_KEY = "sk-proj-real"
ADDRESSES = Addresses(
    home=Path("/home/x/.sundial"),
    owner_database_url="postgresql://sundial:owner@127.0.0.1:1/sundial",
    meter_database_url="postgresql://meter:meter@127.0.0.1:1/sundial",
    console_database_url="postgresql://console:console@127.0.0.1:1/sundial",
    redis_url="redis://:secret@127.0.0.1:2/0",
    upstream_url="http://127.0.0.1:4000/v1",
    upstream_key="sk-litellm",
    gateway_host="127.0.0.1",
    gateway_port=8080,
    gateway_metrics_port=9464,
    meter_metrics_port=9465,
)


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    """A second start finds the same secret; nobody else can read it."""
    made = Kept(tmp_path).secret("key")
    assert Kept(tmp_path).secret("key") == made
    assert (tmp_path / "secrets" / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_port_stays_until_somebody_takes_it(tmp_path: Path) -> None:
    """The usual port where it is free, the same one next time, another where it is taken; a port asked for is taken."""
    kept = Kept(tmp_path)
    first = kept.port("x", asked=0)
    assert kept.port("x", asked=0) == first
    with socket.create_server(("127.0.0.1", first)):
        assert kept.port("x", asked=0) != first
        assert kept.port("x", asked=first) == first


def test_a_shell_that_loaded_our_env_file_does_not_redirect_the_next_start(tmp_path: Path) -> None:
    """What `.sundial/env` ever said is not taken for the operator's wish; anything else is."""
    kept = Kept(tmp_path)
    ours = surroundings.for_shells(ADDRESSES, "sk-sundial-demo", "sk-sundial-service")
    kept.write_env({**ours, "SUNDIAL_REDIS_URL": "redis://earlier"})
    kept.write_env(ours)
    shell = {**ours, "SUNDIAL_DRAIN_S": "5", "PATH": "/bin"}
    assert kept.without_ours(shell) == {"SUNDIAL_DRAIN_S": "5", "PATH": "/bin"}
    assert kept.without_ours({"SUNDIAL_REDIS_URL": "redis://earlier"}) == {}
    assert kept.without_ours({"OPENAI_API_KEY": "sk-sundial-of-another-home"}) == {}
    wishes = {"OPENAI_API_KEY": REAL_KEY, "SUNDIAL_REDIS_URL": "redis://other"}
    assert kept.without_ours(wishes) == wishes


def test_the_env_file_is_shell_syntax(tmp_path: Path) -> None:
    """Any value survives a shell, and only the owner can read the file."""
    path = Kept(tmp_path).write_env({"A": "it's $HOME & `b`", "C": "d"})
    script = f'set -a; . "{path}"; set +a; exec "{sys.executable}" -c "import os; print(os.environ[\'A\'])"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == (
        "it's $HOME & `b`\n"
    )
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_part_gets_only_what_it_needs() -> None:
    """The gateway knows no database, the meter its own user, LiteLLM none of our servers, the demo nothing at all."""
    shell = {
        "PATH": "/bin",
        "DATABASE_URL": "postgresql://somebody",
        "OPENAI_API_KEY": REAL_KEY,
        "HTTPS_PROXY": "http://proxy",
        "SUNDIAL_DATABASE_URL": "postgresql://sundial:owner@db/x",
        "SUNDIAL_DATABASE_URL_FILE": "/run/secrets/db",
        "SUNDIAL_DRAIN_S": "5",
    }
    gateway = surroundings.gateway(shell, "json", ADDRESSES)
    assert not any("DATABASE" in name for name in gateway)
    assert (gateway["SUNDIAL_UPSTREAM_KEY"], gateway["SUNDIAL_DRAIN_S"]) == ("sk-litellm", "5")
    meter = surroundings.meter(shell, "json", ADDRESSES)
    assert meter["SUNDIAL_DATABASE_URL"] == ADDRESSES.meter_database_url
    assert "SUNDIAL_UPSTREAM_KEY" not in meter
    litellm = surroundings.litellm(shell, "json", "sk-master", "", "")
    assert litellm["OPENAI_API_KEY"] == REAL_KEY
    assert not {"DATABASE_URL", "SUNDIAL_DATABASE_URL", "SUNDIAL_REDIS_URL"} & set(litellm)
    assert set(surroundings.demo(shell, "json", "k")) == {
        *("PATH", "SUNDIAL_LOG", "PYTHONUNBUFFERED", "LITELLM_LOCAL_MODEL_COST_MAP", "SUNDIAL_DEMO_KEY")
    }
    assert all(REAL_KEY not in part.values() for part in (gateway, meter))


def test_only_migrations_run_as_the_owner() -> None:
    """Commands, and the env file that people load, have the console's user."""
    as_console = surroundings.command({}, "json", ADDRESSES)["SUNDIAL_DATABASE_URL"]
    as_owner = surroundings.command({}, "json", ADDRESSES, as_owner=True)["SUNDIAL_DATABASE_URL"]
    assert (as_console, as_owner) == (ADDRESSES.console_database_url, ADDRESSES.owner_database_url)
    told = surroundings.for_shells(ADDRESSES, "a", "b")
    assert told["SUNDIAL_DATABASE_URL"] == ADDRESSES.console_database_url
    assert told["OPENAI_BASE_URL"] == "http://127.0.0.1:8080/v1"


def test_the_first_steps_are_shell_syntax() -> None:
    """What the summary offers for copying is at least parsed by a shell."""
    script = "\n".join(first_steps(Path(".sundial/env")))
    subprocess.run(["sh", "-n", "-c", script], check=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SUNDIAL_GATEWAY_PORT": "eighty"}, ["SUNDIAL_GATEWAY_PORT"]),
        ({"SUNDIAL_DRAIN_S": "-1", "SUNDIAL_SHARDS": "x"}, ["SUNDIAL_DRAIN_S", "SUNDIAL_SHARDS"]),
        (
            {
                "SUNDIAL_DEFAULT_ALLOWANCE": "1.000.000,5",
                "SUNDIAL_TRUSTED_PROXIES": "x",
                "SUNDIAL_FORWARDED_PATHS": "y",
            },
            ["SUNDIAL_DEFAULT_ALLOWANCE", "SUNDIAL_TRUSTED_PROXIES", "SUNDIAL_FORWARDED_PATHS"],
        ),
        ({"SUNDIAL_GATEWAY_PORT": "TAKEN"}, ["SUNDIAL_GATEWAY_PORT", "in use"]),
    ],
)
def test_mistakes_are_told_before_anything_starts(tmp_path: Path, settings: dict[str, str], said: list[str]) -> None:
    """Every wrong setting of every part, and every busy port, by the name to change; the exit code is 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        chosen = {name: taken if value == "TAKEN" else value for name, value in settings.items()}
        done = subprocess.run(
            [sys.executable, "-m", "sundial", "up"],
            env={"PATH": "/bin:/usr/bin", "SUNDIAL_HOME": str(tmp_path), **chosen},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    for text in said:
        assert text in done.stdout + done.stderr
    assert not (tmp_path / "postgres").exists()
