"""TCP ports of 127.0.0.1 for servers that start later: found, kept and claimed."""

import contextlib
import fcntl
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, Final

FREE_PORT_TRIES: Final = 200
"""How many ports are tried for one that is free."""
LISTENING_PORT_MIN: Final = 15_000
"""The lowest port that is chosen where none is asked for."""
LISTENING_PORTS_MIN: Final = 1_000
"""Fewer ports than these are not worth choosing among."""
CONNECTION_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
CONNECTION_PORT_MIN: Final = 49_152
"""The lowest port that a kernel gives to connections where it does not tell: IANA's, which macOS keeps to."""
KERNEL_NAMES: Final = sys.platform.startswith("linux")
"""Whether a socket may have a name that is in no folder."""

_claims: dict[int, tuple[str, socket.socket | BinaryIO]] = {}
"""What this process has claimed and for which part of it, for as long as it lives."""


class NoFreePortError(RuntimeError):
    """No port was found that nobody uses."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, kept for a minute for whoever binds it with SO_REUSEADDR
    or SO_REUSEPORT.

    Servers bind so, and this function and the kernel do not: a connection that we closed first leaves the port in
    TIME_WAIT. It lies below those the kernel gives to connections, so that none has it while its server is restarted.
    Raises NoFreePortError where FREE_PORT_TRIES do not find one.
    """
    for _ in range(FREE_PORT_TRIES):
        with socket.socket() as listener, socket.socket() as caller, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", _any_port()))
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # for the next one, not for ourselves
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.listen(1)
            caller.connect(listener.getsockname())
            listener.accept()[0].close()
            return int(listener.getsockname()[1])
    raise NoFreePortError("no free port of 127.0.0.1 was found; end other servers or name a port")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on it now."""
    return not trouble(port)


def trouble(port: int) -> str:
    """Why no server could listen on it now; empty where one could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return "needs rights that this user does not have"
        except OSError:
            return "is in use by another program"
    return ""


def claim(port: int, part: str) -> bool:
    """Whether it is that part's of ours from here on, until this process ends: nobody else who asks is told the same.

    A port is looked at long before its server listens: LiteLLM takes ten seconds, and of two chains that start at once
    each would find 4000 free, and then speak to the LiteLLM of the other. The claim vanishes with the process however
    that ends: on Linux it is a name of the kernel's, in the port's own network namespace, elsewhere a locked file.
    """
    if port in _claims:
        return _claims[port][0] == part
    hold = _name(port) if KERNEL_NAMES else _locked_file(port)
    if hold is None:
        return False
    _claims[port] = part, hold
    return True


def _name(port: int) -> socket.socket | None:
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0sundial/port/{port}")
    except OSError:
        name.close()
        return None
    return name


def _locked_file(port: int) -> BinaryIO | None:
    """Read by all and written by nobody: a lock needs no more, and another user's file serves as well."""
    path = Path(tempfile.gettempdir()) / f"sundial-port-{port}"
    try:
        hold = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    except OSError:
        return None
    file = os.fdopen(hold, "rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _any_port() -> int:
    """One that no connection gets by itself; 0, which is any, where the kernel leaves too few of them."""
    try:
        outgoing = int(CONNECTION_PORTS.read_text(encoding="ascii").split()[0])
    except OSError:  # no Linux
        outgoing = CONNECTION_PORT_MIN
    ports = range(LISTENING_PORT_MIN, outgoing)
    return secrets.choice(ports) if len(ports) >= LISTENING_PORTS_MIN else 0
