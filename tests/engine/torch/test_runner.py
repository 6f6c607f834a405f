"""The PyTorch runner by itself: its cache, its choice, and what a sequence that goes wrong leaves behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, LlamaConfig

from headrace.engine.batch import pack
from headrace.engine.engine import Engine
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.torch import devices
from headrace.engine.torch.cache import Probe
from headrace.engine.torch.decoder import Decoder
from headrace.engine.torch.load import choose, load_runner
from headrace.engine.torch.options import TorchOptions
from headrace.engine.torch.runner import TorchRunner
from headrace.errors import ModelError
from tests.engine.architectures import random_model

PROMPT = [5 + 7 * i % 283 for i in range(70)]


@pytest.fixture(scope="module")
def runner() -> TorchRunner:
    found = choose(random_model("llama"), kv_cache_bytes=2**22, max_model_len=2048, max_num_seqs=4)
    assert isinstance(found, TorchRunner)
    return found


def computed(runner: Runner, blocks: list[int], start: int, end: int) -> NDArray[np.float32]:
    """logits[end - start, vocabulary] of a chunk of PROMPT; the tokens before it are in the blocks."""
    sequence = Sequence(list(PROMPT), SamplingParams(max_tokens=1))
    sequence.blocks, sequence.num_computed = blocks, start
    batch = dataclasses.replace(pack({sequence: end - start}), rows=np.arange(end - start))
    return runner.forward(batch).copy()


def test_the_cache_is_as_large_as_configured(runner: TorchRunner) -> None:
    assert (
        runner.block_bytes == 2 * 4 * 2 * 16 * 32 * 4
    )  # keys, values; layers, heads, width, tokens, float32
    assert runner.num_blocks == 2**22 // runner.block_bytes
    assert (runner.vocabulary, runner.width) == (300, 64)


def test_memory_of_the_cache_is_taken_when_it_is_written() -> None:
    before = psutil.Process().memory_info().rss
    found = choose(random_model("llama"), kv_cache_bytes=2**30, max_model_len=2**16, max_num_seqs=32)
    assert found.num_blocks * found.block_bytes > 2**30 - 2**20
    assert psutil.Process().memory_info().rss - before < 2**29


def test_one_file_calls_cuda() -> None:
    folder = Path(devices.__file__).parents[2]
    calling = [path for path in folder.rglob("*.py") if "torch.cuda" in path.read_text(encoding="utf-8")]
    assert calling == [Path(devices.__file__)]


def test_a_block_that_is_read_and_written_elsewhere(runner: TorchRunner) -> None:
    computed(runner, [3, 4, 5], 0, 64)
    wanted = computed(runner, [3, 4, 5], 64, 70)
    for old, new in ((3, 9), (4, 7)):
        content = runner.read_block(old)
        assert len(content) == runner.block_bytes
        runner.write_block(new, memoryview(content))
    assert np.array_equal(computed(runner, [9, 7, 8], 64, 70), wanted)


def in_pieces(runner: Runner, tokens: list[int], cuts: list[int], others: list[int]) -> NDArray[np.float32]:
    """logits[tokens, vocabulary] of a prompt in the chunks between `cuts`, each beside the first tokens, so
    many of them, of another sequence.
    """
    first, second = range(len(tokens) // 32 + 1), range(32, 64)
    found = []
    for start, end, count in zip([0, *cuts], [*cuts, len(tokens)], others, strict=True):
        sequences: dict[Sequence, int] = {}
        for prompt, blocks, done, number in (
            (tokens, first, start, end - start),
            (PROMPT * 10, second, 0, count),
        ):
            sequence = Sequence(list(prompt), SamplingParams(max_tokens=1, invariant=True))
            sequence.blocks, sequence.num_computed = list(blocks), done
            sequences |= {sequence: number} if number else {}
        batch = dataclasses.replace(pack(sequences), rows=np.arange(end - start))
        found.append(runner.forward(batch).copy())
    return np.concatenate(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("heads", "width"), [((9, 3), 64), ((8, 8), 64), ((4, 1), 64), ((4, 4), 80), ((8, 2), 128)]
)
def test_a_prompt_has_the_same_bits_in_any_chunks(
    dtype: torch.dtype, heads: tuple[int, int], width: int
) -> None:
    """Else a seeded answer would depend on what was cached, and on who asked at the same time."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not compute with bfloat16")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=64 * heads[0], intermediate_size=96, num_hidden_layers=2,
        head_dim=width,
        num_attention_heads=heads[0], num_key_value_heads=heads[1], max_position_embeddings=1024,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    runner = choose(model, kv_cache_bytes=2**27, max_model_len=1024, max_num_seqs=4)
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 290, 600).tolist()
    whole = in_pieces(runner, tokens, [], [0])
    for _ in range(4):
        cuts = np.unique(generator.integers(1, len(tokens) // 2 - 1, 4) * 2).tolist()
        others = generator.choice([0, 2, 13, 250], len(cuts) + 1).tolist()
        assert np.array_equal(in_pieces(runner, tokens, cuts, others), whole), (cuts, others)


def test_what_is_not_a_number_does_not_spread() -> None:
    """A sequence fails, and the next one gets its blocks: behind what it has written it must find numbers."""
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")
    found = choose(random_model("llama"), kv_cache_bytes=2**22, max_model_len=256, max_num_seqs=4)
    spoilt = Engine(_with_embeddings(found, model), max_num_seqs=1)
    failing = Sequence([7] * 40, SamplingParams(max_tokens=3, temperature=0))
    good = Sequence([8, 9, 10], SamplingParams(max_tokens=3, temperature=0))
    reasons = []
    for sequence in (failing, good):
        spoilt.add(sequence)
        while spoilt.has_work:
            spoilt.step()
        reasons.append(sequence.finish_reason)
    assert reasons == ["error", "length"]


def _with_embeddings(runner: Runner, model: torch.nn.Module) -> Runner:
    assert isinstance(runner, TorchRunner)
    runner.decoder.model.set_input_embeddings(model.get_input_embeddings())
    return runner


def test_layers_that_share_keys_and_values_share_a_cache() -> None:
    decoder = Decoder(random_model("gemma3n_text"))
    decoder.model.set_attn_implementation("headrace")
    ids = torch.arange(4)
    probe = Probe()
    decoder.packed(ids, ids, None, probe)
    layout = probe.layout()
    assert sum(not layer.writes for layer in layout.layers) == 2
    assert len(layout.shapes) == len(layout.layers) - 2


def test_a_model_that_is_random_each_time_is_refused() -> None:
    model = random_model("llama")
    model.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(ModelError, match="cannot be run: RuntimeError: no"):
        choose(model, kv_cache_bytes=2**22, max_model_len=256, max_num_seqs=4)


def test_what_the_machine_does_not_have_is_named(tmp_path: Path) -> None:
    if devices.num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match=r"engine\.device = 'cuda:1': PyTorch sees 0 GPUs"):
        load_runner(tmp_path, TorchOptions("cuda:1"), kv_cache_bytes=2**22, max_model_len=256, max_num_seqs=4)


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"precision = 'f32' and engine\.dtype = 'bfloat16' exclude"):
        load_runner(
            tmp_path, TorchOptions("cpu", "bfloat16"), kv_cache_bytes=2**22, max_model_len=256,
            max_num_seqs=4, exact=True,
        )  # fmt: skip
