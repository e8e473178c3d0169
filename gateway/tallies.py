"""Metrics that every call counts, kept as plain integers and rendered when they are asked for.

prometheus-client's own take a lock and four functions each time that one of them counts, and a call counts nine times.
These say the same at /metrics, as the same kinds of metrics. Not thread-safe: they are counted, and asked for, on the
event loop alone.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_US_PER_S: Final = 1_000_000


class Tally(Collector):
    """A counter of integers. `tally.counts[labels] += number`, where nothing is ever taken away."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        begun: Sequence[tuple[str, ...]] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """`name`: with its `_total`. `begun`: what is shown before it has counted anything; without labels that is all
        there is, at `()`."""
        self._name, self._documentation, self._labels = name, documentation, labels
        self.counts = _Counts()
        """By the values of the labels, in their order."""
        for values in begun if labels else ((),):
            self.counts[values] += 0
        registry.register(self)

    def describe(self) -> list[Metric]:
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, count in self.counts.items():
            family.add_metric(labels, count, created=self.counts.since_s[labels])
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._documentation, labels=self._labels)


class _Counts(dict[tuple[str, ...], int]):
    """Counts that begin when they are first looked at, and know when that was."""

    def __init__(self) -> None:
        super().__init__()
        self.since_s: dict[tuple[str, ...], float] = {}
        """Unix time at which each began."""

    def __missing__(self, labels: tuple[str, ...]) -> int:
        self.since_s[labels] = time.time()
        return 0


class Durations:
    """How many durations fell between which bounds."""

    __slots__ = ("bounds_us", "counts", "since_s", "sum_us")

    def __init__(self, bounds_us: Sequence[int]) -> None:
        self.bounds_us = bounds_us
        """Each belongs to what is below it."""
        self.counts = [0] * (len(bounds_us) + 1)
        """Up to each bound, but above the one before; the last one: above all of them."""
        self.sum_us = 0
        self.since_s = time.time()

    def observe(self, duration_us: int) -> None:
        self.counts[bisect_left(self.bounds_us, duration_us)] += 1
        self.sum_us += duration_us


class Spread(Collector):
    """A histogram of durations: counted in microseconds, told in seconds."""

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds_s: Sequence[float],
        label: str = "",
        values: Sequence[str] = ("",),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """`bounds_s`: ascending. `values`: all that the one label may have, if there is one."""
        self._name, self._documentation, self._label = name, documentation, label
        self._bounds = [*map(floatToGoString, bounds_s), "+Inf"]
        bounds_us = tuple(round(bound * _US_PER_S) for bound in bounds_s)
        self.by = {value: Durations(bounds_us) for value in values}
        """By the label's value; at '' where there is no label."""
        registry.register(self)

    def describe(self) -> list[Metric]:
        return [Metric(self._name, self._documentation, "histogram")]

    def collect(self) -> Iterator[Metric]:
        (metric,) = self.describe()
        for value, durations in self.by.items():
            labels = {self._label: value} if self._label else {}
            below = 0
            for bound, count in zip(self._bounds, durations.counts, strict=True):
                below += count
                metric.add_sample(f"{self._name}_bucket", {**labels, "le": bound}, below)
            metric.add_sample(f"{self._name}_count", labels, below)
            metric.add_sample(f"{self._name}_sum", labels, durations.sum_us / _US_PER_S)
            metric.add_sample(f"{self._name}_created", labels, durations.since_s)
        yield metric
