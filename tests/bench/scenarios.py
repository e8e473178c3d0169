"""What is measured: each scenario is a load, and the unit that its CPU is told in."""

import json
from typing import Any, Final, Literal

import msgspec

GAP_US: Final = 20_000
"""Microseconds between two chunks of one stream: 50 a second, as a fast model writes."""
BIG_BODY_BYTES: Final = 5_000_000
SLOWER: Final = 20
"""How many times fewer calls a slow candidate makes."""


class Scenario(msgspec.Struct, frozen=True):
    name: str
    title: str
    unit: Literal["call", "chunk"]
    connections: int
    """Calls or streams at once."""
    calls: int
    """In one round, all connections together."""
    chunks: int = 0
    """Of each answer; 0: not streamed."""
    gap_us: int = 0
    body_bytes: int = 0
    """By which the request's text is filled up."""
    for_slow: bool = False
    """Asked of slow candidates too."""

    @property
    def units(self) -> int:
        """What the CPU is divided by."""
        return self.calls * (self.chunks if self.unit == "chunk" else 1)

    def slower(self) -> "Scenario":
        """The same load with fewer calls, as many streams."""
        calls = self.calls if self.unit == "chunk" else max(self.calls // SLOWER, self.connections)
        return msgspec.structs.replace(self, calls=calls)

    def body(self) -> bytes:
        """A request as LibreChat sends it, with the upstream's order in its text."""
        order = f"bench chunks={self.chunks} gap_us={self.gap_us}. "
        text = order + "Explique como funciona um relógio de sol, em duas frases."
        body: dict[str, Any] = {
            "model": "gpt-4o-mini",
            "user": "6650c0ffee0123456789abcd",
            "messages": [
                {"role": "system", "content": "Você é um assistente prestativo. Responda em português."},
                {"role": "user", "content": text + "x" * self.body_bytes},
            ],
            "temperature": 1,
            "max_tokens": 4096,
        }
        if self.chunks:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return json.dumps(body, ensure_ascii=False).encode()


SCENARIOS: Final = (
    Scenario("call-1", "plain call, 1 at a time", "call", 1, 1_500),
    Scenario("call-16", "plain call, 16 parallel", "call", 16, 8_000),
    Scenario("call-64", "plain call, 64 parallel", "call", 64, 8_000, for_slow=True),
    Scenario("call-256", "plain call, 256 parallel", "call", 256, 8_000),
    Scenario("stream-1-chunk", "stream of 1 chunk, 16 parallel", "call", 16, 8_000, 1, for_slow=True),
    Scenario("first-byte", "first byte, 1 stream at a time", "call", 1, 1_000, 1, for_slow=True),
    Scenario("chunks-1", "1 stream, 50 chunks/s", "chunk", 1, 1, 100, GAP_US),
    Scenario("chunks-100", "100 streams, 50 chunks/s each", "chunk", 100, 100, 100, GAP_US, for_slow=True),
    Scenario("chunks-300", "300 streams, 50 chunks/s each", "chunk", 300, 300, 100, GAP_US),
    Scenario("chunks-1000", "1,000 streams, 50 chunks/s each", "chunk", 1_000, 1_000, 100, GAP_US),
    Scenario("no-gap", "8 streams as fast as they come", "chunk", 8, 8, 20_000),
    Scenario("body-5-mb", "request of 5 MB, 4 parallel", "call", 4, 60, body_bytes=BIG_BODY_BYTES),
)

MEMORY_SCENARIOS: Final = (
    Scenario("memory-1000", "memory, 1,000 open streams", "call", 1_000, 1_000, 4, 2_000_000),
    Scenario("memory-5000", "memory, 5,000 open streams", "call", 5_000, 5_000, 4, 4_000_000),
)
