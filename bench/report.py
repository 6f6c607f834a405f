"""The tables: what each system did, and how Headrace compares with each target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measure import Numbers
from bench.tasks import TASKS

Show = Callable[[Numbers], str]
Rounds = dict[str, list[Numbers]]  # by system; the same index is the same round

LABELS = {
    "headrace": "Headrace, HTTP",
    "plain": "Headrace, HTTP, speculation off",
    "engine": "Headrace, engine in process",
    "genai": "OpenVINO GenAI in process, same weights",
    "genai-gguf": "OpenVINO GenAI in process, its own u4 weights",
    "xllamacpp": "xllamacpp server, HTTP",
    "torch": "Headrace on PyTorch, HTTP",
    "torch-engine": "Headrace on PyTorch, engine in process",
    "transformers": "transformers generate in process, static batch",
    "batching": "transformers continuous batching in process",
    "vllm": "vLLM server, HTTP",
}


@dataclass(frozen=True, slots=True)
class Target:
    """`metric` of the system `of`, alone or over that of another one in the same round."""

    text: str
    metric: str
    limit: float
    over: str = ""  # the system it is divided by
    over_metric: str = ""  # if not the same
    is_at_most: bool = False
    unit: str = "x"
    of: str = "headrace"

    def value(self, rounds: Rounds) -> float | None:
        """The median over rounds; None when a side was not measured."""
        known = [value for numbers in _by_round(rounds) if (value := self._in(numbers)) is not None]
        return median(known) if known else None

    def _in(self, numbers: dict[str, Numbers]) -> float | None:
        """In one round."""
        mine = numbers.get(self.of, {}).get(self.metric)
        if not self.over or mine is None:
            return mine
        other = numbers.get(self.over, {}).get(self.over_metric or self.metric)
        return None if other is None else mine / other

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        return "met" if (value <= self.limit if self.is_at_most else value >= self.limit) else "missed"


def _by_round(rounds: Rounds) -> list[dict[str, Numbers]]:
    count = max((len(runs) for runs in rounds.values()), default=0)
    return [{name: runs[i] for name, runs in rounds.items() if i < len(runs)} for i in range(count)]


TARGETS = (
    Target("16 streams, output, over the xllamacpp server", "output_rate_16", 4.0, "xllamacpp"),
    Target("16 streams, output, over OpenVINO GenAI in process", "output_rate_16", 1.05, "genai"),
    Target("16 streams, output, over speculation off", "output_rate_16", 0.99, "plain"),
    Target("1 stream, chat, over OpenVINO GenAI, same weights", "chat_rate", 1.3, "genai"),
    Target("1 stream, chat, over the xllamacpp server", "chat_rate", 1.3, "xllamacpp"),
    Target("1 stream, edit, over OpenVINO GenAI, same weights", "edit_rate", 2.0, "genai"),
    Target("1 stream, edit, over the xllamacpp server", "edit_rate", 2.0, "xllamacpp"),
    Target("1 stream, prose, over OpenVINO GenAI, same weights", "prose_rate", 1.0, "genai"),
    Target("1 stream, prose, over speculation off", "prose_rate", 0.97, "plain"),
    Target(
        "longest prompt beside 4 streams: 95 % of their gaps, over usual", "beside_p95", 2.0, is_at_most=True
    ),
    Target("16 streams, HTTP over our engine in process", "output_rate_16", 0.93, "engine"),
    Target(
        "repeated long prompt, first token, over cold", "again_s", 0.06, "headrace", "cold_s", is_at_most=True
    ),
    Target("after a restart, over cold", "restarted_s", 0.15, "headrace", "cold_s", is_at_most=True),
    Target(
        "PyTorch, 16 streams, over generate's static batch", "output_rate_16", 2.5, "transformers", of="torch"
    ),
    Target("PyTorch, 16 streams, over continuous batching", "output_rate_16", 1.0, "batching", of="torch"),
    Target("PyTorch, 1 stream, over generate", "decode_rate_1", 0.9, "transformers", of="torch"),
    Target("ready, warm cache", "ready_s", 6.0, is_at_most=True, unit=" s"),
    Target("health check under full load, p99", "health_p99_ms", 20.0, is_at_most=True, unit=" ms"),
)


def medians(runs: list[Numbers]) -> Numbers:
    return {name: median(run[name] for run in runs if name in run) for run in runs for name in run}


def table(rounds: Rounds, missing: dict[str, str], streams: tuple[int, ...]) -> str:
    """Markdown, one row a system."""
    columns: list[tuple[str, Show]] = [
        *((_streams(count), _number(f"output_rate_{count}", "{:.0f}")) for count in streams),
        ("1 stream, decode tok/s", _number("decode_rate_1", "{:.0f}")),
        *((f"1 stream, {kind} tok/s", _number(f"{kind}_rate", "{:.0f}")) for kind in TASKS),
        ("gaps beside a long prompt, 95 %, over usual", _number("beside_p95", "{:.1f}")),
        ("long prompt, first token ms", _number("cold_s", "{:.0f}", 1e3)),
        ("again, ms", _number("again_s", "{:.0f}", 1e3)),
        ("after a restart, ms", _number("restarted_s", "{:.0f}", 1e3)),
        ("ready s", _number("ready_s", "{:.1f}")),
        ("peak MiB", _number("peak_mib", "{:.0f}")),
    ]
    lines = [row(["system", *(name for name, _ in columns)]), row(["---", *["--:"] * len(columns)])]
    for name, runs in rounds.items():
        if runs:
            lines.append(row([LABELS[name], *(show(medians(runs)) for _, show in columns)]))
    lines += [row([LABELS[name], why, *[""] * (len(columns) - 1)]) for name, why in missing.items()]
    return "\n".join(lines)


def targets(rounds: Rounds, wanted: Sequence[Target]) -> str:
    lines = [row(["target", "wanted", "measured", ""]), row(["---", "--:", "--:", "---"])]
    for target in wanted:
        value = target.value(rounds)
        sign = "<=" if target.is_at_most else ">="
        shown = "-" if value is None else f"{value:.2f}{target.unit}"
        lines.append(
            row([target.text, f"{sign} {target.limit:g}{target.unit}", shown, target.verdict(value)])
        )
    return "\n".join(lines)


def _streams(count: int) -> str:
    return "1 stream, tok/s" if count == 1 else f"{count} streams, tok/s"


def _number(name: str, form: str, factor: float = 1.0) -> Show:
    return lambda numbers: form.format(numbers[name] * factor) if name in numbers else "-"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
