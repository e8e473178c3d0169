"""Who tries keys that are none: counted by source address, in a bounded table. Pure, but for the time it is given.

A wrong key is answered 401; a source with too many of them reads 429 instead. A right key is served whatever its
neighbours behind the same address do: keys are too long to be guessed, so what is limited
is the noise, and a stranger cannot lock a whole office out.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from shared.listed import Network

GUESSES_MAX: Final = 20
"""Wrong keys of one source within GUESSES_S that are told to be wrong."""
GUESSES_S: Final = 60.0
SOURCES_MAX: Final = 4096
"""Sources that are remembered; the one that was quiet for longest is forgotten first."""
HOPS_MAX: Final = 16
"""Addresses of one X-Forwarded-For that are read, from its end."""
IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that name its source: one customer has all addresses below."""


def source(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address that a request comes from: the peer's, or, where that is a trusted proxy, the last one of
    X-Forwarded-For that is not. `forwarded_for`: its values, as they came."""
    found = _address(peer or "")
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")][-HOPS_MAX:]
    while hops and found is not None and any(found in network for network in trusted):
        before = _address(hops.pop())
        if before is None:
            break  # whatever stands there, the proxy is the last that we can believe in
        found = before
    if found is None:
        return ""
    if found.version == 6:
        return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
    return str(found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.version == 6 and found.ipv4_mapped) or found


class Guesses:
    """Wrong keys by source, within windows of GUESSES_S."""

    def __init__(self) -> None:
        self._sources: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sources)

    def count(self, source: str, now_s: float) -> int:
        """One more wrong key; how many that makes within the window."""
        began_s, number = self._sources.pop(source, (now_s, 0))
        if now_s - began_s >= GUESSES_S:
            began_s, number = now_s, 0
        self._sources[source] = (began_s, number + 1)
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return number + 1
