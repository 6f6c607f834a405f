"""The server's state at the moment when Prometheus asks: engines, breakers, store, requests in flight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from headrace.backend_types import Composed, EngineStats, Measured, ReplicaState, Replicated
from headrace.gateway.gateway import Gateway
from headrace.metering.metrics import buckets

CACHE = ("block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching")
BREAKER_STATES = ("closed", "half-open", "open")

# vLLM's name → the engine's counter, and what it counts
COUNTERS = {
    "vllm:prompt_tokens": ("num_queried", "Tokens of prompts that the engine has begun."),
    "vllm:generation_tokens": ("num_generated", "Tokens of answers."),
    "vllm:num_preemptions": ("num_preemptions", "Sequences that gave their place to others for a while."),
    "vllm:prompt_tokens_cached": ("num_hit", "Those of them that were found in the prefix cache."),
    "vllm:prefix_cache_queries": ("num_queried", "Prompt tokens looked up in the prefix cache."),
    "vllm:prefix_cache_hits": ("num_hit", "Prompt tokens found in the prefix cache."),
    "vllm:spec_decode_num_drafts": ("num_drafts", "Drafts that were verified."),
    "vllm:spec_decode_num_draft_tokens": ("num_drafted", "Tokens of drafts."),
    "vllm:spec_decode_num_accepted_tokens": ("num_accepted", "Tokens of drafts that were accepted."),
    "headrace_steered_draft_tokens": ("num_steered_drafted", "Tokens of drafts for steered answers."),
    "headrace_steered_accepted_tokens": ("num_steered_accepted", "Those of them that were accepted."),
    "headrace_engine_steps": ("num_steps", "Forward passes."),
    "headrace_engine_step_tokens": ("num_computed", "Tokens that forward passes computed, without drafts."),
}
GAUGES = {
    "vllm:num_requests_running": ("num_running", "Sequences that are being computed."),
    "vllm:num_requests_waiting": ("num_waiting", "Sequences that wait for a seat."),
    "vllm:kv_cache_usage_perc": ("kv_usage", "Share of the KV cache in use, 0 to 1."),
    "headrace_engine_stalled_seconds": ("stalled_s", "Time since the last step, while there is work."),
}
HISTOGRAMS = {
    "vllm:iteration_tokens_total": ("step_tokens", "Tokens that a step computed, without drafts."),
    "vllm:inter_token_latency_seconds": ("token_gaps", "Between two outputs of a sequence."),
}
# of each replica
REPLICAS = {
    "headrace_replica_requests_active": (GaugeMetricFamily, "num_active", "Our requests that it works on."),
    "headrace_replica_requests": (CounterMetricFamily, "num_requests", "Requests that it was sent."),
    "headrace_replica_failures": (CounterMetricFamily, "num_failures", "Requests that went to another one."),
    "headrace_replica_waiting": (GaugeMetricFamily, "num_waiting", "Requests that wait there."),
    "headrace_replica_kv_usage": (GaugeMetricFamily, "kv_usage", "Share of its KV cache in use, 0 to 1."),
}


class StoreHealth(Protocol):
    """What metrics read of the store."""

    @property
    def is_available(self) -> bool: ...

    @property
    def counts(self) -> dict[str, float]:
        """Transactions: "read", "write", "failed", and the "seconds" that they took."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """A collector of prometheus_client. It runs in a thread, and only reads."""

    gateway: Gateway
    store: StoreHealth

    def collect(self) -> Iterator[Metric]:
        active = self.gateway.num_active
        yield _gauge("headrace_requests_active", "Admitted requests that have not ended.", active)
        yield _gauge("headrace_draining", "1 while the server shuts down.", self.gateway.is_draining)
        yield from self._engines()
        yield self._breakers()
        yield from self._replicas()
        yield _gauge("headrace_store_up", "1 if the database answered last.", self.store.is_available)
        counts = self.store.counts
        family = CounterMetricFamily("headrace_store_transactions", "Transactions.", labels=["kind"])
        for kind in ("read", "write", "failed"):
            family.add_metric([kind], counts[kind])
        yield family
        yield CounterMetricFamily(
            "headrace_store_seconds", "Time that transactions took.", value=counts["seconds"]
        )

    def _engines(self) -> Iterator[Metric]:
        parts = [
            part
            for backend in self.gateway.backends
            for part in (backend.parts() if isinstance(backend, Composed) else (backend,))
        ]
        measured = (part for part in parts if isinstance(part, Measured))
        stats = [found for backend in measured if (found := backend.stats()) is not None]
        for name, (attribute, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            for engine in stats:
                if (value := getattr(engine, attribute)) is not None:
                    gauge.add_metric([engine.model], value)
            yield gauge
        yield from (_counter(name, *facts, stats) for name, facts in COUNTERS.items())
        for name, (attribute, text) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=["model_name"])
            for engine in stats:
                if (found := getattr(engine, attribute)) is not None:
                    histogram.add_metric([engine.model], buckets(found), found.total)
            yield histogram
        yield _sources(stats)
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "What the KV cache is.", labels=("model_name", *CACHE)
        )
        for engine in stats:
            if engine.cache:
                info.add_metric([engine.model, *(engine.cache[name] for name in CACHE)], 1)
        yield info

    def _replicas(self) -> Iterator[Metric]:
        replicas = [
            (backend.name, replica)
            for backend in self.gateway.backends
            if isinstance(backend, Replicated)
            for replica in backend.replicas()
        ]
        text = "1 for the state in which a replica is."
        states = GaugeMetricFamily("headrace_replica_state", text, labels=["provider", "replica", "state"])
        for provider, replica in replicas:
            for state in get_args(ReplicaState):
                states.add_metric([provider, replica.name, state], replica.state == state)
        if not replicas:
            return
        yield states
        for name, (kind, attribute, text) in REPLICAS.items():
            family = kind(name, text, labels=["provider", "replica"])
            for provider, replica in replicas:
                if (value := getattr(replica, attribute)) is not None:
                    family.add_metric([provider, replica.name], value)
            yield family

    def _breakers(self) -> Metric:
        text = "1 for the state in which the breaker of a route's target is."
        family = GaugeMetricFamily("headrace_breaker_state", text, labels=["target", "state"])
        for target, breaker in tuple(self.gateway.router.breakers.items()):
            for state in BREAKER_STATES:
                family.add_metric([target, state], breaker.state == state)
        return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _sources(stats: list[EngineStats]) -> Metric:
    text = "Tokens of prompts, by where they came from."
    family = CounterMetricFamily("vllm:prompt_tokens_by_source", text, labels=["model_name", "source"])
    for engine in stats:
        if engine.counts:
            num_hit = engine.counts["num_hit"]
            family.add_metric([engine.model, "local_compute"], engine.counts["num_queried"] - num_hit)
            family.add_metric([engine.model, "local_cache_hit"], num_hit)
    return family


def _counter(name: str, attribute: str, text: str, stats: list[EngineStats]) -> Metric:
    family = CounterMetricFamily(name, text, labels=["model_name"])
    for engine in stats:
        if attribute in engine.counts:
            family.add_metric([engine.model], engine.counts[attribute])
    return family
