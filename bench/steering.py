"""What steering costs: milliseconds of a decoding step, and the ratio to a server without it, in turn.

    python -m bench.steering

The SAE is random, of the size of one that `headrace steer train-sae` makes; its numbers cost what others do.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in `headrace serve`

import numpy as np

if not __package__:  # run as a file: python bench/steering.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headrace.config import PathsConfig
from headrace.engine.batch import Batch, pack
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.probing import SAEProber
from headrace.engine.reading import read_states
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from headrace.steering.plan import Plan, Term
from headrace.steering.sae import LoadedSAE, Weights, fold
from headrace.steering.scope import Scope
from headrace.steering.slot import Shape, SiteNeeds, Slot
from headrace.steering.types import Probe, SAEInfo

LAYER, FEATURES, K, PAST = 15, 2304, 32, 160
TABLE = 8  # blocks a sequence
ROUNDS, STEPS = 8, 15


def main() -> int:
    folder = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache)).folder
    plain = OpenVINORunner(folder, RunnerOptions(kv_cache_bytes=2**28))
    steered = OpenVINORunner(folder, RunnerOptions(kv_cache_bytes=2**28))
    standard, topk = random_sae(steered.width, "standard"), random_sae(steered.width, "topk")
    rank = topk.rank()
    assert rank is not None
    steered.install_sites(steered.compile_sites({LAYER: SiteNeeds(LAYER, False, (rank,))}))
    for size in (1, 16):
        table(
            f"{size} sequences, one token each",
            {
                "nothing attached": step_of(plain, size),
                "attached, idle": step_of(steered, size),
                "one row adds 1 direction": step_of(steered, size, standard, 1, "add", rows=1),
                "all rows clamp 8 features": step_of(steered, size, standard, 8, "clamp"),
                f"all rows clamp 8 features, topk {K}": step_of(steered, size, topk, 8, "clamp"),
                f"all rows probed, top 8 of {FEATURES}": step_of(steered, size, probed=topk),
            },
        )
    return 0


def table(title: str, cases: Mapping[str, Callable[[], float]]) -> None:
    """Run the steps in turn, and print the median of each with its ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, step in cases.items():
            times[name] += [step() for _ in range(STEPS)][2:]
    medians = {name: float(np.median(took)) for name, took in times.items()}
    base = next(iter(medians.values()))
    print(f"\n{title}")
    for name, median in medians.items():
        least = min(times[name]) / min(next(iter(times.values())))
        print(f"  {name:<40} {median * 1e3:7.2f} ms   {median / base:6.3f}   (fastest steps {least:6.3f})")


def random_sae(width: int, architecture: str) -> LoadedSAE:
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((FEATURES, width)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    zeros = np.zeros(FEATURES, np.float32)
    weights = Weights(decoder.T, decoder, zeros, np.zeros(width, np.float32), "standard")
    if architecture == "topk":
        weights = replace(weights, architecture="topk", k=K)
    return fold(weights, SAEInfo("sae", weights.architecture, width, FEATURES, LAYER))


def _plan(sae: LoadedSAE, count: int, mode: str) -> Plan:
    """Edits of so many features on every token."""
    adds = [Slot("add", sae.decoder[feature].copy(), Shape(1.0, 5.0)) for feature in range(count)]
    clamps = [sae.slot(feature, Shape(0.0, 5.0)) for feature in range(count)]
    scope = Scope(np.ones(PAST, np.bool_), 0, 2**62)
    return Plan(tuple(Term(LAYER, slot, 1.0, 0) for slot in (adds if mode == "add" else clamps)), (scope,))


def step_of(
    runner: Runner,
    size: int,
    sae: LoadedSAE | None = None,
    count: int = 0,
    mode: str = "add",
    *,
    rows: int | None = None,
    probed: LoadedSAE | None = None,
) -> Callable[[], float]:
    """A function that computes one step and returns its seconds. So many features of the SAE are edited, in
    so many rows; None: in all.
    """
    plan = None if sae is None else _plan(sae, count, mode)
    probers = () if probed is None else (SAEProber(Probe("sae", top_k=8), probed, LAYER),)
    sequences = []
    for index in range(size):
        is_steered = rows is None or index < rows
        sequence = Sequence(
            [5] * (PAST + 1), SamplingParams(1), plan=plan if is_steered else None, probers=probers
        )
        sequence.blocks, sequence.num_computed = list(range(index * TABLE, (index + 1) * TABLE)), PAST
        sequences.append(sequence)

    def step() -> float:
        begin = time.perf_counter()
        batch: Batch = pack(dict.fromkeys(sequences, 1))
        runner.forward(batch)
        if batch.read:
            for sequence in sequences:
                sequence.num_computed = PAST + 1
            read_states(batch.read, runner.states)
            for sequence in sequences:
                sequence.num_computed = sequence.num_read = PAST
                sequence.readings.clear()
        return time.perf_counter() - begin

    return step


if __name__ == "__main__":
    sys.exit(main())
