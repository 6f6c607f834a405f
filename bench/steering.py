"""What steering costs: milliseconds of a decoding step, and the ratio to one without it, in turn.

    python -m bench.steering              both runners, and transformers with a hook, if PyTorch is there
    python -m bench.steering --rounds 2   fewer steps, where others use the machine

The SAE is random, of the size of one that `headrace steer train-sae` makes; its numbers cost what others do.
Machines drift, and a step is faster for what the one before it left in caches. So cases take turns of a few
steps, each turn in another order, and a ratio is the median of the turns' ratios: what it compares was
computed within a second. `wall` is what counts on a quiet machine, `CPU` (of all threads) says more on a busy
one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in `headrace serve`

import numpy as np
from numpy.typing import NDArray

if not __package__:  # run as a file: python bench/steering.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headrace.config import PathsConfig
from headrace.engine.batch import Batch, pack, read_states
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.probing import SAEProber
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from headrace.steering.plan import Plan, Scope, Term
from headrace.steering.sae import LoadedSAE, Weights, fold
from headrace.steering.slot import Shape, SiteNeeds, Slot
from headrace.steering.statistics import RunningStatistics
from headrace.steering.types import Probe, SAEInfo

LAYER, FEATURES, K, PAST = 15, 2304, 32, 160
TABLE = 8  # blocks a sequence
TURNS, STEPS = 10, 4  # of a round, and of a case in a turn, of which the first is not counted


@dataclass(frozen=True)
class Case:
    """A way to compute a step: returns its seconds and CPU seconds. `most`: the target of the ratio."""

    step: Callable[[], tuple[float, float]]
    most: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    rounds: int = parser.parse_args().rounds
    folder = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache)).folder
    plain = OpenVINORunner(folder, RunnerOptions(kv_cache_bytes=2**28))
    steered = OpenVINORunner(folder, RunnerOptions(kv_cache_bytes=2**28))
    compare("OpenVINO", plain, steered, rounds)
    if importlib.util.find_spec("torch") is None:
        print("\nPyTorch is not installed: make .venv/.torched")
        return 0
    from bench.steering_torch import compare_torch

    compare_torch(rounds)
    return 0


def compare(title: str, plain: Runner, steered: Runner, rounds: int) -> None:
    """Print the tables of one runner. `steered` gets an editable layer."""
    standard, topk = random_sae(steered.width, "standard"), random_sae(steered.width, "topk")
    rank = topk.rank()
    assert rank is not None
    steered.install_sites(steered.compile_sites({LAYER: SiteNeeds(LAYER, False, (rank,))}))
    for size in (1, 16):
        cases = {
            "nothing attached": Case(step_of(plain, size)),
            "attached, idle": Case(step_of(steered, size), 1.01),
            "one row adds 1 direction": Case(step_of(steered, size, standard, 1, "add", rows=1)),
            "all rows add 8 features": Case(step_of(steered, size, standard, 8, "add"), 1.05),
            "all rows clamp 8 features": Case(step_of(steered, size, standard, 8, "clamp"), 1.05),
            f"all rows clamp 8 features, topk {K}": Case(step_of(steered, size, topk, 8, "clamp")),
            f"all rows probed, top 8 of {FEATURES}": Case(step_of(steered, size, probed=topk), 1.10),
        }
        table(f"{title}: {size} sequences, one token each", cases, rounds)


def table(title: str, cases: Mapping[str, Case], rounds: int) -> None:
    """Run the steps in turn, and print the median of each with its ratio to the first."""
    medians: dict[str, list[NDArray[np.float64]]] = {name: [] for name in cases}
    order = random.Random(0)
    for _ in range(TURNS * rounds):
        for name in order.sample([*cases], len(cases)):
            medians[name].append(np.median([cases[name].step() for _ in range(STEPS)][1:], axis=0))
    found = {name: np.array(values) for name, values in medians.items()}  # [turns, wall and CPU]
    base = next(iter(found.values()))
    print(f"\n{title:<44}{'ms':>8}{'CPU ms':>8}{'wall':>8}{'CPU':>8}  target")
    for name, case in cases.items():
        (wall, cpu), ratios = np.median(found[name], axis=0) * 1e3, np.median(found[name] / base, axis=0)
        target = (
            "" if case.most is None else f"{case.most:.2f} {'met' if ratios[0] <= case.most else 'MISSED'}"
        )
        print(f"  {name:<42}{wall:8.2f}{cpu:8.2f}{ratios[0]:8.3f}{ratios[1]:8.3f}  {target}", flush=True)


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
) -> Callable[[], tuple[float, float]]:
    """A function that computes one step; see Case. So many features of the SAE are edited, in so many rows;
    None: in all.
    """
    plan = None if sae is None else _plan(sae, count, mode)
    statistics = RunningStatistics(FEATURES)
    probers = () if probed is None else (SAEProber(Probe("sae", top_k=8), probed, LAYER, statistics),)
    sequences = []
    for index in range(size):
        is_steered = rows is None or index < rows
        sequence = Sequence(
            [5] * (PAST + 1), SamplingParams(1), plan=plan if is_steered else None, probers=probers
        )
        sequence.blocks, sequence.num_computed = list(range(index * TABLE, (index + 1) * TABLE)), PAST
        sequences.append(sequence)

    def step() -> tuple[float, float]:
        begin, cpu = time.perf_counter(), time.process_time()
        batch: Batch = pack(dict.fromkeys(sequences, 1))
        runner.forward(batch)
        if batch.read:
            for sequence in sequences:
                sequence.num_computed = PAST + 1
            read_states(batch.read, runner.states, runner.unedited)
            for sequence in sequences:
                sequence.num_computed = sequence.num_read = PAST
                sequence.readings.clear()
        return time.perf_counter() - begin, time.process_time() - cpu

    return step


if __name__ == "__main__":
    sys.exit(main())
