"""Counters and histograms for the metrics of requests, read by Prometheus's client when it is asked for them.

Its own metrics take a dozen calls and a lock for each value; these take one call, or none. Values are changed
on the event loop only, and may be read in a thread meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


@dataclass(slots=True)
class Count:
    """The counter of one set of labels."""

    value: float = 0


class Counter(Collector):
    """A counter by labels; its name in the exposition ends in `_total`."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._counts: dict[Labels, Count] = {}
        registry.register(self)

    def labels(self, *values: object) -> Count:
        return self._counts.setdefault(tuple(map(str, values)), Count())

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count.value)
        yield family


@dataclass(slots=True)
class Distribution:
    """The histogram of one set of labels. `counts`: of the values up to each bound, and above all of them."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """A histogram by labels. `bounds`: the upper bounds of its buckets, ascending."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Labels, bounds: Sequence[float]
    ) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._distributions: dict[Labels, Distribution] = {}
        registry.register(self)

    def labels(self, *values: object) -> Distribution:
        return self._distributions.setdefault(tuple(map(str, values)), Distribution(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, found in list(self._distributions.items()):
            buckets = list(zip(self._names, accumulate(found.counts), strict=True))
            family.add_metric(labels, buckets, found.total)
        yield family
