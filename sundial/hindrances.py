"""What hinders a program's start, in one line that names the setting to change."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sundial.problems import UnreachableError, WrongUsageError

_OF_LISTENING: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


@contextmanager
def border(program: str, home: Path, settings: Any = None, listeners: tuple[str, ...] = ()) -> Iterator[None]:
    """While a program runs: what a setting may be to blame for becomes WrongUsageError, or UnreachableError.

    `listeners`: what the program listens for, each with a `…_host` and a `…_port` among its settings.
    """
    from shared.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        raise WrongUsageError(str(error)) from None
    except (OSError, UnicodeError) as error:
        if mistake := _of_home(error, home) or _of_listeners(error, settings, listeners):
            raise WrongUsageError(mistake) from error
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise WrongUsageError(
                f"the {program} cannot listen: {error.strerror or error}. End what listens there, or set another port."
            ) from error
        if isinstance(error, ConnectionError | TimeoutError):
            raise UnreachableError(
                f"the {program} cannot reach a server it needs: {error}. See: sundial doctor"
            ) from error
        raise


def _of_home(error: Exception, home: Path) -> str:
    """Whether it is about a file in this folder, or on the way there."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return ""
    path = Path(error.filename).absolute()
    for folder in (home.absolute(), Path(os.path.realpath(home))):
        if path.is_relative_to(folder) or folder.is_relative_to(path):
            return f"SUNDIAL_HOME: {error.filename} cannot be written: {error.strerror}"
    return ""


def _of_listeners(error: Exception, settings: Any, listeners: tuple[str, ...]) -> str:
    """The error names no setting, and that of an unknown host not even the host: each is tried again."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno not in _OF_LISTENING:
        return ""
    ports: dict[int, str] = {}
    for name in listeners:
        host, port = getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port")
        setting = f"SUNDIAL_{name.upper()}"
        if port and port in ports:
            return f"{setting}_PORT: port {port} is {ports[port]}_PORT too"
        ports[port] = setting
        if mistake := _of_listener(setting, host, port):
            return mistake
    return ""


def _of_listener(setting: str, host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        return f"{setting}_HOST: {host} is no address, and no name of one"
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    return f"{setting}_HOST: {host} is no address of this machine"
                if error.errno == errno.EACCES:
                    return f"{setting}_PORT: port {port} needs rights that this user does not have"
                if error.errno == errno.EADDRINUSE:
                    return f"{setting}_PORT: port {port} is in use. End what listens there, or set another port."
    return ""
