"""Metrics of requests, for Prometheus. They are recorded once for each request, when it has ended.

Where the meaning is the same, our engine's metrics have the names that vLLM gives them, so that existing
dashboards work: docs/operations.md lists all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from headrace.backend_types import Distribution
from headrace.gateway.lifetime import SteeringTally, Tally
from headrace.types import Usage

MAX_SERIES = 500  # pairs of provider and model, and keys: callers choose some models' names
MAX_PROFILES = 100  # whose steered requests are counted by name
OTHER = "(other)"
SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)
CHOICES = (1, 2, 5, 10, 20)
DOSES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 2.0)  # relative
# names of vLLM's reasons: those of OpenAI, and
ABORTED, FAILED = "abort", "error"
KINDS = ("prompt", "completion", "cached", "reasoning")  # of tokens
NOTHING = Usage(0, 0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


# Prometheus's own counters and histograms take a dozen calls and a lock for each value; these take one call.
# Values are changed on the event loop only, and may be read in a thread meanwhile.
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


class Names(Collector):
    """The names of keys, for people, by the ids that other metrics have; each has the value 1."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str) -> None:
        self._name, self._text = name, text
        self.names: dict[str, str] = {}
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=("key", "name"))
        for labels in list(self.names.items()):
            family.add_metric(labels, 1)
        yield family


class Histogram(Collector):
    """A histogram by labels. `bounds`: the upper bounds of its buckets, ascending."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Labels, bounds: Sequence[float]
    ) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._distributions: dict[Labels, Distribution] = {}
        registry.register(self)

    def labels(self, *values: object) -> Distribution:
        return self._distributions.setdefault(tuple(map(str, values)), Distribution(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, distribution in list(self._distributions.items()):
            family.add_metric(labels, buckets(distribution), distribution.total)
        yield family


def buckets(distribution: Distribution) -> list[tuple[str, float]]:
    """For each upper bound, how many values are not above it, as in Prometheus's format."""
    names = [*map(floatToGoString, distribution.bounds), "+Inf"]
    return list(zip(names, accumulate(distribution.counts), strict=True))


@dataclass(frozen=True, slots=True)
class _Engine:
    """The series of one model of this machine, under vLLM's names."""

    first_token: Distribution
    token: Distribution
    whole: Distribution
    queue: Distribution
    prefill: Distribution
    decode: Distribution
    inference: Distribution
    prompt: Distribution
    computed: Distribution
    answer: Distribution
    longest: Distribution
    choices: Distribution
    limit: Distribution

    def record(self, tally: Tally) -> None:
        self.whole.observe(tally.took_s)
        if tally.started is not None:
            self.queue.observe(tally.started.queue_s)
            self.prefill.observe(tally.started.prefill_s)
            if tally.decode_s:
                self.inference.observe(tally.started.prefill_s + max(tally.decode_s))
            for decode_s in tally.decode_s:
                self.decode.observe(decode_s)
        if tally.first_byte_s is not None:
            self.first_token.observe(tally.first_byte_s)
        if tally.usage is not None:
            self.prompt.observe(tally.usage.prompt_tokens)
            self.computed.observe(tally.usage.prompt_tokens - tally.usage.cached_tokens)
            self.answer.observe(tally.usage.completion_tokens)
            if tally.num_choices:
                self.longest.observe(tally.longest)
                self.choices.observe(tally.num_choices)
                if tally.max_tokens is not None:
                    self.limit.observe(tally.max_tokens)
            gaps = tally.usage.completion_tokens - len(tally.decode_s)
            if gaps > 0 and tally.decode_s and tally.started is not None:
                self.token.observe(sum(tally.decode_s) / gaps)


@dataclass(frozen=True, slots=True)
class _Series:
    """The series of one model of one provider. `requests`: by status; `engine`: None for remote ones. Those
    that were used are kept: finding one by its labels takes longer than counting.
    """

    provider: str
    model: str
    first_byte: Distribution
    whole: Distribution
    retried: Count
    tokens: dict[str, Count]
    engine: _Engine | None
    requests: dict[int, Count] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Key:
    """The series of one key."""

    owner: str
    tokens: dict[str, Count] = field(default_factory=dict)
    requests: dict[int, Count] = field(default_factory=dict)


@dataclass
class Metrics:
    """A meter. `local`: the names of the backends that compute on this machine; `routes`: of the routes."""

    local: Collection[str] = ()
    routes: Collection[str] = ()
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    _series: dict[tuple[str, str], _Series] = field(default_factory=dict)
    _keys: dict[str, _Key] = field(default_factory=dict)
    _profiles: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        ProcessCollector(registry=self.registry)
        target = ("provider", "model")
        self._requests = self._counter("headrace_requests", "Requests that have ended.", (*target, "status"))
        self._retried = self._counter("headrace_attempts", "Targets that requests were sent to.", target)
        self._whole = self._histogram("headrace_request_duration_seconds", "Arrival to end.", target)
        self._first = self._histogram("headrace_time_to_first_byte_seconds", "Arrival to answer.", target)
        self._tokens = self._counter("headrace_tokens", "Tokens, as reported.", (*target, "kind"))
        self._key_requests = self._counter("headrace_key_requests", "Requests of a key.", ("key", "status"))
        self._key_tokens = self._counter("headrace_key_tokens", "Tokens of a key.", ("key", "kind"))
        self._names = Names(self.registry, "headrace_key_info", "The name of a key.")
        route = ("route", "provider", "status")
        self._of_route = self._counter("headrace_route_requests", "Requests to a route.", route)
        self._define_engine()
        self._define_steering()

    def _define_steering(self) -> None:
        self._steered = self._counter(
            "headrace_steered_requests", "Requests that were steered.", ("model", "profile")
        )
        of_model = {
            "steered": ("headrace_steered_tokens", "Tokens whose hidden states were edited."),
            "requests": ("headrace_probed_requests", "Requests with probes."),
            "probed": ("headrace_probed_tokens", "Tokens that probes have read."),
        }
        self._of_steering = {
            short: self._counter(name, text, ("model",)) for short, (name, text) in of_model.items()
        }
        text = "The length of what was added, in median hidden states."
        self._doses = self._histogram("headrace_steering_relative_dose", text, ("model",), DOSES)

    def _record_steering(self, model: str, tally: SteeringTally) -> None:
        if tally.is_steered:
            profile = tally.profile or ""
            if profile not in self._profiles and len(self._profiles) >= MAX_PROFILES:
                profile = OTHER
            self._profiles.add(profile)
            self._steered.labels(model, profile).value += 1
            self._of_steering["steered"].labels(model).value += tally.tokens
            for dose in tally.doses:
                self._doses.labels(model).observe(dose)
        if tally.probed:
            self._of_steering["requests"].labels(model).value += 1
            self._of_steering["probed"].labels(model).value += tally.probed

    def _define_engine(self) -> None:
        self._success = self._counter(
            "vllm:request_success", "Requests that have ended.", ("model_name", "finished_reason")
        )
        names = {
            "first_token": ("vllm:time_to_first_token_seconds", "Arrival to first token.", SECONDS),
            "token": ("vllm:request_time_per_output_token_seconds", "Mean of a request.", TOKEN_SECONDS),
            "whole": ("vllm:e2e_request_latency_seconds", "Arrival to end.", SECONDS),
            "queue": ("vllm:request_queue_time_seconds", "Arrival to first step.", SECONDS),
            "prefill": ("vllm:request_prefill_time_seconds", "First step to first token.", SECONDS),
            "decode": ("vllm:request_decode_time_seconds", "First token to last.", SECONDS),
            "inference": ("vllm:request_inference_time_seconds", "First step to last token.", SECONDS),
            "prompt": ("vllm:request_prompt_tokens", "Tokens of a request's prompts.", TOKENS),
            "computed": (
                "vllm:request_prefill_kv_computed_tokens",
                "Of these, not found in a cache.",
                TOKENS,
            ),
            "answer": ("vllm:request_generation_tokens", "Tokens of a request's answers.", TOKENS),
            "longest": ("vllm:request_max_num_generation_tokens", "Of its longest answer.", TOKENS),
            "choices": ("vllm:request_params_n", "Its `n`.", CHOICES),
            "limit": ("vllm:request_params_max_tokens", "Its `max_tokens`, or the default.", TOKENS),
        }
        self._engine = {
            short: self._histogram(name, text, ("model_name",), buckets)
            for short, (name, text, buckets) in names.items()
        }

    def record(self, tally: Tally) -> None:
        """Add the request to the series of its target, or to that of requests that reached none."""
        series = self._series.get((tally.provider or "", tally.served or "")) or self._series_of(tally)
        key = None if tally.owner is None else self._keys.get(tally.owner) or self._key_of(tally)
        if tally.status not in series.requests:
            labels = (series.provider, series.model, tally.status)
            series.requests[tally.status] = self._requests.labels(*labels)
        series.requests[tally.status].value += 1
        series.retried.value += tally.attempts
        # `observe`, written out: every request pays for these two
        series.whole.counts[bisect_left(SECONDS, tally.took_s)] += 1
        series.whole.total += tally.took_s
        if tally.first_byte_s is not None:
            series.first_byte.counts[bisect_left(SECONDS, tally.first_byte_s)] += 1
            series.first_byte.total += tally.first_byte_s
        if key is not None:
            if tally.status not in key.requests:
                key.requests[tally.status] = self._key_requests.labels(key.owner, tally.status)
            key.requests[tally.status].value += 1
        usage = tally.usage or NOTHING
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
        for kind, count in zip(KINDS, counts, strict=True):
            if not count:
                continue
            series.tokens[kind].value += count
            if key is not None:
                if kind not in key.tokens:
                    key.tokens[kind] = self._key_tokens.labels(key.owner, kind)
                key.tokens[kind].value += count
        if tally.model in self.routes:
            self._of_route.labels(tally.model, series.provider, tally.status).value += 1
        if tally.steering is not None:
            self._record_steering(series.model, tally.steering)
        if series.engine is not None:
            series.engine.record(tally)
            reasons: Sequence[str] = tally.reasons or [_reason(tally)]
            for reason in reasons:
                self._success.labels(series.model, reason).value += 1

    def text(self) -> bytes:
        """All metrics in Prometheus's text format. Takes milliseconds: call it in a thread."""
        return generate_latest(self.registry)

    def _key_of(self, tally: Tally) -> _Key:
        """The counters of a caller's key, made at its first use. Beyond MAX_SERIES keys, all others share one
        set.
        """
        owner = OTHER
        if tally.owner is not None and len(self._keys) < MAX_SERIES:
            owner = tally.owner
            if tally.owner_name:
                self._names.names[owner] = tally.owner_name
        return self._keys.setdefault(owner, _Key(owner))

    def _series_of(self, tally: Tally) -> _Series:
        """The series of a target that has none yet, or of requests that reached no target. Beyond MAX_SERIES,
        the models of a provider share one.
        """
        provider, model = tally.provider, tally.served
        if provider is None or model is None:
            provider = model = ""
        elif len(self._series) >= MAX_SERIES:
            model = OTHER
        return self._series.get((provider, model)) or self._add(provider, model)

    def _add(self, provider: str, model: str) -> _Series:
        engine = None
        if provider in self.local:
            engine = _Engine(**{name: metric.labels(model) for name, metric in self._engine.items()})
        series = _Series(
            provider,
            model,
            self._first.labels(provider, model),
            self._whole.labels(provider, model),
            self._retried.labels(provider, model),
            {kind: self._tokens.labels(provider, model, kind) for kind in KINDS},
            engine,
        )
        self._series[provider, model] = series
        return series

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(self.registry, name, text, labels)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(self.registry, name, text, labels, buckets)


def _reason(tally: Tally) -> str:
    """Why a request ended that has no finished choice."""
    if tally.status == 200:
        return "stop"  # embeddings
    return ABORTED if tally.status == 499 else FAILED
