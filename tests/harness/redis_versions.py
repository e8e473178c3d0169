"""Every Redis server that this machine has: the wheel's (6.2), and the one on PATH where it is 7 or later."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from deploy.binaries import BinaryMissingError, redis_server
from deploy.embedded import EmbeddedRedis


class RedisProgram(EmbeddedRedis):
    """Redis as EmbeddedRedis runs it, of one program."""

    def __init__(self, home: Path, program: Path, **settings: str) -> None:
        super().__init__(home, die_with_parent=True, settings=settings)
        self._program = program

    def _command(self) -> list[str]:
        return [str(self._program), *super()._command()[1:]]


@cache
def programs() -> dict[str, Path]:
    """Major version → program; empty where there is no Redis at all."""
    found: dict[str, Path] = {}
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    try:
        candidates = [redis_server(), *(Path(path) for path in on_path if path)]
    except BinaryMissingError:
        candidates = [Path(path) for path in on_path if path]
    for program in candidates:
        printed = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
        if version := re.search(r"v=(\d+)", printed):
            found.setdefault(f"redis{version[1]}", program)
    return found


@contextmanager
def running(version: str, home: Path, **settings: str) -> Iterator[RedisProgram]:
    """A server of its own, ended with the block; `version` is a key of `programs`."""
    server = RedisProgram(home, programs()[version], **settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
