"""What `sundial up` decides before and around the parts it starts."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deploy import demo_keys, surroundings
from deploy.child import PartFailedError
from deploy.ports import free_port, port_is_free
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


def loaded(env: Path) -> dict[str, str]:
    """What a shell has that has loaded the file."""
    script = f'set -a; . "{env}"; set +a; exec env -0'
    said = subprocess.run(["sh", "-c", script], env={}, capture_output=True, check=True).stdout.decode()
    return {name: value for name, _, value in (line.partition("=") for line in said.split("\0")) if name != "PWD"}


def test_a_shell_that_loaded_our_env_file_outlives_the_folder(tmp_path: Path) -> None:
    """The folder is removed to begin anew: its values are known for ours all the same; what the shell then changes of
    them is the operator's."""
    shell = loaded(Kept(tmp_path / "removed").write_env(surroundings.for_shells(ADDRESSES, "sk-demo", "sk-service")))
    assert shell["SUNDIAL_DATABASE_URL"] == ADDRESSES.console_database_url
    afresh = Kept(tmp_path / "afresh")
    assert not {name for name in afresh.without_ours(shell) if name.startswith(("SUNDIAL_", "OPENAI_"))}
    changed = {**shell, "SUNDIAL_REDIS_URL": "redis://other"}
    assert afresh.without_ours(changed)["SUNDIAL_REDIS_URL"] == "redis://other"


def test_an_operators_own_server_is_a_wish_at_the_next_start_too(tmp_path: Path) -> None:
    """`.sundial/env` repeats it for the commands: that makes it no value of ours."""
    wishes = {"SUNDIAL_DATABASE_URL": ADDRESSES.console_database_url}
    kept = Kept(tmp_path)
    env = kept.write_env(surroundings.for_shells(ADDRESSES, "sk-demo", "sk-service"), wishes=wishes)
    assert kept.without_ours(wishes) == wishes
    assert kept.without_ours(loaded(env)).keys() & {"SUNDIAL_DATABASE_URL", "SUNDIAL_REDIS_URL"} == wishes.keys()


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


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080/v1"),
        ("::", "http://127.0.0.1:8080/v1"),
        ("::1", "http://[::1]:8080/v1"),
        ("sundial.local", "http://sundial.local:8080/v1"),
    ],
)
def test_clients_are_told_an_address_that_they_can_use(host: str, url: str) -> None:
    """Wherever the gateway listens."""
    assert msgspec.structs.replace(ADDRESSES, gateway_host=host).gateway_url == url


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
    """Every wrong setting of every part, and every busy port, by the name to change, on stderr as every command's; the
    exit code is 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        done = up(tmp_path, {name: taken if value == "TAKEN" else value for name, value in settings.items()})
    assert done.returncode == 2
    for text in said:
        assert text in done.stderr
    assert all(line.startswith("sundial: ") for line in done.stderr.splitlines())
    assert not done.stdout
    assert not (tmp_path / "postgres").exists()


def up(home: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`sundial up` with these settings alone, for starts that end by themselves."""
    return subprocess.run(
        [sys.executable, "-m", "sundial", "up"],
        env={"PATH": "/bin:/usr/bin", "SUNDIAL_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_start_that_fails_early_says_that_alone(tmp_path: Path) -> None:
    """LiteLLM and the demo model have been started, nobody waits for them yet: no warning of ours stands beside it."""
    names = ("GATEWAY", "GATEWAY_METRICS", "METER_METRICS", "LITELLM", "DEMO", "POSTGRES", "REDIS")
    ports = {f"SUNDIAL_{name}_PORT": str(free_port()) for name in names}
    done = up(tmp_path, {**ports, "SUNDIAL_POSTGRES_BIN_DIR": str(tmp_path / "nowhere")})
    assert done.returncode == 1
    assert str(tmp_path / "nowhere") in done.stderr
    assert "Warning" not in done.stderr
    assert all(line.startswith("sundial: ") for line in done.stderr.splitlines())


def test_the_ports_that_are_proposed_can_be_had(tmp_path: Path) -> None:
    """One command for all of them: it names what was chosen already, no port of another setting, none that is taken."""
    asked = consecutive_ports(4)
    taken, beside, also, free = asked
    with socket.create_server(("127.0.0.1", taken)), socket.create_server(("127.0.0.1", also)):
        settings = {
            "SUNDIAL_GATEWAY_PORT": str(taken),
            "SUNDIAL_GATEWAY_METRICS_PORT": str(beside),
            "SUNDIAL_METER_METRICS_PORT": str(beside),
        }
        done = up(tmp_path, settings)
        assert done.returncode == 2
        assert f"SUNDIAL_GATEWAY_PORT: port {taken} is in use" in done.stderr
        assert f"SUNDIAL_METER_METRICS_PORT: port {beside} is SUNDIAL_GATEWAY_METRICS_PORT too" in done.stderr
        [command] = re.findall(r"SUNDIAL_\S+=.* make up", done.stderr)
        proposed = dict(word.split("=") for word in command.removesuffix(" make up").split())
        assert proposed["SUNDIAL_GATEWAY_PORT"] == str(free)
        assert proposed["SUNDIAL_GATEWAY_METRICS_PORT"] == str(beside)
        assert proposed.keys() == settings.keys()
        assert not {*proposed.values()} & {str(taken), str(also)}
        assert len({*proposed.values()}) == len(proposed)
        # Obeyed, it is no longer the ports that stop it; something else must, lest a whole chain starts.
        again = up(tmp_path, {**proposed, "SUNDIAL_REDIS_PORT": str(also)})
    assert again.stderr.count("SUNDIAL_REDIS_PORT: port") == 1
    assert not any(f"{name}: " in again.stderr for name in settings)


def consecutive_ports(number: int) -> list[int]:
    """That nobody listens on."""
    while True:
        first = free_port()
        ports = list(range(first, first + number))
        if all(port_is_free(port) for port in ports):
            return ports


async def test_a_gateway_that_cannot_be_asked_is_a_part_that_failed(tmp_path: Path) -> None:
    """Its metrics page had answered, and nobody is at the port that clients use: told in words, no traceback."""
    kept = Kept(tmp_path)
    kept.write("demo-key", "sk-sundial-kept")
    with pytest.raises(PartFailedError, match="SUNDIAL_GATEWAY_PORT"):
        await demo_keys.ensure(kept, f"http://127.0.0.1:{free_port()}/v1", {})
