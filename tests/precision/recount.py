"""Recounts against recorded calls: prompts, answers, answers cut anywhere, and what it does to the books.

Each record holds the request, the answer and the provider's own count; README.md beside the data says where they come
from. What a record's truth is: the usage that came with it. Of an answer that was cut: the tokens of the text it holds,
counted here by a second, plain way.
"""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tiktoken

from gateway.recount.completion import Transcript, count_completion
from gateway.recount.estimate import estimate_prompt
from gateway.recount.foreign import foreign_of
from gateway.recount.prompt import count_prompt
from gateway.recount.tally import Recount
from gateway.recount.vocabulary import bare_name, encoding_for
from tests.precision import held_out
from tests.precision.recorded import (
    DATA,
    DEMANDS,
    Call,
    demand_of,
    ended_at,
    events_of,
    produced,
    read,
    stream,
    thought_ends,
)
from tests.precision.rows import Row

BEYOND = frozenset({"remote_image", "pdf", "file", "audio", "hidden_history", "hosted_tool"})
"""Flags of prompts that nobody but the provider can count."""

COUNTABLE = "all countable"
KINDS = (*DEMANDS, COUNTABLE, "beyond counting")
"""Kinds of prompts in the order of the table; the last cannot be counted by anybody but the provider."""

UNHEARD = "any call, without Anthropic's first event"
UNSEEN = "any call, the truth with hidden thought"
ABORTED_SHARE = 0.02
DRAWS = 500
CUTS_EACH = 5


def measure(path: Path = DATA, seed: int = 1) -> dict[str, Any]:
    """Everything, as `make precision` prints it: rows of prompts and of completions, cuts, traffic, and holds."""
    calls = list(read(path))
    recounts = {call.number: count_prompt(call.family, call.model, call.request) for call in calls}
    countable = [call for call in calls if not BEYOND & set(recounts[call.number].flags)]
    dice = random.Random(seed)
    return {
        "prompts": prompts(calls, recounts),
        "held_out": held_out.measure(countable, recounts, group_of),
        "completions": completions(calls),
        "cut": cuts(calls, dice),
        "traffic": [
            {"aborted": "countable", **traffic(calls, countable, recounts, dice)},
            {"aborted": "any call", **traffic(calls, calls, recounts, dice)},
            {"aborted": UNHEARD, **traffic(calls, calls, recounts, dice, heard=False)},
            {"aborted": UNSEEN, **traffic(calls, calls, recounts, dice, unseen=True)},
        ],
        "holds": holds(calls),
    }


# Prompts


def kind_of(call: Call, recount: Recount) -> str:
    """The most demanding thing in a prompt; what nobody but the provider can count stands for itself."""
    return KINDS[-1] if BEYOND & set(recount.flags) else demand_of(call.request)


def group_of(call: Call) -> str:
    """Whose vocabulary it is: OpenAI's own, one of the families that are estimated, or one that nobody measured."""
    name = bare_name(call.model)
    if call.openai:
        return f"OpenAI {call.family}" + (" (gpt-oss)" if name.startswith("gpt-oss") else "")
    if foreign_of(call.model) is None:
        return f"others {call.family}"
    return f"{'claude' if 'claude' in name else name.partition('-')[0]} {call.family}"


def prompts(calls: Iterable[Call], recounts: Mapping[int, Recount]) -> list[dict[str, Any]]:
    """OpenAI's calls by kind; what is estimated, by family alone."""
    rows: dict[tuple[str, str], Row] = {}
    for call in calls:
        recount = recounts[call.number]
        kind = kind_of(call, recount)
        kinds = {kind if call.openai or kind == KINDS[-1] else COUNTABLE}
        if kind != KINDS[-1]:
            kinds.add(COUNTABLE)
        for each in kinds:
            rows.setdefault((group_of(call), each), Row()).add(recount.tokens, call.tokens_in)
    return [row.shown(*key) for key, row in sorted(rows.items(), key=_order)]


def _order(item: tuple[tuple[str, str], Row]) -> tuple[bool, bool, str, int]:
    (group, kind), _ = item
    place = KINDS.index(kind) if kind in KINDS else 0
    return not group.startswith("OpenAI"), group.startswith("others"), group, place


# Completions


def completions(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """Whole answers, as if their usage had been lost."""
    rows: dict[tuple[str, str], Row] = {}
    for call in calls:
        if call.tokens_out and call.family != "embeddings":
            answer: Mapping[str, Any] | bytes = call.body if call.body is not None else stream(call.events)
            recount = count_completion(call.family, call.model, answer)
            hidden = call.thought or "hidden_reasoning" in recount.flags
            shape = "hidden thought" if hidden else "streams" if call.body is None else "JSON"
            rows.setdefault((group_of(call), shape), Row()).add(recount.tokens, call.tokens_out)
    return [row.shown(*key) for key, row in sorted(rows.items(), key=_order)]


def cuts(calls: Iterable[Call], dice: random.Random) -> dict[str, Any]:
    """OpenAI's answers cut at random bytes: how many recounts equal the tokens of the text so far, how many do not."""
    cut = exact = 0
    wrong: list[str] = []
    for call in calls:
        if not call.openai or call.family not in ("chat", "responses"):
            continue
        events = [event for event in events_of(call) if not thought_ends(event)]
        raw = stream(events[: ended_at(events)])
        for _ in range(CUTS_EACH if raw else 0):
            prefix = raw[: dice.randrange(len(raw) + 1)]
            truth = sum(_plain(call.model, text) for text in produced(call.family, prefix).values())
            recount = count_completion(call.family, call.model, prefix)
            cut += 1
            exact += recount.tokens == truth
            if recount.tokens != truth and len(wrong) < 10:
                wrong.append(f"record {call.number} cut at byte {len(prefix)}: {recount.tokens} is not {truth}")
    return {"cut": cut, "exact": exact, "wrong": wrong}


def _plain(model: str, text: str) -> int:
    try:
        name = tiktoken.encoding_name_for_model(bare_name(model))
    except KeyError:
        name = "o200k_base"
    encoding = tiktoken.get_encoding("o200k_base" if name == "o200k_harmony" else name)
    return len(encoding.encode(text, disallowed_special=()))


# The books


def traffic(
    calls: list[Call],
    abortable: list[Call],
    recounts: Mapping[int, Recount],
    dice: random.Random,
    heard: bool = True,
    unseen: bool = False,
) -> dict[str, Any]:
    """The records as traffic of which a share is aborted at random points: booked tokens against the truth.

    A whole call is booked as the provider counted it. An aborted one is booked as recounted; its truth is the
    provider's count of the prompt and the tokens of what had been produced, at other providers than OpenAI the
    answer's count by the share of its characters. Anthropic counts the prompt in the first event of a stream: that is
    the provider's word, and booked as such where it is `heard`. Thought that OpenAI hides was produced before the first
    event that shows anything: sealed thought is in the truth always, all of it where the truth holds the `unseen`.
    """
    for call in calls:
        encoding_for(call.model)
    able = [call for call in abortable if call.family != "embeddings"]
    streams = {call.number: events_of(call) for call in able}
    known = {number: raw for number, events in streams.items() if (raw := stream(events))}
    whole = sum(call.tokens_in + call.tokens_out for call in calls)
    errors: list[float] = []
    for _ in range(DRAWS):
        booked = truth = whole
        for call in dice.sample(able, max(1, round(len(calls) * ABORTED_SHARE))):
            raw = known.get(call.number, b"")
            prefix = raw[: dice.randrange(len(raw) + 1)]
            came = _came(call, raw, prefix, unseen)
            recounted = count_completion(call.family, call.model, prefix).tokens - call.tokens_out
            if call.family != "messages" or not heard:
                recounted += recounts[call.number].tokens - call.tokens_in
            booked += recounted
            truth += came - call.tokens_out
        errors.append(100 * (booked / truth - 1))
    ordered = sorted(abs(error) for error in errors)
    return {
        "calls": len(calls),
        "aborted_percent": 100 * ABORTED_SHARE,
        "draws": DRAWS,
        "mean_error_percent": sum(errors) / DRAWS,
        "median_absolute_error_percent": ordered[DRAWS // 2],
        "p95_absolute_error_percent": ordered[DRAWS * 95 // 100],
    }


def _came(call: Call, raw: bytes, prefix: bytes, unseen: bool) -> int:
    texts = produced(call.family, prefix)
    if call.openai:
        sealed = b'"encrypted_content": "' in prefix.rpartition(b"\n\n")[0]
        thought = call.thought if sealed or (unseen and any(texts.values())) else 0
        shown = (
            _plain(call.model, text) for (_, *kind), text in texts.items() if not sealed or "summary" not in kind[-1]
        )
        return thought + sum(shown)
    everything = sum(map(len, produced(call.family, raw).values()))
    return round(call.tokens_out * sum(map(len, texts.values())) / everything) if everything else 0


# Holds


def holds(calls: Iterable[Call]) -> dict[str, Any]:
    """The cheap estimates for holds: of prompts against the provider's count, of answers against our own."""
    asked: list[tuple[float, str]] = []
    answered: list[tuple[float, str]] = []
    for call in calls:
        request = {"model": call.model, **call.request}
        size = len(json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode())
        asked.append(_ratio(call, estimate_prompt(size, request), call.tokens_in))
        transcript = Transcript(call.family)
        transcript.add(stream(events_of(call)) if call.family != "embeddings" else b"")
        counted = transcript.count(call.model).tokens
        if counted:
            answered.append(_ratio(call, transcript.estimate(), counted))
    return {"prompts": _spread(asked), "answers": _spread(answered)}


def _ratio(call: Call, estimate: int, counted: int) -> tuple[float, str]:
    return estimate / counted, f"record {call.number} ({call.model}): {estimate} for {counted}"


def _spread(ratios: list[tuple[float, str]]) -> dict[str, Any]:
    ratios.sort()
    return {
        "calls": len(ratios),
        "below": [text for ratio, text in ratios if ratio < 1],
        "times_median": ratios[len(ratios) // 2][0],
        "times_p90": ratios[len(ratios) * 9 // 10][0],
    }
