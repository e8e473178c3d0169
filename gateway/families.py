"""Endpoint families: what each path is, and how it is counted. A path that is not here is refused."""

from typing import Final, Literal

import msgspec

Treatment = Literal["metered", "free"]


class Family(msgspec.Struct, frozen=True):
    """One kind of endpoint. `metered`: held, counted, charged. `free`: answered to any valid key, never charged."""

    name: str
    method: str
    path: str
    """Below the base URL, as clients and upstream write it."""
    treatment: Treatment
    streams: bool = False


FAMILIES: Final = (
    Family("chat", "POST", "/chat/completions", "metered", streams=True),
    Family("models", "GET", "/models", "free"),
)

BASE_PATH: Final = "/v1"
