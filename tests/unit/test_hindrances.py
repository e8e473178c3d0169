"""Plain mistakes at a program's start: exit code 2 and the setting to change, never an unexpected fault."""

import asyncio
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy import install
from deploy.ports import free_port
from sundial.hindrances import border
from sundial.problems import WrongUsageError

SERVERS = {
    "SUNDIAL_REDIS_URL": "redis://127.0.0.1:1/0",
    "SUNDIAL_DATABASE_URL": "postgresql://127.0.0.1:1/sundial",
    "SUNDIAL_UPSTREAM_URL": "http://127.0.0.1:1/v1",
}


def start(program: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A start that must end by itself; names are given without their prefix."""
    names = ("GATEWAY_PORT", "GATEWAY_METRICS_PORT", "METER_METRICS_PORT")
    chosen = {"HOME": str(home), **{name: str(free_port()) for name in names}, **variables}
    return subprocess.run(
        [sys.executable, "-m", "sundial", program],
        env={"PATH": os.environ["PATH"], **SERVERS, **{f"SUNDIAL_{name}": value for name, value in chosen.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield str(other.getsockname()[1])


@pytest.mark.parametrize(
    ("program", "variables", "said"),
    [
        ("gateway", {"GATEWAY_HOST": "192.0.2.1", "GATEWAY_WORKERS": "2"}, "SUNDIAL_GATEWAY_HOST: 192.0.2.1 is no"),
        ("meter", {"METER_METRICS_HOST": "192.0.2.1"}, "SUNDIAL_METER_METRICS_HOST: 192.0.2.1 is no address of this"),
        ("meter", {"METER_METRICS_PORT": "TAKEN"}, "SUNDIAL_METER_METRICS_PORT: port TAKEN is in use"),
    ],
)
def test_a_program_that_cannot_listen(
    tmp_path: Path, taken: str, program: str, variables: dict[str, str], said: str
) -> None:
    """An address that is another machine's, a port that is taken: it ends with 2 and names the setting."""
    chosen = {name: value.replace("TAKEN", taken) for name, value in variables.items()}
    done = start(program, tmp_path, **chosen)
    assert f"sundial: {said.replace('TAKEN', taken)}" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("host", "metrics_host", "said"),
    [
        ("nosuch.invalid", "127.0.0.1", "SUNDIAL_GATEWAY_HOST: nosuch.invalid is no address, and no name of one"),
        ("a..b", "127.0.0.1", "SUNDIAL_GATEWAY_HOST: a..b is no address, and no name of one"),
        ("192.0.2.1", "127.0.0.1", "SUNDIAL_GATEWAY_HOST: 192.0.2.1 is no address of this machine"),
        ("127.0.0.1", "192.0.2.1", "SUNDIAL_GATEWAY_METRICS_HOST: 192.0.2.1 is no address of this machine"),
    ],
)
def test_the_setting_of_an_address(host: str, metrics_host: str, said: str) -> None:
    """Whichever the loop's own words are, and whichever of the listeners it is."""
    with pytest.raises(WrongUsageError, match=re.escape(said)):
        listen(host, free_port(), metrics_host, free_port())


def test_the_setting_of_a_port(taken: str) -> None:
    """One that somebody else has, and one that two of ours have."""
    with pytest.raises(WrongUsageError, match=f"SUNDIAL_GATEWAY_METRICS_PORT: port {taken} is in use"):
        listen("127.0.0.1", free_port(), "127.0.0.1", int(taken))
    port = free_port()
    with pytest.raises(WrongUsageError, match=f"SUNDIAL_GATEWAY_METRICS_PORT: port {port} is SUNDIAL_GATEWAY_PORT too"):
        listen("127.0.0.1", port, "127.0.0.1", port)


def listen(host: str, port: int, metrics_host: str, metrics_port: int) -> None:
    """On both, as the gateway does once it has what it needs."""
    settings = SimpleNamespace(
        gateway_host=host, gateway_port=port, gateway_metrics_host=metrics_host, gateway_metrics_port=metrics_port
    )

    async def both() -> None:
        async with (
            await asyncio.start_server(lambda *_: None, host, port),
            await asyncio.start_server(lambda *_: None, metrics_host, metrics_port),
        ):
            pass

    with border("gateway", Path("/nowhere"), settings, ("gateway", "gateway_metrics")):
        asyncio.run(both())


def test_other_faults_stay_what_they_are() -> None:
    """What no setting is to blame for is not told as one."""
    with pytest.raises(FileNotFoundError), border("gateway", Path("/srv/sundial")):
        (Path(os.curdir) / "no such file").read_bytes()


@pytest.mark.parametrize("program", ["gateway", "up"])
@pytest.mark.parametrize("place", ["file", "below a file", "/proc/sundial"])
def test_a_home_that_cannot_be_written(tmp_path: Path, program: str, place: str) -> None:
    """A file in its place or on the way, a file system that takes none."""
    (tmp_path / "file").touch()
    home = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "home"}.get(place, Path(place))
    done = start(program, home)
    assert done.stderr.startswith("sundial: SUNDIAL_HOME: ")
    assert " cannot be written: " in done.stderr
    assert done.returncode == 2


def test_an_encoding_that_lacks_letters_ends_no_page() -> None:
    """Letters that a terminal's encoding does not have are replaced; the rest of the page follows."""
    script = (
        "from sundial import __main__ as m, output; m.run = lambda _: output.print_rich('relógio', 'sol'); m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "rel?gio\nsol\n", done.stderr


def test_an_installation_of_another_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`make up` in a folder that somebody else has installed says so, in one line."""

    def digest() -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/srv/sundial/.venv/installed")

    monkeypatch.setattr(install, "digest", digest)
    assert install.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("sundial: /srv/sundial/.venv/installed: Permission denied. ")
    assert said.count("\n") == 1
