"""The result as tables, as JSON and as a picture; and the bars that it must meet."""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.rounds import Round
from tests.bench.scenarios import MEMORY_SCENARIOS, SCENARIOS
from tests.harness.stack import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"
JSON: Final = ROOT / "docs" / "performance.json"
PICTURE: Final = ROOT / "docs" / "performance.png"
_BEGIN: Final = "<!-- bench: written by make bench -->"
_END: Final = "<!-- /bench -->"
_NGINX: Final = "nginx"
_COMPARED: Final = {
    "nginx": "nginx", "Go ReverseProxy": "go", "LiteLLM proxy": "litellm", "Portkey": "portkey",
    "Sundial, 2 workers": "gateway",
}  # fmt: skip
_TITLES: Final = {scenario.name: scenario.title for scenario in (*SCENARIOS, *MEMORY_SCENARIOS)}
_UNITS: Final = {scenario.name: scenario.unit for scenario in SCENARIOS}

Value = Callable[[Round], float]


class Result(msgspec.Struct, frozen=True):
    """One run: rounds by scenario and candidate; kilobytes per open stream by candidate and scenario."""

    measured_at: str
    machine: str
    rounds: dict[str, dict[str, list[Round]]]
    memory_kb: dict[str, dict[str, float]]


class Bar(msgspec.Struct, frozen=True):
    """`value` of `ours` over `value` of `theirs` in the same scenario, at most `most`; with `added`, both less what
    the direct way takes."""

    text: str
    scenario: str
    theirs: str
    most: float
    value: Value
    added: bool = False


def _cpu(made: Round) -> float:
    return next((made.cpu_us[part] for part in ("gateway", *_COMPARED.values()) if part in made.cpu_us), 0.0)


def _chunk_p50(made: Round) -> float:
    return made.chunk_p50_us


def _chunk_p99(made: Round) -> float:
    return made.chunk_p99_us


def _first(made: Round) -> float:
    return made.first_p50_us


def _rate(made: Round) -> float:
    return 1 / made.seconds


BARS: Final = (
    Bar("CPU of a plain call, 64 parallel, over nginx", "call-64", _NGINX, 4, _cpu),
    Bar("CPU of a plain call, 64 parallel, over Go's proxy", "call-64", "Go ReverseProxy", 1, _cpu),
    Bar("CPU of a plain call, 64 parallel, over LiteLLM", "call-64", "LiteLLM proxy", 1 / 120, _cpu),
    Bar("CPU of a chunk, 100 streams, over nginx", "chunks-100", _NGINX, 1.25, _cpu),
    Bar("CPU of a chunk, 100 streams, over LiteLLM", "chunks-100", "LiteLLM proxy", 1 / 25, _cpu),
    Bar("CPU of a chunk, 100 streams, over Portkey", "chunks-100", "Portkey", 1 / 4, _cpu),
    Bar("Chunk latency p50, 100 streams, over nginx", "chunks-100", _NGINX, 1, _chunk_p50),
    Bar("Chunk latency p99, 100 streams, over nginx", "chunks-100", _NGINX, 1, _chunk_p99),
    Bar("First byte p50, added over direct, over nginx's", "first-byte", _NGINX, 5, _first, added=True),
    Bar("Chunk latency p50, 1,000 streams, over nginx", "chunks-1000", _NGINX, 1, _chunk_p50),
    Bar("Chunk latency p99, 1,000 streams, over nginx", "chunks-1000", _NGINX, 1.25, _chunk_p99),
    Bar("Calls a second, 64 parallel, over two workers'", "call-64", "Sundial, 2 workers", 1 / 1.8, _rate),
)
MEMORY_KB_MAX: Final = 60.0


def ratios(bar: Bar, rounds: dict[str, list[Round]]) -> list[float]:
    """Round by round; empty where one of them was not measured."""
    groups = [rounds.get(name, []) for name in ("Sundial", bar.theirs, "direct")]
    found = []
    for ours, theirs, direct in zip(*groups, strict=False):
        less = bar.value(direct) if bar.added else 0.0
        if bar.value(theirs) > less:
            found.append((bar.value(ours) - less) / (bar.value(theirs) - less))
    return found


def text(result: Result) -> str:
    """The report in Markdown."""
    parts = [f"Measured {result.measured_at} on {result.machine}. Medians of the rounds, least–most in brackets."]
    parts += ["**The bars**", _bars(result), "**CPU of the candidate, microseconds per unit**", _costs(result)]
    parts += ["**Latency, microseconds**", _latencies(result), "**The rest of the chain, CPU microseconds per unit**"]
    parts += [_chain(result)]
    if result.memory_kb:
        parts += ["**Memory per open stream, kB**", _memory(result)]
    for name in _names(result):
        wrong = sum(made.wrong for found in result.rounds.values() for made in found.get(name, []))
        if wrong:
            parts.append(f"{name} gave {wrong} wrong answers (streams that it cut).")
    return "\n\n".join(parts)


def write(result: Result) -> None:
    """Store the report in the page, the figures beside it, and the picture."""
    JSON.write_text(json.dumps(msgspec.to_builtins(result), indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(_BEGIN)[0], page.split(_END)[1]
    PAGE.write_text(f"{before}{_BEGIN}\n\n{text(result)}\n\n{_END}{after}", encoding="utf-8")
    draw(result, PICTURE)


def draw(result: Result, path: Path) -> None:
    """Cost beside nginx, and chunk latency; logarithmic."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (costs, latency) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    names = list(dict.fromkeys(name for found in result.rounds.values() for name in found if name != "direct"))
    streams = [name for name in result.rounds if _UNITS[name] == "chunk"]
    for axis, value, title, scenarios in (
        (costs, _cpu, "CPU of the candidate per unit, µs", list(result.rounds)),
        (latency, _chunk_p99, "chunk latency, 99th percentile, µs", streams),
    ):
        width = 0.8 / max(1, len(names))
        for at, name in enumerate(names):
            heights = [
                statistics.median(map(value, result.rounds[scenario][name])) if name in result.rounds[scenario] else 0
                for scenario in scenarios
            ]
            axis.bar([x + at * width for x in range(len(scenarios))], heights, width, label=name)
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xticks([x + 0.4 - width / 2 for x in range(len(scenarios))], scenarios, rotation=35, ha="right")
    costs.legend()
    figure.savefig(path, dpi=110)


# Tables -------------------------------------------------------------------------------------------------------


def _bars(result: Result) -> str:
    rows = []
    for bar in BARS:
        if found := ratios(bar, result.rounds.get(bar.scenario, {})):
            middle = statistics.median(found)
            verdict = "met" if middle <= bar.most else "**missed**"
            rows.append([bar.text, f"{bar.most:.3g}", _spread(found, 3), verdict])
        else:
            rows.append([bar.text, f"{bar.most:.3g}", "–", "not measured"])
    if "Sundial" in result.memory_kb:
        taken = max(result.memory_kb["Sundial"].values())
        verdict = "met" if taken <= MEMORY_KB_MAX else "**missed**"
        rows.append(["Memory per open stream, kB", f"{MEMORY_KB_MAX:.0f}", f"{taken:.1f}", verdict])
    return table(["bar", "at most", "measured", ""], rows)


def _costs(result: Result) -> str:
    names = [name for name in _names(result) if name != "direct"]
    rows = []
    for scenario, found in result.rounds.items():
        base = statistics.median(map(_cpu, found[_NGINX])) if _NGINX in found else 0.0
        row = [f"{_TITLES[scenario]} (per {_UNITS[scenario]})"]
        for name in names:
            costs = [_cpu(made) for made in found.get(name, [])]
            times = f" = {statistics.median(costs) / base:.2f} ×" if costs and base and name != _NGINX else ""
            row.append(_spread(costs, 3) + times)
        rows.append(row)
    return table(["scenario", *names], rows)


def _latencies(result: Result) -> str:
    names = _names(result)
    rows = []
    for scenario, found in result.rounds.items():
        kinds: tuple[tuple[str, Value], ...] = (("chunk p50", _chunk_p50), ("chunk p99", _chunk_p99))
        if _UNITS[scenario] == "call":
            kinds = (("first byte p50", _first), ("call p50", lambda made: made.total_p50_us))
        for kind, value in kinds:
            rows.append(
                [
                    f"{_TITLES[scenario]}: {kind}",
                    *(_spread([value(r) for r in found.get(name, [])], 3) for name in names),
                ]
            )
    return table(["", *names], rows)


def _chain(result: Result) -> str:
    rows = []
    for scenario, found in result.rounds.items():
        made = found.get("Sundial", [])
        parts = [_spread([each.cpu_us[part] for each in made], 3) for part in ("redis", "meter", "postgres")]
        rows.append([f"{_TITLES[scenario]} (per {_UNITS[scenario]})", *parts])
    return table(["scenario", "Redis", "meter", "Postgres"], rows)


def _memory(result: Result) -> str:
    names = list(result.memory_kb)
    rows = [
        [scenario.title, *(f"{result.memory_kb[name][scenario.name]:.1f}" for name in names)]
        for scenario in MEMORY_SCENARIOS
        if all(scenario.name in result.memory_kb[name] for name in names)
    ]
    return table(["", *names], rows)


def _names(result: Result) -> list[str]:
    return list(dict.fromkeys(name for found in result.rounds.values() for name in sorted(found, key=_rank)))


def _rank(name: str) -> int:
    known = ["direct", *_COMPARED]
    return known.index(name) if name in known[:3] else 4 if name in known else 3


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return _number(values[0], digits)
    least, most = min(values), max(values)
    return f"{_number(statistics.median(values), digits)} ({_number(least, digits)}–{_number(most, digits)})"


def _number(value: float, digits: int) -> str:
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
