"""How much of the memory the cache takes."""

from __future__ import annotations

from headrace.engine.load import load_engine
from headrace.engine.sequence import SamplingParams, Sequence
from tests.engine.conftest import Files


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
