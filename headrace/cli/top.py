"""`headrace top`: a live view of a running server, from its /metrics."""

from __future__ import annotations

import http.client
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.cli.connection import Connection, NoAnswer, connect
from headrace.config import Loaded, install_command
from headrace.errors import ConfigError
from headrace.logs import one_line

if TYPE_CHECKING:
    import argparse

    from rich.console import Console, ConsoleOptions, RenderableType

WAIT_S = 5.0
Labels = tuple[tuple[str, str], ...]
ENGINE_HEAD = (
    "model", "run", "wait", "KV", "prompt/s", "answer/s", "cached", "drafts",
    "first token", "p95", "queue p95",
)  # fmt: skip
TARGET_HEAD = ("provider", "model", "requests/s", "errors/s", "first byte", "p95", "tokens/s")
REPLICA_HEAD = ("provider", "replica", "state", "run", "wait", "KV", "requests/s", "failures/s")
GAP = 3  # characters between two columns
SHORTEST = 24  # characters of a text that a narrow terminal has room for
KEY_HEAD = ("key", "requests/s", "refused/s", "tokens/s")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The samples of one answer of /metrics: name → labels → value. `at`: seconds, monotonic."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)

    def of(self, name: str, **labels: str) -> dict[Labels, float]:
        wanted = set(labels.items())
        return {has: value for has, value in self.samples.get(name, {}).items() if wanted <= set(has)}

    def total(self, name: str, **labels: str) -> float:
        return sum(self.of(name, **labels).values())

    def values(self, name: str, label: str) -> list[str]:
        """The values of a label, in the order of the samples."""
        values = (dict(has).get(label, "") for has in self.samples.get(name, {}))
        return list(dict.fromkeys(values))


def read(text: str, at: float) -> Snapshot:
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return Snapshot(at, samples)


@dataclass(frozen=True, slots=True)
class Change:
    """Two snapshots of a server, one after the other."""

    before: Snapshot
    after: Snapshot

    def rate(self, name: str, **labels: str) -> float:
        """The growth of a counter a second."""
        seconds = self.after.at - self.before.at
        grown = self.after.total(name, **labels) - self.before.total(name, **labels)
        return max(0.0, grown) / seconds if seconds > 0 else 0.0

    def share(self, part: str, whole: str, **labels: str) -> float | None:
        """One counter's growth as a share of another's; None if that has not grown."""
        grown = self.rate(whole, **labels)
        return self.rate(part, **labels) / grown if grown else None

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """The upper bound of the bucket in which this share of a histogram's new samples ends; None if there
        are none.
        """
        counts: dict[float, float] = defaultdict(float)
        for snapshot, sign in ((self.after, 1), (self.before, -1)):
            for has, value in snapshot.of(f"{name}_bucket", **labels).items():
                counts[float(dict(has)["le"])] += sign * value
        total = counts.get(math.inf, 0.0)
        if total <= 0:
            return None
        return next((bound for bound in sorted(counts) if counts[bound] >= share * total), math.inf)


def engines(change: Change) -> Iterator[tuple[str, ...]]:
    after = change.after
    for model in after.values("vllm:num_requests_running", "model_name"):
        usage = after.of("vllm:kv_cache_usage_perc", model_name=model)
        first, queue = "vllm:time_to_first_token_seconds", "vllm:request_queue_time_seconds"
        drafts = ("vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_draft_tokens_total")
        hits = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
        yield (
            model,
            f"{after.total('vllm:num_requests_running', model_name=model):.0f}",
            f"{after.total('vllm:num_requests_waiting', model_name=model):.0f}",
            _percent(next(iter(usage.values()), None)),
            f"{change.rate('vllm:prompt_tokens_total', model_name=model):.0f}",
            f"{change.rate('vllm:generation_tokens_total', model_name=model):.0f}",
            _percent(change.share(*hits, model_name=model)),
            _percent(change.share(*drafts, model_name=model)),
            _seconds(change.quantile(first, 0.5, model_name=model)),
            _seconds(change.quantile(first, 0.95, model_name=model)),
            _seconds(change.quantile(queue, 0.95, model_name=model)),
        )


def targets(change: Change) -> Iterator[tuple[str, ...]]:
    pairs = {
        (dict(has)["provider"], dict(has)["model"]) for has in change.after.of("headrace_requests_total")
    }
    for provider, model in sorted(pairs):
        labels = {"provider": provider, "model": model}
        first = "headrace_time_to_first_byte_seconds"
        every = change.rate("headrace_requests_total", **labels)
        yield (
            provider or "(none)",
            model or "(none)",
            f"{every:.1f}",
            f"{every - change.rate('headrace_requests_total', status='200', **labels):.1f}",
            _seconds(change.quantile(first, 0.5, **labels)),
            _seconds(change.quantile(first, 0.95, **labels)),
            f"{change.rate('headrace_tokens_total', kind='completion', **labels):.0f}",
        )


def replicas(change: Change) -> Iterator[tuple[str, ...]]:
    after = change.after
    for has, value in after.samples.get("headrace_replica_state", {}).items():
        if value:
            every = dict(has)
            labels = {"provider": every["provider"], "replica": every["replica"]}
            waiting = after.of("headrace_replica_waiting", **labels)
            usage = after.of("headrace_replica_kv_usage", **labels)
            yield (
                *labels.values(),
                every["state"],
                f"{after.total('headrace_replica_requests_active', **labels):.0f}",
                "-" if not waiting else f"{sum(waiting.values()):.0f}",
                _percent(next(iter(usage.values()), None)),
                f"{change.rate('headrace_replica_requests_total', **labels):.1f}",
                f"{change.rate('headrace_replica_failures_total', **labels):.1f}",
            )


def keys(change: Change, most: int = 10) -> list[tuple[str, ...]]:
    """The keys with the most requests."""
    rates = {
        key: change.rate("headrace_key_requests_total", key=key)
        for key in change.after.values("headrace_key_requests_total", "key")
    }
    infos = change.after.samples.get("headrace_key_info", {})
    names = {labels["key"]: f"{labels['name']} ({labels['key']})" for labels in map(dict, infos)}
    busiest = sorted(rates, key=lambda key: -rates[key])[:most]
    return [
        (
            names.get(key, key),
            f"{rates[key]:.1f}",
            f"{change.rate('headrace_key_requests_total', key=key, status='429'):.1f}",
            f"{change.rate('headrace_key_tokens_total', key=key):.0f}",
        )
        for key in busiest
    ]


def top(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Show the view until Ctrl-C. Raises ConfigError, NoAnswer."""
    try:
        from rich.live import Live
    except ImportError as exc:
        raise ConfigError(f"`headrace top` needs a package: {install_command('top')}") from exc
    connection, is_once = connect(arguments, loaded.config), arguments.once
    before = fetch(connection)
    with Live(view(connection.url, Change(before, before)), screen=not is_once, auto_refresh=False) as live:
        while True:
            time.sleep(max(0.2, arguments.every))
            after = fetch(connection)
            live.update(view(connection.url, Change(before, after)), refresh=True)
            if is_once:
                return 0
            before = after


def fetch(connection: Connection) -> Snapshot:
    """Read the server's metrics. Raises NoAnswer."""
    try:
        with connection.open("GET", "/metrics", timeout_s=WAIT_S) as response:
            return read(response.read().decode(), time.monotonic())
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise NoAnswer(f"{connection.url}/metrics cannot be read: {exc}") from exc


def view(url: str, change: Change) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    after = change.after
    store = "up" if after.total("headrace_store_up") else "DOWN"
    memory = after.total("process_resident_memory_bytes") / 2**20
    line = (
        f"{url}   {after.total('headrace_requests_active'):.0f} active requests   "
        f"database {store}   {memory:.0f} MiB   {time.strftime('%H:%M:%S')}"
    )
    tables = [
        _Table(ENGINE_HEAD, list(engines(change)), 1),
        _Table(TARGET_HEAD, list(targets(change)), 2),
        _Table(KEY_HEAD, keys(change), 1),
    ]
    if rows := list(replicas(change)):
        tables.insert(2, _Table(REPLICA_HEAD, rows, 3))
    return Group(Text(line, style="bold"), *tables)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose last columns are left out where the terminal is too narrow for them. The first `num_left`
    are texts, which stay, and leave room for numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left: int

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        longest = max(SHORTEST, options.max_width // (self.num_left + 1))
        lines = [
            [
                shortened(one_line(cell), longest) if place < self.num_left else cell
                for place, cell in enumerate(row)
            ]
            for row in self.rows
        ]
        widths = [max(map(len, column)) + GAP for column in zip(self.head, *lines, strict=True)]
        number = len(widths)
        while number > self.num_left + 1 and sum(widths[:number]) > options.max_width:
            number -= 1
        table = Table(box=box.SIMPLE, header_style="dim", pad_edge=False, padding=(0, 1))
        for place, name in enumerate(self.head[:number]):
            is_text = place < self.num_left
            table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
        for line in lines:
            table.add_row(*map(Text, line[:number]))
        yield table


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if math.isinf(seconds):
        return "very long"
    return f"≤ {seconds * 1000:.0f} ms" if seconds < 1 else f"≤ {seconds:g} s"
