"""How much of the memory the cache takes."""

from __future__ import annotations

from headrace.config.memory import CacheType
from headrace.engine.load import load_engine
from headrace.engine.sequence import SamplingParams, Sequence
from tests.engine.conftest import Files

KINDS: tuple[CacheType, ...] = ("bf16", "u8")


def test_the_cache_holds_no_more_than_all_seats_can_fill(tiny: Files) -> None:
    engine = load_engine(tiny.folder, max_model_len=100, max_num_seqs=3)
    assert engine.max_tokens == 320  # 3 × 100, in whole blocks of 32


def test_the_configured_bytes_are_kept(tiny: Files) -> None:
    engine = load_engine(tiny.folder, max_model_len=512, kv_cache_bytes=2**20)
    assert engine.pool.num_blocks == 2**20 // engine.runner.block_bytes


def test_a_loaded_engine_answers(tiny: Files) -> None:
    engine = load_engine(tiny.folder, max_model_len=100, kv_cache_bytes=2**20, num_threads=1, exact=True)
    sequence = Sequence([1, 2, 3], SamplingParams(max_tokens=4, temperature=0))
    engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert len(sequence.tokens) == 7


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
