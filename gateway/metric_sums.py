"""Metrics of several processes as those of one: pages of /metrics, added up. Pure.

Counters and histograms add up, also over processes that are gone: a sum that fell would look like a restart of them
all. Gauges add up over those that live, but for the few of which a sum means nothing.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Page = Mapping[str, Metric]
"""Metrics by name."""

_LASTING: Final = ("counter", "histogram", "summary")
_CREATED: Final = "_created"
_NO_SUMS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "python_info": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "sundial_gateway_ready": min,
    "sundial_gateway_overload": max,
    "sundial_gateway_journal_reach_seconds": min,
}


def parsed(text: str) -> Page:
    """Raises ValueError for what is no page of metrics."""
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def added(pages: Iterable[Page]) -> Page:
    """One page with the metrics of all, each with the labels that any of them has."""
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for name, metric in page.items():
            found.setdefault(name, metric)
            known, add = values.setdefault(name, {}), _addition(name)
            for sample in metric.samples:
                series = sample.name, tuple(sample.labels.items())
                known[series] = add(known[series], sample.value) if series in known else sample.value
    return {name: _with(metric, values[name]) for name, metric in found.items()}


def lasting(page: Page) -> Page:
    """What stays true of a process that is gone."""
    return {name: metric for name, metric in page.items() if metric.type in _LASTING}


def rendered(page: Page) -> bytes:
    """As /metrics says it."""
    return generate_latest(_Collected(page))


def _addition(name: str) -> Callable[[float, float], float]:
    return min if name.endswith(_CREATED) else _NO_SUMS.get(name, operator.add)


def _with(metric: Metric, values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> Metric:
    made = Metric(metric.name, metric.documentation, metric.type)
    made.samples = [Sample(name, dict(labels), value) for (name, labels), value in values.items()]
    return made


class _Collected(Collector):
    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        yield from self._page.values()
