"""How much of the memory the cache takes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from headrace.config.memory import CacheType, check_cache
from headrace.engine.load import load_engine
from headrace.engine.openvino import OpenVINORunner, RunnerOptions, read, token_bytes
from headrace.engine.phrases import write
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.errors import ConfigError
from tests.engine.conftest import Files

KINDS: tuple[CacheType, ...] = ("bf16", "u8")


def test_the_cache_holds_no_more_than_all_seats_can_fill(tiny: Files) -> None:
    engine = load_engine(tiny.folder, max_model_len=100, max_num_seqs=3)
    assert engine.max_tokens == 320  # 3 × 100, in whole blocks of 32


def test_the_configured_bytes_are_kept(tiny: Files) -> None:
    engine = load_engine(tiny.folder, max_model_len=512, kv_cache_bytes=2**20)
    assert engine.pool.num_blocks == 2**20 // engine.runner.block_bytes


@pytest.mark.parametrize(
    ("kind", "is_exact"), [("auto", True), ("auto", False), ("bf16", False), ("u8", False)]
)
def test_the_size_of_a_token_is_known_before_the_graph_is_compiled(
    tiny: Files, kind: CacheType, is_exact: bool
) -> None:
    options = RunnerOptions(kv_cache_bytes=2**20, kv_cache_dtype=kind, exact=is_exact)
    runner = OpenVINORunner(tiny.folder, options)
    assert token_bytes(read(tiny.folder), options) == runner.block_bytes / runner.block_size


def test_a_cache_that_is_too_small_is_refused_before_the_graph_is_compiled(tiny: Files) -> None:
    with pytest.raises(ConfigError, match="too few"):
        load_engine(tiny.folder, max_model_len=100, kv_cache_bytes=10)
    check = partial(check_cache, 10, 100)
    cannot_compile = RunnerOptions(kv_cache_bytes=10, properties={"NO_SUCH_PROPERTY": "1"})
    with pytest.raises(RuntimeError, match="NO_SUCH_PROPERTY"):
        OpenVINORunner(tiny.folder, cannot_compile)
    with pytest.raises(ConfigError, match="too few"):
        OpenVINORunner(tiny.folder, replace(cannot_compile, check=check))


def test_a_loaded_engine_answers(tiny: Files) -> None:
    engine = load_engine(tiny.folder, max_model_len=100, kv_cache_bytes=2**20, num_threads=1, exact=True)
    sequence = Sequence([1, 2, 3], SamplingParams(max_tokens=4, temperature=0))
    engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert len(sequence.tokens) == 7


def test_a_loaded_engine_drafts_what_the_file_of_phrases_has(tiny: Files, tmp_path: Path) -> None:
    def answer(phrases: Path | None) -> tuple[int, list[int]]:
        """The number of steps, and the tokens."""
        engine = load_engine(
            tiny.folder, max_model_len=100, kv_cache_bytes=2**20, exact=True, phrases=phrases
        )
        sequence = Sequence([1, 2, 3], SamplingParams(max_tokens=30, temperature=0))
        engine.add(sequence)
        while engine.has_work:
            engine.step()
        return engine.scheduler.counters.num_steps, sequence.tokens

    path = tmp_path / "phrases.bin"
    num_steps, tokens = answer(None)
    write(path, tokens * 9)
    num_fewer, same = answer(path)
    assert same == tokens
    assert num_fewer < num_steps / 1.5


def test_a_cache_of_eight_bits_holds_more_tokens(tiny: Files) -> None:
    """And each says how many the other would hold."""
    by_type = {
        kind: load_engine(tiny.folder, max_model_len=100, kv_cache_bytes=2**20, kv_cache_dtype=kind).runner
        for kind in KINDS
    }
    for runner in by_type.values():
        assert runner.block_bytes_by_type == {kind: by_type[kind].block_bytes for kind in KINDS}
    assert by_type["u8"].block_bytes < by_type["bf16"].block_bytes


def test_an_engine_with_eight_bits_answers_in_any_chunks(tiny: Files) -> None:
    answers = []
    for budget in (48, 512):
        engine = load_engine(
            tiny.folder, max_model_len=200, max_batch_tokens=budget, kv_cache_bytes=2**20, kv_cache_dtype="u8"
        )
        sequence = Sequence([token % 60 for token in range(100)], SamplingParams(max_tokens=8, temperature=0))
        engine.add(sequence)
        while engine.has_work:
            engine.step()
        answers.append(sequence.tokens[100:])
    assert answers[0] == answers[1]
