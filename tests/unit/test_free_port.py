"""Ports that are chosen for servers: nobody else gets one before its server listens, nor while it is restarted."""

import errno
import socket

import pytest

from deploy.server_process import LISTENING_PORT_MIN, free_port


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
