"""Ports that are chosen for servers: nobody else gets one before its server listens, nor while it is restarted."""

import errno
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy import ports
from deploy.ports import LISTENING_PORT_MIN, claim, free_port
from deploy.secrets_folder import Kept

CLAIM = """
import sys
from deploy import ports
ports.KERNEL_NAMES = sys.argv[2] == "linux"
print(ports.claim(int(sys.argv[1]), "litellm"), flush=True)
sys.stdin.read()
"""


def test_a_chosen_port_is_kept_for_a_server() -> None:
    """Who only looks for a port is refused this one; a server, which binds with SO_REUSEADDR, gets it."""
    port = free_port()
    with socket.socket() as looking, pytest.raises(OSError) as refused:
        looking.bind(("127.0.0.1", port))
    assert refused.value.errno == errno.EADDRINUSE
    with socket.socket() as several:  # as the gateway keeps it for its workers
        several.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        several.bind(("127.0.0.1", port))
    with (  # as asyncio, Redis and PostgreSQL listen
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)),
    ):
        server.accept()[0].close()


def test_no_port_is_chosen_twice() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == len(ports)
    assert min(ports) >= LISTENING_PORT_MIN


def test_ports_are_chosen_where_the_kernel_does_not_tell_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS: they lie below those that it gives to connections by the book."""
    monkeypatch.setattr(ports, "CONNECTION_PORTS", tmp_path / "nowhere")
    chosen = [free_port() for _ in range(100)]
    assert LISTENING_PORT_MIN <= min(chosen) <= max(chosen) < ports.CONNECTION_PORT_MIN


@pytest.mark.parametrize("system", ["linux", "another"])
def test_of_two_that_start_at_once_one_gets_the_usual_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str
) -> None:
    """Nobody listens yet on what another process has claimed, and yet it is not taken; its end gives it back."""
    monkeypatch.setattr(ports, "KERNEL_NAMES", system == "linux")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    usual = free_port()
    command = [sys.executable, "-c", CLAIM, str(usual), system]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    assert not claim(usual, "litellm")
    assert Kept(tmp_path / "one").port("litellm", 0, usual) != usual
    other.communicate()
    assert Kept(tmp_path / "two").port("litellm", 0, usual) == usual
    assert claim(usual, "litellm")
    assert not claim(usual, "gateway"), "another part of the same chain"
    third = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert third.stdout == "False\n"
