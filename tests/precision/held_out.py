"""How well the rules count calls of a project that they were not fitted to.

Each project's calls in turn are counted with constants that the other projects' calls determine: one that none of them
shows is taken away, the others are fitted anew to the smallest sum of absolute errors, from where they stand. The forms
of the rules stay; what they would be without a project's calls nobody can say. Left out are calls of models that one
project alone has called: there is nothing to fit those by.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import msgspec

from gateway.recount import chat, history, profiles, prompt
from gateway.recount.foreign import CLAUDE, Foreign, foreign_of
from gateway.recount.profiles import profile_of
from gateway.recount.tally import Recount
from tests.precision.recorded import Call

SWEEPS: Final = 10
"""Times that each constant is fitted with the others held."""
STEP: Final = 8
"""What a constant is moved by to see how often a call counts it."""

_CONSTANTS: Final = (
    (chat, "MESSAGE"),
    (chat, "NAME"),
    (chat, "ADDED_SYSTEM"),
    (chat, "FORMAT_MARK"),
    (history, "RESULT"),
)
_FRAMES: Final = ("CHAT", "CHAT_THINKER", "RESPONSES", "RESPONSES_THINKER")

Key = tuple[str, str]
"""Of whom a constant is (a frame, a family of models, or all of OpenAI), and its name."""
Weights = Mapping[Key, float]
"""Constant → how often a call counts it."""


class Case(msgspec.Struct, frozen=True):
    """One call: how far its recount is off, and how that depends on the constants."""

    project: str
    group: str
    counted: int
    error: int
    weights: Weights


def measure(
    calls: Sequence[Call], recounts: Mapping[int, Recount], group_of: Callable[[Call], str]
) -> list[dict[str, Any]]:
    """Rows by family: calls, tokens, and the summed absolute errors of the rules as they are, and held out."""
    cases = _cases(calls, recounts, group_of)
    moves = {project: _without(cases, project) for project in {case.project for case in cases}}
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        owners = {owner for owner, _ in moves[case.project]}
        if case.weights and not owners.intersection(owner for owner, _ in case.weights):
            continue
        row = rows.setdefault(case.group, {"family": case.group, "calls": 0, "tokens": 0, "fitted": 0.0, "held": 0.0})
        row["calls"] += 1
        row["tokens"] += case.counted
        row["fitted"] += abs(case.error)
        row["held"] += abs(case.error + _moved(case.weights, moves[case.project]))
    return [
        {
            "family": row["family"],
            "calls": row["calls"],
            "tokens": row["tokens"],
            "fitted_absolute_error_percent": 100 * row["fitted"] / row["tokens"],
            "held_out_absolute_error_percent": 100 * row["held"] / row["tokens"],
        }
        for _, row in sorted(rows.items(), key=lambda item: (not item[0].startswith("OpenAI"), item[0]))
    ]


def _cases(calls: Sequence[Call], recounts: Mapping[int, Recount], group_of: Callable[[Call], str]) -> list[Case]:
    weights: dict[int, dict[Key, float]] = {call.number: {} for call in calls}
    for name, moved in _moves():
        with moved:
            for call in calls:
                difference = prompt.count_prompt(call.family, call.model, call.request).tokens
                difference -= recounts[call.number].tokens
                if difference:
                    weights[call.number][_owner(call, name), name] = difference / STEP
    return [
        Case(
            call.source,
            group_of(call),
            call.tokens_in,
            recounts[call.number].tokens - call.tokens_in,
            weights[call.number],
        )
        for call in calls
    ]


def _owner(call: Call, name: str) -> str:
    foreign = foreign_of(call.model)
    if foreign is not None or call.family == "messages":
        return str(foreign or CLAUDE)
    if any(name == constant for _, constant in _CONSTANTS):
        return "OpenAI"
    return f"{call.family} {profile_of(call.model).reasoning}"


def _moves() -> Iterator[tuple[str, Any]]:
    """The name of each constant, and a context in which it is moved by STEP."""
    for module, name in _CONSTANTS:
        yield name, patch.object(module, name, getattr(module, name) + STEP)
    for name in _numbers(profiles.CHAT):
        yield name, _frames(name)
    for name in _numbers(CLAUDE):
        yield name, _foreigners(name)


def _numbers(struct: msgspec.Struct) -> list[str]:
    return [name for name in struct.__struct_fields__ if type(getattr(struct, name)) is int]


@contextmanager
def _frames(name: str) -> Iterator[None]:
    frames = {frame: getattr(profiles, frame) for frame in _FRAMES}
    moved = {frame: msgspec.structs.replace(old, **{name: getattr(old, name) + STEP}) for frame, old in frames.items()}
    profiles._thinker_chat.cache_clear()
    with patch.multiple(profiles, **moved):
        yield
    profiles._thinker_chat.cache_clear()


@contextmanager
def _foreigners(name: str) -> Iterator[None]:
    def moved(model: str) -> Foreign | None:
        found = foreign_of(model)
        return found and msgspec.structs.replace(found, **{name: getattr(found, name) + STEP})

    with patch.object(prompt, "foreign_of", moved):
        yield


def _without(cases: Iterable[Case], project: str) -> dict[Key, float]:
    """How far each constant moves when the calls of `project` are not there to determine it."""
    others = [case for case in cases if case.project != project]
    errors = [float(case.error) for case in others]
    seen: dict[Key, list[int]] = {}
    for at, case in enumerate(others):
        for key in case.weights:
            seen.setdefault(key, []).append(at)
    moves = dict.fromkeys(seen, 0.0)
    for _ in range(SWEEPS):
        for key, where in seen.items():
            step = _median([(-errors[at] / others[at].weights[key], abs(others[at].weights[key])) for at in where])
            moves[key] += step
            for at in where:
                errors[at] += step * others[at].weights[key]
    return moves


def _median(values: list[tuple[float, float]]) -> float:
    """The weighted median."""
    half = sum(weight for _, weight in values) / 2
    passed = 0.0
    for value, weight in sorted(values):
        passed += weight
        if passed >= half:
            return value
    return 0.0


def _moved(weights: Weights, moves: Mapping[Key, float]) -> float:
    """What other constants change of one count; a constant that is not among them is taken away."""
    return sum(weight * moves.get(key, -_value(key)) for key, weight in weights.items())


def _value(key: Key) -> float:
    owner, name = key
    for module, constant in _CONSTANTS:
        if constant == name and owner == "OpenAI":
            return float(getattr(module, name))
    for model, family in _OWNERS:
        frame = profile_of(model).chat if family == "chat" else profile_of(model).responses
        if owner == f"{family} {profile_of(model).reasoning}":
            return float(getattr(frame, name))
    return 0.0


_OWNERS: Final = (("gpt-4o", "chat"), ("gpt-5", "chat"), ("gpt-4o", "responses"), ("gpt-5", "responses"))
