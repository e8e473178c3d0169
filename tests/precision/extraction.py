"""How exactly usage is read from recorded answers: every recorded call that carries usage, through the product's code.

The expectations below are written per host, from what each provider documents, and share nothing with the rules that
they check.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.answer import read_answer
from gateway.sse import SseTap
from shared.usage_rules import normalise
from tests.precision.recorded import DEMANDS, demand_of
from tests.precision.rows import Row

CUTS: Final = 12
"""Places at which each stream is cut, besides whole and in pieces of 1 and 7 bytes."""
STYLES: Final = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}

Counts = tuple[int, int, int, int]
"""Tokens in, tokens out, cached, reasoning."""


def measure(path: Path) -> dict[str, Any]:
    """Reads the recorded calls at `path`.

    Returns their number, `calls` and `exact`; `rows` by family and kind of request, streams apart; and `wrong`: for
    each call that is not exact, its line number, what was expected and what came out. A stream is exact when all of
    its counts are at every cut; else its worst cut counts.
    """
    table: dict[tuple[str, int, bool], Row] = {}
    wrong: list[dict[str, Any]] = []
    for line, call in enumerate(recorded(path)):
        expected = expectation(call)
        if expected is None:
            continue
        streamed = call["chunks"] is not None
        got = _streamed(call, random.Random(line)) if streamed else _plain(call)
        key = family_of(call), DEMANDS.index(demand_of(call["request"])), streamed
        true = _tokens(expected)
        worst = max(map(_tokens, got), key=lambda tokens: abs(tokens - true))
        table.setdefault(key, Row()).add(worst, true, exact=got == {expected})
        if got != {expected}:
            wrong.append({"line": line + 1, "host": call["host"], "expected": expected, "got": sorted(got)})
    rows = [
        row.shown(family, DEMANDS[demand] + (", streamed" if streamed else ""))
        for (family, demand, streamed), row in sorted(table.items(), key=lambda item: item[0])
    ]
    return {
        "calls": sum(row["calls"] for row in rows),
        "exact": sum(row["exact"] for row in rows),
        "rows": rows,
        "wrong": wrong,
    }


def _tokens(counts: Counts) -> int:
    tokens_in, tokens_out, _, _ = counts
    return tokens_in + tokens_out


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def family_of(call: dict[str, Any]) -> str:
    path = call["path"].partition("#")[0]
    for ending, family in (
        ("/chat/completions", "chat"),
        ("/responses", "responses"),
        ("/messages", "messages"),
        ("/embeddings", "embeddings"),
    ):
        if path.endswith(ending):
            return family
    return "other"


def provider_of(host: str) -> str:
    """LiteLLM's name of the provider, as the gateway has it from the price of the model."""
    for part, provider in (("api.x.ai", "xai"), ("googleapis", "gemini"), ("anthropic", "anthropic")):
        if part in host:
            return provider
    return ""


def wire(call: dict[str, Any], eol: bytes = b"\n") -> bytes:
    """The recorded chunks as their provider sends them, with lines that end in `eol`."""
    lines: list[bytes] = []
    for chunk in call["chunks"]:
        if family_of(call) in ("responses", "messages"):
            lines.append(b"event: " + str(chunk.get("type")).encode())
        lines += [b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode(), b""]
    if family_of(call) == "chat":
        lines += [b"data: [DONE]", b""]
    return b"".join(line + eol for line in lines)


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """`data` in pieces that begin at 0 and at each place in `at`."""
    return [data[start:end] for start, end in zip((0, *at), (*at, len(data)), strict=True)]


def expectation(call: dict[str, Any]) -> Counts | None:
    """What the provider billed, by its own documentation; None where the answer carries no usage."""
    found = [call["response"]] if call["chunks"] is None else call["chunks"]
    holders = [holder for part in found for holder in (part, part.get("response"), part.get("message"))]
    usages = [holder["usage"] for holder in holders if isinstance(holder, dict) and holder.get("usage")]
    if not usages:
        return None
    last = usages[-1]
    host = call["host"]
    if "anthropic" in host:
        first = usages[0]
        cached = first.get("cache_read_input_tokens", 0)
        written = first.get("cache_creation_input_tokens", 0)
        return first["input_tokens"] + cached + written, last["output_tokens"], cached, 0
    if "voyage" in host:
        return last["total_tokens"], 0, 0, 0
    if family_of(call) == "responses":
        cached = last["input_tokens_details"]["cached_tokens"]
        return last["input_tokens"], last["output_tokens"], cached, last["output_tokens_details"]["reasoning_tokens"]
    tokens_in, tokens_out = last["prompt_tokens"], last.get("completion_tokens", 0)
    cached = last.get("prompt_cache_hit_tokens")
    if cached is None:
        cached = last.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    if "rubyllm.services.ai.azure" in host:
        cached = min(cached, tokens_in)  # Azure's Grok counts its hidden prompt as cached, but not as prompt
    reasoning = last.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    if host == "api.x.ai":
        tokens_out += reasoning
    return tokens_in, tokens_out, cached, reasoning


def _counts(raw: dict[str, Any] | None, call: dict[str, Any]) -> Counts:
    usage = normalise(raw, family=family_of(call), provider=provider_of(call["host"])).usage
    return usage.tokens_in, usage.tokens_out, usage.cached, usage.reasoning


def _plain(call: dict[str, Any]) -> set[Counts]:
    answer = read_answer(family_of(call), json.dumps(call["response"]).encode())
    return {_counts(answer.usage_raw, call)}


def _streamed(call: dict[str, Any], chance: random.Random) -> set[Counts]:
    """All results that any way to cut the stream gives: one, if the observer is right."""
    results = set()
    for eol in STYLES.values():
        data = wire(call, eol)
        ways = [cut(data, ()), cut(data, range(1, len(data))), cut(data, range(7, len(data), 7))]
        ways += [cut(data, (chance.randrange(1, len(data)),)) for _ in range(CUTS)]
        for pieces in ways:
            tap = SseTap(family_of(call), strip_usage=True)
            for piece in pieces:
                tap.feed(piece)
            tap.finish()
            results.add(_counts(tap.usage_raw, call))
    return results
