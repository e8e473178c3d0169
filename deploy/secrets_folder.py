"""What `sundial up` keeps between starts: secrets and ports in `.sundial/secrets`, and `.sundial/env` for shells."""

import hashlib
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.ports import claim, free_port, port_is_free
from deploy.server_process import write_secret
from sundial.key_secret import PREFIX as OUR_KEYS

MARKER: Final = "SUNDIAL_ENV"
"""The variable of `.sundial/env` that tells which of its values are ours: their digests."""
SECRET_BYTES: Final = 24
HISTORY_LINES_MAX: Final = 1_000
"""Values of `.sundial/env` that are remembered as ours, the oldest forgotten first."""


class Kept:
    """The folder's small files. Every one can be deleted: it is made again."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "secrets"
        self._env = home / "env"
        self._history = self._folder / "env_history"
        home.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def secret(self, name: str) -> str:
        """A secret by name, made on first use."""
        kept = self.read(name)
        if not kept:
            kept = secrets.token_urlsafe(SECRET_BYTES)
            self.write(name, kept)
        return kept

    def read(self, name: str) -> str:
        """Empty where there is none."""
        path = self._folder / name
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""

    def write(self, name: str, text: str) -> None:
        write_secret(self._folder / name, text)

    def port(self, name: str, asked: int, usual: int = 0) -> int:
        """The port asked for; else the one of last time, the usual one or any other, whichever is free first and not
        claimed by another `sundial up` or another part of this one. Raises NoFreePortError."""
        if asked:
            return asked
        kept = self.read(f"{name}-port")
        for candidate in (int(kept) if kept.isdigit() else 0, usual):
            if candidate and port_is_free(candidate) and claim(candidate, name):
                chosen = candidate
                break
        else:
            while not claim(chosen := free_port(), name):
                pass
        self.write(f"{name}-port", str(chosen))
        return chosen

    def write_env(self, values: Mapping[str, str], wishes: Mapping[str, str] | None = None) -> Path:
        """Write `.sundial/env` in shell syntax, and remember its values as ours, but for what repeats the operator's
        wishes. The file's own line MARKER says the same: a shell that has loaded it outlives this folder."""
        wished = (wishes or {}).items()
        marks = [_mark(name, value) for name, value in values.items() if (name, value) not in wished]
        lines = ["# Written by `sundial up`. Load it with:  set -a; . .sundial/env; set +a"]
        lines += [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        lines += [f"{MARKER}={','.join(marks)}"]
        write_secret(self._env, "\n".join(lines) + "\n")
        known = self.read("env_history").split()
        added = [mark for mark in marks if mark not in known]
        self.write("env_history", "\n".join([*known, *added][-HISTORY_LINES_MAX:]))
        return self._env

    def without_ours(self, environment: Mapping[str, str]) -> dict[str, str]:
        """An environment less what came from an earlier `.sundial/env`, of this folder or another.

        A shell that has loaded the file names our own servers and a key of our own gateway: taken for the operator's
        wish, they would make the chain call itself.
        """
        ours = {*self.read("env_history").split(), *environment.get(MARKER, "").split(",")}
        return {
            name: value
            for name, value in environment.items()
            if name != MARKER
            and _mark(name, value) not in ours
            and not (name == "OPENAI_API_KEY" and value.startswith(OUR_KEYS))
        }


def _mark(name: str, value: str) -> str:
    return hashlib.sha256(f"{name}={value}".encode("utf-8", "surrogateescape")).hexdigest()
