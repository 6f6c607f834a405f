"""GGUF files that say something else than our graph computes: refused in one sentence, so
that llama.cpp is tried; and damaged ones: one sentence too, never a traceback.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from headrace.backends.llamacpp.process import Settings, start_server
from headrace.cli.models import fetch
from headrace.config import Config
from headrace.errors import ModelError, UnsupportedModel
from headrace.models.catalog import Cache, GGUFModel, Model, locate, prepare
from headrace.text.tokenizer import Tokenizer
from tests.models.mutated import mutated
from tests.models.tiny import TinyShape, TinyVocabulary, write_tiny

SMALL = TinyShape(num_layers=2, hidden=64, feed_forward=96, num_heads=4, num_kv_heads=2, head_dim=16)
TOKENS = TinyVocabulary().tokens
ONES = np.ones(64, np.float32)
FUSED = np.ones((64 + 32 + 32, 64), np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", shape=SMALL)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # L8
    "L8 head_count_kv": ({"llama.attention.head_count_kv": [2, 1]}, {}, "for each layer"),
    "L8 head_count": ({"llama.attention.head_count": [4, 2]}, {}, "for each layer"),
    "L8 feed_forward_length": ({"llama.feed_forward_length": [96, 64]}, {}, "for each layer"),
    "L8 missing tensor": ({}, {"blk.1.ffn_up.weight": None}, "no tensor 'blk.1.ffn_up.weight'"),
    "L8 fused tensor": (
        {},
        {"blk.0.attn_q.weight": None, "blk.0.attn_k.weight": None, "blk.0.attn_v.weight": None,
         "blk.0.attn_qkv.weight": FUSED},
        "no tensor 'blk.0.attn_q.weight'",
    ),
    "L8 fused beside": ({}, {"blk.0.attn_qkv.weight": FUSED}, "a tensor 'blk.0.attn_qkv.weight'"),
    "L8 token_type": ({"tokenizer.ggml.token_type": [3, 3, 3]}, {}, "3 token types"),
    "L8 unknown token_type": ({"tokenizer.ggml.token_type": [77] * len(TOKENS)}, {}, "not known"),
    "L8 odd head size": (
        dict.fromkeys(
            ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"), 15
        ),
        {}, "odd size 15",
    ),
    "L8 value size": ({"llama.attention.value_length": 8}, {}, "of values with 8"),
    "L8 merges": ({"tokenizer.ggml.merges": ["a zzz"]}, {}, "merges"),
    "L8 merge without a result": ({"tokenizer.ggml.merges": ["x y"]}, {}, "merges"),
    "L8 merge that is one word": ({"tokenizer.ggml.merges": ["ab"]}, {}, "merges"),
    "L8 no merges": ({"tokenizer.ggml.merges": None}, {}, "merges"),
    "L8 two of one text": ({"tokenizer.ggml.tokens": [*TOKENS[:-1], TOKENS[0]]}, {}, "two tokens"),
    "L8 tokens and rows": ({"tokenizer.ggml.tokens": TOKENS[:-1]}, {}, "rows"),
    "L8 shape": ({}, {"blk.0.ffn_up.weight": np.ones((64, 64), np.float32)}, "of shape [64, 64]"),
    "L8 heads": ({"llama.attention.head_count_kv": 3}, {}, "3 kv heads"),
    "L8 no heads": ({"llama.attention.head_count": 0}, {}, "size"),
    "L8 negative layers": ({"llama.block_count": -1}, {}, "size"),
    "L8 layers beyond all": ({"llama.block_count": 2**31}, {}, "size"),
    "L8 more layers than tensors": ({"llama.block_count": 10**6}, {}, "1000000 layers"),
    "L8 a text for a number": ({"llama.block_count": "2"}, {}, "no whole number"),
    "L8 a number for a text": ({"tokenizer.ggml.model": 7}, {}, "not a text"),
    # L9
    "L9 rope factor": ({"llama.rope.scaling.factor": 4.0}, {}, "llama.rope.scaling.factor"),
    "L9 legacy rope factor": ({"llama.rope.scale_linear": 2.0}, {}, "llama.rope.scale_linear"),
    "L9 rope type": ({"llama.rope.scaling.type": "yarn"}, {}, "llama.rope.scaling.type"),
    "L9 rope attention": ({"llama.rope.scaling.attn_factor": 1.2}, {}, "attn_factor"),
    "L9 output.bias": ({}, {"output.bias": np.ones(len(TOKENS), np.float32)}, "'output.bias'"),
    "L9 norm of heads": ({}, {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}, "attn_q_norm"),
    "L9 a layer more": ({}, {"blk.2.attn_norm.weight": ONES}, "blk.2.attn_norm.weight"),
    "L9 rope_freqs of another size": ({}, {"rope_freqs.weight": np.ones(4, np.float32)}, "rope_freqs"),
    "L9 experts": ({"llama.expert_count": 8}, {}, "expert_count"),
    "L9 logit scale": ({"llama.logit_scale": 2.0}, {}, "logit_scale"),
    "L9 attention scale": ({"llama.attention.scale": 0.5}, {}, "attention.scale"),
    "L9 not causal": ({"llama.attention.causal": False}, {}, "attention.causal"),
    "L9 a window": ({"llama.attention.sliding_window": 64}, {}, "sliding_window"),
    "L9 unheard of": ({"llama.attention.twist": 1.0}, {}, "attention.twist"),
    "L9 epsilon": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, {}, "epsilon"),
    "L9 eos": ({"tokenizer.ggml.eos_token_id": 100_000}, {}, "100000"),
    "L9 bos": ({"tokenizer.ggml.bos_token_id": 100_000}, {}, "100000"),
    "L9 eot": ({"tokenizer.ggml.eot_token_id": 9999}, {}, "9999"),
    "L9 bos wanted, none there": (
        {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.add_bos_token": True}, {}, "does not name",
    ),
    "L9 eos after each prompt": ({"tokenizer.ggml.add_eos_token": True}, {}, "add_eos_token"),
    "L9 suppressed tokens": ({"tokenizer.ggml.suppress_tokens": [5]}, {}, "suppress_tokens"),
    "L9 an adapter": ({"general.type": "adapter"}, {}, "adapter"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_means_something_else_is_left_to_llama_cpp(tiny: Path, tmp_path: Path, case: str) -> None:
    keys, tensors, message = REFUSED[case]
    path = mutated(tiny, tmp_path / "odd.gguf", keys, tensors)
    with pytest.raises(UnsupportedModel) as caught:
        prepare(str(path), Cache(tmp_path / "cache"))
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    config = Config.model_validate({"paths": {"cache": tmp_path / "cache"}})
    assert isinstance(fetch(str(path), config), GGUFModel)


HARMLESS: dict[str, dict[str, Any]] = {
    "one number for all layers": {
        "llama.attention.head_count_kv": [2, 2],
        "llama.feed_forward_length": [96, 96],
    },
    "no rope scaling": {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 1.0},
    "no experts": {"llama.expert_count": 0, "llama.expert_used_count": 0},
    "no types": {"tokenizer.ggml.token_type": None},
    "no padding": {"tokenizer.ggml.padding_token_id": 2**32 - 1},
    "no scale": {"llama.logit_scale": 0.0, "llama.attention.sliding_window": 0},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_nothing_is_read(tiny: Path, tmp_path: Path, case: str) -> None:
    plain = prepare(str(tiny), Cache(tmp_path / "plain"))
    path = mutated(tiny, tmp_path / "odd.gguf", HARMLESS[case])
    model = prepare(str(path), Cache(tmp_path / "cache"))
    assert (model.context_length, model.vocabulary) == (plain.context_length, plain.vocabulary)
    ours, theirs = Tokenizer(model.folder), Tokenizer(plain.folder)
    assert ours.encode("the <|im_end|> cab") == theirs.encode("the <|im_end|> cab")


def test_l8_the_end_of_a_turn_is_special_whatever_its_type(tiny: Path, tmp_path: Path) -> None:
    path = mutated(tiny, tmp_path / "odd.gguf", {"tokenizer.ggml.token_type": [1] * len(TOKENS)})
    model = prepare(str(path), Cache(tmp_path / "cache"))
    assert TOKENS.index("<|im_end|>") in model.eos_token_ids
    assert "<|im_end|>" in Tokenizer(model.folder).special


def described(path: Path, cache: Cache) -> Model | str:
    """As the commands that prepare a model go on after each kind of refusal."""
    try:
        return prepare(str(path), cache)
    except UnsupportedModel as exc:
        try:
            locate(str(path), cache)
        except ModelError as other:
            return other.message
        return exc.message
    except ModelError as exc:
        return exc.message


@pytest.mark.parametrize("seed", range(6))
def test_l8_damaged_bytes_are_one_sentence(tiny: Path, tmp_path: Path, seed: int) -> None:
    """Bytes of the header are changed, or left out: no exception of a library comes through."""
    rng, content = random.Random(seed), tiny.read_bytes()
    header = content.index(b"token_embd.weight") + 4000
    for number in range(40):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            place = rng.randrange(4, header)
            damaged[place] = rng.choice([0, 1, 9, 255, rng.randrange(256)])
        if rng.random() < 0.3:
            start = rng.randrange(4, header)
            del damaged[start : start + rng.choice([1, 8, 500])]
        path = tmp_path / f"damaged-{number}.gguf"
        path.write_bytes(damaged)
        result = described(path, Cache(tmp_path / "cache"))
        assert isinstance(result, Model) or (result and "\n" not in result and len(result) < 1000)


def test_l8_counts_beyond_the_file(tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    for old in (b"token_type", b"merges"):  # of a list
        start = content.index(b"tokenizer.ggml." + old) + len(b"tokenizer.ggml." + old) + 8
        path = tmp_path / f"{old.decode()}.gguf"
        path.write_bytes(content[:start] + b"\xff" * 6 + content[start + 6 :])
        assert str(path) in str(described(path, Cache(tmp_path / "cache")))
    for offset in (8, 16):  # of tensors, of keys
        for count in (2**62, 2**64 - 1, 10**6):
            path = tmp_path / f"{offset}-{count}.gguf"
            path.write_bytes(content[:offset] + count.to_bytes(8, "little") + content[offset + 8 :])
            assert str(path) in str(described(path, Cache(tmp_path / "cache")))


@pytest.mark.parametrize("kind", [GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0])
def test_l8_formats_that_are_read(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    path = write_tiny(tmp_path / "some.gguf", shape=SMALL, kind=kind)
    assert isinstance(described(path, Cache(tmp_path / "cache")), Model)


def test_l8_what_llama_cpp_does_not_load_either_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    path = mutated(tiny, tmp_path / "odd.gguf", {}, {"blk.1.ffn_up.weight": None})
    with pytest.raises(ModelError) as caught:
        asyncio.run(start_server(Settings(path)))
    assert caught.value.message == (
        f"llama.cpp cannot load {path}: check_tensor_dims: tensor 'blk.1.ffn_up.weight' not found"
    )
