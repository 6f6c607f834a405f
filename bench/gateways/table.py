"""The table of `bench/gateway.py`, a column a gateway, and what Headrace is to reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.measure import Numbers
from bench.report import Rounds, Target, medians, row

LABELS = {
    "direct": "direct",
    "nginx": "nginx",
    "headrace": "Headrace",
    "headrace-route": "Headrace, alias",
    "headrace-metered": "Headrace, with limits",
    "portkey": "Portkey",
    "litellm": "LiteLLM",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A metric; `of_direct` is what the column of the upstream itself shows."""

    text: str
    metric: str
    form: str = "{:.0f}"
    of_direct: str = ""

    def cell(self, name: str, numbers: Numbers) -> str:
        metric = self.of_direct if name == "direct" else self.metric
        value = numbers.get(metric)
        if value is None:
            return "-"
        return "never" if math.isinf(value) else self.form.format(value)


LINES = (
    Line("1 connection, added p50, ms (direct: in all)", "added_p50_ms", "{:.2f}", "p50_ms"),
    Line("1 connection, added p99, ms", "added_p99_ms", "{:.2f}", "p99_ms"),
    Line("first chunk of a stream, added p50, ms", "added_first_ms", "{:.2f}", "first_ms"),
    Line("64 connections, requests/s", "rate", "{:.0f}", "rate"),
    Line("64 connections, requests per s of CPU", "rate_per_cpu"),
    Line("a chunk every 20 ms, 16 streams: CPU a chunk, µs", "chunk_cpu_us"),
    Line("the same, 1 stream: added time a chunk, p50, ms", "added_chunk_ms", "{:.2f}", "chunk_ms"),
    Line("chunks without a pause, 1 stream: time a chunk, µs", "fast_chunk_us", "{:.1f}", "fast_chunk_us"),
    Line("the same: CPU a chunk, µs", "fast_chunk_cpu_us", "{:.1f}"),
    Line("paced streams held without a gap over 100 ms", "held", "{:.0f}", "held"),
    Line("worst gap at the last count tried, ms", "last_gap_ms", "{:.0f}", "last_gap_ms"),
    Line("resident when ready, MiB", "idle_mib"),
    Line("resident after the requests, MiB", "after_mib"),
    Line("so many requests", "requests"),
    Line("growth over their last half, MiB", "growth_mib", "{:+.1f}"),
    Line("ready, s", "ready_s", "{:.2f}"),
    Line("hang-up seen upstream, stream, ms", "hangup_stream_ms", "{:.1f}"),
    Line("hang-up seen upstream, JSON, ms", "hangup_json_ms", "{:.1f}"),
)  # fmt: skip

TARGETS = (
    Target("requests/s over LiteLLM", "rate", 25, "litellm"),
    Target("requests/s over Portkey", "rate", 3, "portkey"),
    Target("requests per s of CPU over LiteLLM", "rate_per_cpu", 25, "litellm"),
    Target("requests per s of CPU over Portkey", "rate_per_cpu", 3, "portkey"),
    Target("added p50 over LiteLLM's", "added_p50_ms", 0.083, "litellm", is_at_most=True),
    Target("CPU of a paced chunk over LiteLLM's", "chunk_cpu_us", 0.1, "litellm", is_at_most=True),
    Target("paced streams held", "held", 128, unit=""),
    Target("growth over the last half of the requests", "growth_mib", 1, is_at_most=True, unit=" MiB"),
    Target("ready, gateway only", "ready_s", 1, is_at_most=True, unit=" s"),
    Target("resident when ready", "idle_mib", 100, is_at_most=True, unit=" MiB"),
    Target("hang-up seen upstream, stream", "hangup_stream_ms", 50, is_at_most=True, unit=" ms"),
    Target("hang-up seen upstream, JSON", "hangup_json_ms", 50, is_at_most=True, unit=" ms"),
    Target("with limits: requests/s over LiteLLM", "rate", 25, "litellm", of="headrace-metered"),
    Target(
        "with limits: CPU of a paced chunk over LiteLLM's", "chunk_cpu_us", 0.1, "litellm",
        is_at_most=True, of="headrace-metered",
    ),
)  # fmt: skip


def table(rounds: Rounds, versions: dict[str, str]) -> str:
    """Markdown: medians over rounds."""
    columns = {name: medians(runs) for name, runs in rounds.items() if runs}
    heads = [f"{LABELS[name]} {versions.get(name, '')}".strip() for name in columns]
    lines = [row(["", *heads]), row(["---", *["--:"] * len(heads)])]
    lines += [row([line.text, *(line.cell(*column) for column in columns.items())]) for line in LINES]
    return "\n".join(lines)
