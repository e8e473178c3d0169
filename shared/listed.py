"""Settings that are lists: paths that are passed on unmetered, proxies that are believed. Pure."""

import ipaddress
import re
from typing import Final

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What may be forwarded. HEAD is not among them: its answer announces a body that never comes."""
SEGMENT: Final = "[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
"""A plain segment of a path: not empty, and not made of dots."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PATH: Final = re.compile(rf"(?:({'|'.join(METHODS)}) )?(/(?:{SEGMENT}/)*(?:{SEGMENT}|\*))")


def paths(listed: str) -> tuple[tuple[str, str], ...]:
    """`GET /files, /vector_stores/*` → each method and path, `*` where no method is named.

    Raises ValueError for what is no such list, and for everything (`/*`).
    """
    found = []
    for entry in filter(None, (part.strip() for part in listed.split(","))):
        one = _PATH.fullmatch(entry)
        if one is None or one[2] == "/*":
            raise ValueError(f"{entry!r} is no path to forward; write for example GET /files or /vector_stores/*")
        found.append((one[1] or "*", one[2]))
    return tuple(found)


def networks(listed: str) -> tuple[Network, ...]:
    """`10.0.0.0/8, 127.0.0.1` → networks. Raises ValueError with what is wrong."""
    return tuple(ipaddress.ip_network(part.strip()) for part in listed.split(",") if part.strip())
