"""Small random GGUF models that load wherever a real one does: for tests that need no good model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

# the last one: not for our engine
Architecture = Literal[
    "llama", "qwen2", "qwen3", "qwen3moe", "smollm3", "granite", "phi3", "gemma3", "exaone"
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class TinyVocabulary:
    """Byte-level BPE: the special tokens, the 256 bytes, and one token for each merge."""

    merges: list[tuple[str, str]] = field(
        default_factory=lambda: [("a", "b"), ("Ġ", "a"), ("t", "h"), ("th", "e")]
    )
    pre: str = "gpt-2"
    special: list[str] = field(default_factory=lambda: list(SPECIAL))
    user_defined: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> list[str]:
        words = [left + right for left, right in self.merges]
        return [*self.special, *sorted(ByteLevel.alphabet()), *dict.fromkeys(words), *self.user_defined]

    def write(self, writer: GGUFWriter) -> None:
        tokens = self.tokens
        kinds = dict.fromkeys(self.special, TokenType.CONTROL)
        kinds |= dict.fromkeys(self.user_defined, TokenType.USER_DEFINED)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(tokens)
        writer.add_token_types([kinds.get(text, TokenType.NORMAL) for text in tokens])
        writer.add_token_merges([f"{left} {right}" for left, right in self.merges])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)


@dataclass(frozen=True, slots=True)
class TinyShape:
    num_layers: int = 2
    num_experts: int = 6  # of qwen3moe
    num_chosen: int = 2
    hidden: int = 64
    feed_forward: int = 96
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32  # qwen3 sets it apart from hidden / heads
    context_length: int = 512
    rotary_dim: int = 0  # 0: head_dim
    window: int = 0
    stretched: float = 0.0  # the factor of linear scaling of positions
    period: int = 0  # every so many layers of gemma3 have no window


def write_tiny(
    path: Path,
    architecture: Architecture = "llama",
    *,
    tied: bool = True,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    vocabulary: TinyVocabulary | None = None,
    shape: TinyShape | None = None,
    chat_template: str | None = CHATML,
    seed: int = 0,
) -> Path:
    """Write a random decoder of that architecture; the same arguments give the same file. Returns `path`."""
    words, size = vocabulary or TinyVocabulary(), shape or TinyShape()
    writer = GGUFWriter(path, architecture)
    _write_shape(writer, size, len(words.tokens))
    if architecture == "granite":
        _write_scales(writer)
    if architecture == "qwen3moe":
        writer.add_expert_count(size.num_experts)
        writer.add_expert_used_count(size.num_chosen)
        writer.add_expert_feed_forward_length(size.feed_forward)
    words.write(writer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    weights = _weights(np.random.default_rng(seed), architecture, size, len(words.tokens), tied=tied)
    for name, weight in weights.items():
        is_full = weight.ndim == 1 or "ffn_gate_inp" in name  # as files have the router
        _write_tensor(writer, name, weight, GGMLQuantizationType.F32 if is_full else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: GGUFWriter, shape: TinyShape, vocabulary: int) -> None:
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.rotary_dim or shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if shape.period:
        writer.add_sliding_window_pattern(shape.period)
    if shape.stretched:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.stretched)


def _write_scales(writer: GGUFWriter) -> None:
    """Those of granite, each far from 1."""
    writer.add_attention_scale(0.3)
    writer.add_embedding_scale(2.5)
    writer.add_residual_scale(0.4)
    writer.add_logit_scale(3.0)


def _write_tensor(
    writer: GGUFWriter, name: str, weight: NDArray[np.float32], kind: GGMLQuantizationType
) -> None:
    if kind == GGMLQuantizationType.F32:
        writer.add_tensor(name, weight)
    elif kind == GGMLQuantizationType.F16:
        writer.add_tensor(name, weight.astype(np.float16))
    else:
        writer.add_tensor(name, quantize(weight, kind), raw_dtype=kind)


def _weights(
    rng: np.random.Generator, architecture: Architecture, shape: TinyShape, vocabulary: int, *, tied: bool
) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the model, [out, in], at a scale that keeps activations near one."""

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal((rows, columns)) / np.sqrt(columns), np.float32)

    def norm(size: int) -> NDArray[np.float32]:
        return np.asarray(1 + 0.2 * rng.standard_normal(size), np.float32)

    query, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    weights = {
        "token_embd.weight": 5 * matrix(vocabulary, shape.hidden),
        "output_norm.weight": norm(shape.hidden),
    }
    if not tied:
        weights["output.weight"] = 3 * matrix(vocabulary, shape.hidden)
    for block in (f"blk.{layer}." for layer in range(shape.num_layers)):
        weights |= {
            block + "attn_norm.weight": norm(shape.hidden),
            block + "attn_q.weight": matrix(query, shape.hidden),
            block + "attn_k.weight": matrix(kv, shape.hidden),
            block + "attn_v.weight": matrix(kv, shape.hidden),
            block + "attn_output.weight": matrix(shape.hidden, query),
            block + "ffn_norm.weight": norm(shape.hidden),
            block + "ffn_gate.weight": matrix(shape.feed_forward, shape.hidden),
            block + "ffn_up.weight": matrix(shape.feed_forward, shape.hidden),
            block + "ffn_down.weight": matrix(shape.hidden, shape.feed_forward),
        }
        if architecture == "phi3":
            parts = [weights.pop(f"{block}attn_{part}.weight") for part in "qkv"]
            weights[block + "attn_qkv.weight"] = np.concatenate(parts)
            both = [weights.pop(f"{block}ffn_{part}.weight") for part in ("gate", "up")]
            weights[block + "ffn_up.weight"] = np.concatenate(both)
        if architecture == "qwen3moe":
            for part in ("ffn_gate", "ffn_up", "ffn_down"):
                of_one = weights.pop(f"{block}{part}.weight")
                of_all = [matrix(*of_one.shape) for _ in range(shape.num_experts)]
                weights[f"{block}{part}_exps.weight"] = np.stack(of_all)
            weights[block + "ffn_gate_inp.weight"] = 2 * matrix(shape.num_experts, shape.hidden)
        if architecture == "qwen2":
            sizes = {"attn_q": query, "attn_k": kv, "attn_v": kv}
            weights |= {f"{block}{part}.bias": norm(size) - 1 for part, size in sizes.items()}
        if architecture == "gemma3":
            added = ("post_attention_norm", "post_ffw_norm")
            weights |= {f"{block}{part}.weight": norm(shape.hidden) for part in added}
        if architecture in ("qwen3", "qwen3moe", "gemma3"):
            weights |= {f"{block}{part}_norm.weight": norm(shape.head_dim) for part in ("attn_q", "attn_k")}
    return weights
