"""One forward pass by itself: milliseconds a step under different runtime properties, in turn, and the
operators in which a step of one token spends its time.

    python -m bench.step
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: python bench/step.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headrace.config import PathsConfig
from headrace.engine.batch import Batch, pack
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare

VARIANTS: dict[str, dict[str, str]] = {
    "default": {},
    "u8 cache": {"KV_CACHE_PRECISION": "u8"},
    "unpinned": {"ENABLE_CPU_PINNING": "NO"},
    "f32": {"INFERENCE_PRECISION_HINT": "f32"},
}
ROUNDS, STEPS, PAST = 6, 15, 160
TABLE = 8  # blocks a sequence: enough for PAST and a chunk


def main() -> int:
    folder = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache)).folder
    runners = {name: _runner(folder, properties) for name, properties in VARIANTS.items()}
    for label, batch in (("1 x 1", _batch(1)), ("16 x 1", _batch(16)), ("256", _batch(1, past=0, count=256))):
        times: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(ROUNDS):
            for name, runner in runners.items():
                times[name] += _time(runner, batch)
        shown = ", ".join(f"{name} {np.median(took) * 1e3:.1f}" for name, took in times.items())
        print(f"{label} tokens, median ms: {shown}")
    print(_alternating(runners["default"]))
    print(_operators(_runner(folder, {"PERF_COUNT": "YES"})))
    return 0


def _runner(folder: Path, properties: dict[str, str]) -> OpenVINORunner:
    return OpenVINORunner(folder, RunnerOptions(kv_cache_bytes=2**28, properties=properties))


def _batch(sequences: int, *, past: int = PAST, count: int = 1) -> Batch:
    chunks = {}
    for index in range(sequences):
        sequence = Sequence([5] * (past + count), SamplingParams(max_tokens=1))
        sequence.blocks, sequence.num_computed = list(range(index * TABLE, (index + 1) * TABLE)), past
        chunks[sequence] = count
    return pack(chunks)


def _time(runner: OpenVINORunner, batch: Batch) -> list[float]:
    runner.forward(batch)
    took = []
    for _ in range(STEPS):
        started = time.perf_counter()
        runner.forward(batch)
        took.append(time.perf_counter() - started)
    return took


def _alternating(runner: OpenVINORunner) -> str:
    """What a step of another size than the last one costs: CPU time of all threads."""
    one, four = _batch(1), _batch(1, count=4)
    alike = (_cpu_ms(runner, [one, one]) + _cpu_ms(runner, [four, four])) / 2
    alternating = _cpu_ms(runner, [one, four])
    return f"steps of 1 and of 4 tokens, CPU ms a step: {alike:.1f}, alternating {alternating:.1f}"


def _cpu_ms(runner: OpenVINORunner, batches: list[Batch]) -> float:
    """A step's median, of steps that take turns."""
    took = []
    for _ in range(1 + ROUNDS * STEPS):
        started = time.process_time()
        for batch in batches:
            runner.forward(batch)
        took.append((time.process_time() - started) / len(batches))
    return float(np.median(took[1:])) * 1e3


def _operators(runner: OpenVINORunner) -> str:
    _time(runner, _batch(1))
    spent: dict[str, float] = defaultdict(float)
    for kind, microseconds in runner.profile():
        spent[kind] += microseconds
    whole = sum(spent.values())
    most = sorted(spent.items(), key=lambda item: -item[1])[:4]
    shares = ", ".join(f"{kind} {100 * us / whole:.0f} %" for kind, us in most)
    return f"one token: {shares}"


if __name__ == "__main__":
    sys.exit(main())
