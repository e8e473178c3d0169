"""The Lua scripts, adapted to the server that runs them."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

_FOLDER: Final = Path(__file__).parent / "lua"
_FLAGS: Final = "-- flags: "


class Script(msgspec.Struct, frozen=True):
    """A script as one server version takes it, and the SHA-1 under which EVALSHA finds it."""

    name: str
    text: str
    sha1: str


@cache
def load(name: str, server_major: int) -> Script:
    """`name` is a file in shared/lua; `server_major` the first number of Redis's version.

    Script flags came with Redis 7.0, as a `#!lua flags=…` line that is a syntax error in 6.2: there settle and apply
    are refused when memory is full, which is why production asks for Redis 7 or Valkey.
    """
    text = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    if first.startswith(_FLAGS) and server_major >= 7:
        text = f"#!lua flags={first.removeprefix(_FLAGS).strip()}\n{rest}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
