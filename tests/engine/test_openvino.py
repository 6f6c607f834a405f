"""Paged, batched, chunked, preempted, prefix-cached, and yet the oracle's tokens, in float32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openvino import opset13 as ops

from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.errors import ModelError
from headrace.models.catalog import Model
from tests.engine.conftest import Files
from tests.engine.oracles import PlainOracle
from tests.engine.plain import PlainModel
from tests.engine.random_load import Drive, Mix, Oracle, Prompt, mixes

KINDS = (
    "preemptions", "chunks", "mixed steps", "prefix hits", "aborts", "stop", "length", "drafted", "accepted",
)  # fmt: skip
LENGTHS = (1, 2, 17, 31, 32, 33, 63, 64, 65, 100, 128, 150, 193, 200)


def exact(folder: Path, num_blocks: int) -> OpenVINORunner:
    options = RunnerOptions(
        kv_cache_bytes=2**30, max_tokens=num_blocks * OpenVINORunner.block_size, exact=True
    )
    return OpenVINORunner(folder, options)


def prompts(seed: int, vocabulary: int, lengths: tuple[int, ...]) -> st.SearchStrategy[Prompt]:
    """Few, so that the oracle's answers can be kept: two texts cut at `lengths`, some with a tail."""
    rng = np.random.default_rng(seed)
    bases = [tuple(rng.integers(0, vocabulary, max(lengths)).tolist()) for _ in range(2)]
    tails = [
        (),
        (),
        tuple(rng.integers(0, vocabulary, 3).tolist()),
        tuple(rng.integers(0, vocabulary, 40).tolist()),
    ]
    heads = st.builds(lambda base, cut: base[:cut], st.sampled_from(bases), st.sampled_from(lengths))
    return st.builds(lambda head, tail: (head + tail)[: max(lengths)], heads, st.sampled_from(tails))


def seen_in(
    load: st.SearchStrategy[Mix], num_mixes: int, runner: OpenVINORunner, oracle: Oracle
) -> Counter[str]:
    """Drive that many mixes over one runner, each in a new engine over what the last left in the cache."""
    seen: Counter[str] = Counter()

    @settings(
        max_examples=num_mixes,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mix=load)
    def holds(mix: Mix) -> None:
        seen.update(mixes=1)
        seen.update(Drive(runner, mix, oracle).run())

    holds()
    print(dict(seen))
    return seen


def test_random_mixes_give_the_oracles_tokens(tiny: Files) -> None:
    oracle = PlainOracle(PlainModel(tiny.folder))
    seen = seen_in(mixes(prompts(1, 256, LENGTHS), most_spare=6), 120, exact(tiny.folder, 24), oracle)
    assert seen["mixes"] >= 120
    assert seen["near ties"] <= seen["sequences"] / 500
    for kind in KINDS:
        assert seen[kind] > 20, f"the mixes are too tame: {kind}"


def test_random_mixes_on_the_default_model_give_the_oracles_tokens(default_model: Model) -> None:
    oracle = PlainOracle(PlainModel(default_model.folder))
    load = mixes(prompts(2, 49_000, (5, 33, 70)), longest=8, most_spare=2)
    seen = seen_in(load, 6, exact(default_model.folder, 8), oracle)
    assert seen["mixes"] >= 6
    assert seen["near ties"] <= 1
    for kind in ("chunks", "mixed steps", "prefix hits", "accepted"):
        assert seen[kind], f"the mixes are too tame: {kind}"


def test_the_cache_is_as_large_as_the_memory_or_the_tokens_allow(tiny: Files) -> None:
    block = exact(tiny.folder, 2).block_bytes
    assert block == 2 * 2 * 2 * 32 * 32 * 4  # layers, keys and values, heads, tokens, dimensions, bytes
    for options, expected in (
        (RunnerOptions(kv_cache_bytes=10 * block + 1, exact=True), 10),
        (RunnerOptions(kv_cache_bytes=10 * block, max_tokens=65, exact=True), 3),
    ):
        assert OpenVINORunner(tiny.folder, options).num_blocks == expected


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no openvino_model"):
        OpenVINORunner(tmp_path, RunnerOptions(kv_cache_bytes=2**20))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text("<html>404</html>")
    with pytest.raises(ModelError, match="cannot be read"):
        OpenVINORunner(tmp_path, RunnerOptions(kv_cache_bytes=2**20))


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    pixels = ops.parameter([1, 4], np.float32)
    ov.save_model(
        ov.Model([ops.matmul(pixels, ops.constant(np.eye(4, dtype=np.float32)), False, False)], [pixels]),
        tmp_path / "openvino_model.xml",
    )
    with pytest.raises(ModelError):
        OpenVINORunner(tmp_path, RunnerOptions(kv_cache_bytes=2**20))
