"""A decoder as numbers and tensors, whatever file it comes from: what the graph is built from.

Reads a GGUF file's hyperparameters, and checks that our graph computes what the file means: it must use
every key that changes the results, and every tensor; otherwise the file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from headrace.errors import UnsupportedModel
from headrace.models.metadata import MOST_LAYERS, Metadata

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe", "smollm3", "granite", "phi3", "gemma3")
HEADS_NORMED = ("qwen3", "qwen3moe", "gemma3")  # queries and keys have a norm
INTERLEAVED = frozenset({"llama", "smollm3", "granite"})  # ggml stores their q and k rows as pairs
ROTATION_PAUSE = 4  # every so many layers smollm3 does not rotate
GEMMA_PERIOD = 6  # every so many layers of gemma3 attend to everything, where the file does not say it
# Layers of the one gemma3 (27B) whose queries are scaled by hidden / heads. The file does not say it.
GEMMA_LARGEST = 62
MOST = 2**31 - 1
EXPERTS = ("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")  # what each expert has
# Architectures that the runtime's paged attention cannot compute: it has no input for a soft cap.
BEYOND = {"gemma2": ", which caps the scores of its attention"}

# Keys under the architecture's name: those that are read here, and those that never change the results.
READ = frozenset(
    {
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base",
    }
)  # fmt: skip
# ... and those that only one architecture has.
OWN: Mapping[str, frozenset[str]] = {
    "granite": frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"}),
    "qwen3moe": frozenset({"expert_count", "expert_used_count", "expert_feed_forward_length"}),
    "phi3": frozenset({"attention.sliding_window"}),
    "gemma3": frozenset(
        {
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "rope.freq_base_swa",
            "rope.scaling.factor",
            "rope.scale_linear",
        }
    ),
}
IDLE = frozenset(
    {
        "pooling_type", "tensor_data_layout", "rope.scaling.finetuned",
        # describes how positions are stretched; files that stretch them are refused
        "rope.scaling.original_context_length",
    }
)  # fmt: skip
# Other keys, with the values that do not change the results.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "use_parallel_residual": (False,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "rope.scaling.type": ("none", "linear", ""),  # linear stretches by the factor
    "rope.scaling.factor": (0, 1),
    "rope.scale_linear": (0, 1),
    "rope.scaling.attn_factor": (1,),
}
# Of the tokenizer: keys that would change ids, with the values that do not.
OF_TOKENIZER: Mapping[str, tuple[object, ...]] = {
    "tokenizer.ggml.add_eos_token": (False,),
    "tokenizer.ggml.add_sep_token": (False,),
    "tokenizer.ggml.suppress_tokens": ([],),
    "tokenizer.ggml.normalizer.lowercase": (False,),
    "tokenizer.ggml.normalizer.strip_accents": (False,),
}
OTHER_KINDS = (
    "adapter.",
    "clip.",
    "control_vector.",
    "diffusion.",
    "xielu.",
)  # files of something other than a decoder

Shape = tuple[int, ...]

Activation = Literal["silu", "gelu"]  # gelu: its approximation by tanh


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The numbers that define a decoder. Of lists, entry i belongs to layer i."""

    architecture: str
    num_layers: int
    hidden: int
    feed_forward: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int
    rms_eps: float
    rope_base: float
    rotary_dim: int = 0  # leading dimensions of a head that are rotated; 0: all
    local_rope_base: float = 0.0  # of the layers with a window, where they have another base; 0: the same
    rope_factor: float = 1.0  # positions are divided by it, in layers without a window
    windows: tuple[int, ...] = ()  # tokens that a layer attends to, its own included; 0, or no list: all
    unrotated: frozenset[int] = frozenset()  # layers that do not rotate
    attention_scale: float = 0.0  # of queries; 0: 1 / sqrt(head_dim)
    embedding_scale: float = 1.0  # embeddings are multiplied by it
    residual_scale: float = 1.0  # what a layer adds is multiplied by it
    logit_scale: float = 1.0  # logits are multiplied by it
    activation: Activation = "silu"
    num_experts: int = 0  # of each layer, `feed_forward` wide; 0: one feed-forward for all tokens
    num_chosen: int = 0  # experts that a token uses
    is_choice_normalised: bool = True  # the weights of the chosen experts add up to 1
    interleaved: bool = False  # q and k rows are stored in ggml's order, pairs (x0, x_half)

    def window(self, layer: int) -> int:
        return self.windows[layer] if self.windows else 0


class Decoder(Protocol):
    """An open file, or files, of a model. Tensors have ggml's names; matrices are [out, in]."""

    path: Path  # of the file, or of the folder
    hyperparameters: Hyperparameters

    def __contains__(self, tensor: str) -> bool: ...

    def tensor_type(self, name: str) -> GGMLQuantizationType: ...

    def num_columns(self, name: str) -> int: ...

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The quantized bytes of a tensor, uint8[rows, bytes a row]."""
        ...

    def weight(self, name: str) -> NDArray[np.float32]:
        """The exact numbers, float32[out, in] or [size]."""
        ...


def read(metadata: Metadata, tensors: Mapping[str, Shape]) -> Hyperparameters:
    """Read and check the hyperparameters. `tensors`: name → shape, [out, in] or [size]. Raises
    UnsupportedModel if the graph would not compute what the file means.
    """
    architecture = metadata.text("general.architecture", "unknown")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        reason = BEYOND.get(architecture, "")
        raise UnsupportedModel(
            f"{metadata.path} is of architecture {architecture[:100]!r}{reason}; the engine reads {known}"
        )
    _check_keys(metadata, architecture)
    hyperparameters = _numbers(metadata, architecture, tensors)
    _check_numbers(metadata, hyperparameters)
    check_tensors(hyperparameters, tensors, metadata.unsupported)
    return hyperparameters


def _check_keys(metadata: Metadata, architecture: str) -> None:
    if metadata.text("general.type", "model") != "model":
        raise metadata.unsupported(f"is of type {metadata.text('general.type')[:100]!r}, not a model")
    prefix, known = architecture + ".", READ | IDLE | OWN.get(architecture, frozenset())
    for key in metadata:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name not in known and not _is_neutral(metadata, key, name):
            raise metadata.unsupported(f"uses {key[:200]}")
        if key.startswith(OTHER_KINDS):
            raise metadata.unsupported(f"has {key[:200]!r} in its metadata")
        if key in OF_TOKENIZER and metadata.value(key) not in OF_TOKENIZER[key]:
            raise metadata.unsupported(f"uses {key}")


def _is_neutral(metadata: Metadata, key: str, name: str) -> bool:
    return metadata.value(key) in NEUTRAL.get(name, ())


def _numbers(metadata: Metadata, architecture: str, tensors: Mapping[str, Shape]) -> Hyperparameters:
    def number(key: str, default: int | None = None) -> int:
        return metadata.integer(f"{architecture}.{key}", default)

    table = tensors.get("token_embd.weight")
    if table is None or len(table) != 2:
        raise metadata.unsupported("has no matrix 'token_embd.weight'")
    heads, hidden = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", hidden // heads if heads > 0 else 0)
    rope_dim, value_dim = number("rope.dimension_count", head_dim), number("attention.value_length", head_dim)
    is_whole = rope_dim == head_dim or (architecture == "phi3" and 0 < rope_dim <= head_dim)
    if not is_whole or value_dim != head_dim:
        raise metadata.unsupported(f"rotates {rope_dim} of {head_dim} dimensions, of values with {value_dim}")
    hyperparameters = Hyperparameters(
        architecture=architecture,
        num_layers=number("block_count"),
        hidden=hidden,
        feed_forward=number(f"{'expert_' if architecture == 'qwen3moe' else ''}feed_forward_length"),
        num_heads=heads,
        num_kv_heads=number("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocabulary=table[0],
        context_length=number("context_length"),
        rms_eps=metadata.number(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5),
        rope_base=metadata.number(f"{architecture}.rope.freq_base", 10000.0),
        rotary_dim=rope_dim,
        interleaved=architecture in INTERLEAVED,
    )
    return _with_own(metadata, hyperparameters)


def _with_own(metadata: Metadata, shape: Hyperparameters) -> Hyperparameters:
    """What only some architectures have."""

    def number(key: str, default: float) -> float:
        return metadata.number(f"{shape.architecture}.{key}", default) or default

    layers = range(min(shape.num_layers, MOST_LAYERS))
    if shape.architecture == "smollm3":
        return replace(shape, unrotated=frozenset(layers[ROTATION_PAUSE - 1 :: ROTATION_PAUSE]))
    if shape.architecture == "qwen3moe":
        return replace(
            shape,
            num_experts=metadata.integer("qwen3moe.expert_count"),
            num_chosen=metadata.integer("qwen3moe.expert_used_count"),
        )
    if shape.architecture == "granite":
        return replace(
            shape,
            attention_scale=number("attention.scale", 0.0),
            embedding_scale=number("embedding_scale", 1.0),
            residual_scale=number("residual_scale", 1.0),
            logit_scale=1 / number("logit_scale", 1.0),
        )
    window = max(0, metadata.integer(f"{shape.architecture}.attention.sliding_window", 0))
    if shape.architecture == "gemma3":
        period = metadata.integer("gemma3.attention.sliding_window_pattern", GEMMA_PERIOD)  # 0: never
        if period < 0:
            raise metadata.unsupported(f"has a window in all but each {period}th layer")
        is_stretched = metadata.text("gemma3.rope.scaling.type", "linear") == "linear"
        factor = number("rope.scaling.factor", number("rope.scale_linear", 1.0))
        width = shape.hidden / shape.num_heads if shape.num_layers == GEMMA_LARGEST else shape.head_dim
        return replace(
            shape,
            windows=tuple(window if not period or (layer + 1) % period else 0 for layer in layers),
            local_rope_base=number("rope.freq_base_swa", 10000.0),
            rope_factor=factor if is_stretched else 1.0,
            attention_scale=width**-0.5 if width > 0 else 0.0,
            embedding_scale=max(0, shape.hidden) ** 0.5,
            activation="gelu",
        )
    return replace(shape, windows=(window,) * len(layers)) if window else shape


def _check_numbers(metadata: Metadata, shape: Hyperparameters) -> None:
    sizes = (
        shape.num_layers, shape.hidden, shape.feed_forward, shape.num_heads, shape.num_kv_heads,
        shape.head_dim, shape.vocabulary, shape.context_length,
    )  # fmt: skip
    if not all(0 < size <= MOST for size in sizes):
        raise metadata.unsupported(f"has a size in its metadata that none can have, among {sizes}")
    if shape.num_heads % shape.num_kv_heads:
        raise metadata.unsupported(f"shares {shape.num_kv_heads} kv heads among {shape.num_heads} heads")
    if shape.head_dim % 2 or shape.rotary_dim % 2:
        odd = shape.head_dim if shape.head_dim % 2 else shape.rotary_dim
        raise metadata.unsupported(f"has heads, or rotated parts of them, of the odd size {odd}")
    scales = (shape.attention_scale, shape.embedding_scale, shape.residual_scale, shape.logit_scale)
    if not all(map(math.isfinite, scales)):
        raise metadata.unsupported(f"has a scale that is infinite, among {scales}")
    rotation = (shape.rope_base, shape.local_rope_base or shape.rope_base, shape.rope_factor)
    if not (0 <= shape.rms_eps < 1 and all(0 < number < math.inf for number in rotation)):
        raise metadata.unsupported(f"has an epsilon of {shape.rms_eps} and rotates by {rotation}")
    vocab_size = metadata.integer(f"{shape.architecture}.vocab_size", shape.vocabulary)
    tokens = len(metadata.texts("tokenizer.ggml.tokens"))
    if not vocab_size == tokens == shape.vocabulary:
        raise metadata.unsupported(
            f"has {shape.vocabulary} rows in its embedding, {tokens} tokens and a vocab_size of {vocab_size}"
        )


def check_tensors(
    shape: Hyperparameters, tensors: Mapping[str, Shape], unsupported: Callable[[str], UnsupportedModel]
) -> None:
    """Check that the graph uses each tensor, and has all that it needs. Raises what `unsupported` makes."""
    if shape.num_layers > len(tensors):  # before so many names are made
        raise unsupported(f"has {len(tensors)} tensors for {shape.num_layers} layers")
    if shape.num_experts and not 0 < shape.num_chosen <= shape.num_experts <= MOST:
        raise unsupported(f"uses {shape.num_chosen} of {shape.num_experts} experts")
    is_stacked = "blk.0.ffn_gate_exps.weight" in tensors
    if not is_stacked and shape.num_layers * shape.num_experts > len(tensors):
        raise unsupported(f"has {len(tensors)} tensors for {shape.num_experts} experts a layer")
    needed, allowed = _needed(shape, is_stacked=is_stacked), _allowed(shape)
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise unsupported(f"has no tensor {missing[0]!r}")
    for name, actual in tensors.items():
        wanted = needed.get(name) or allowed.get(name)
        if wanted is None:
            raise unsupported(f"has a tensor {name[:200]!r}")
        if actual != wanted:
            raise unsupported(f"has {name!r} of shape {list(actual)[:8]}, not {list(wanted)}")


def _needed(shape: Hyperparameters, *, is_stacked: bool) -> dict[str, Shape]:
    hidden, query, kv = shape.hidden, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    needed: dict[str, Shape] = {
        "token_embd.weight": (shape.vocabulary, hidden),
        "output_norm.weight": (hidden,),
    }
    layer: dict[str, Shape] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (query, hidden),
        "attn_k.weight": (kv, hidden),
        "attn_v.weight": (kv, hidden),
        "attn_output.weight": (hidden, query),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (shape.feed_forward, hidden),
        "ffn_up.weight": (shape.feed_forward, hidden),
        "ffn_down.weight": (hidden, shape.feed_forward),
    }
    if shape.architecture == "phi3":
        for name in ("attn_q", "attn_k", "attn_v", "ffn_gate"):
            del layer[name + ".weight"]
        layer["attn_qkv.weight"] = (query + 2 * kv, hidden)
        layer["ffn_up.weight"] = (2 * shape.feed_forward, hidden)
    if shape.architecture == "qwen2":
        layer |= {"attn_q.bias": (query,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    if shape.architecture == "gemma3":
        layer |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    if shape.num_experts:
        layer = _with_experts(shape, layer, is_stacked=is_stacked)
    if shape.architecture in HEADS_NORMED:
        layer |= {"attn_q_norm.weight": (shape.head_dim,), "attn_k_norm.weight": (shape.head_dim,)}
    return needed | _for_all_layers(shape, layer)


def _with_experts(
    shape: Hyperparameters, layer: Mapping[str, Shape], *, is_stacked: bool
) -> dict[str, Shape]:
    """The tensors of a layer with the feed-forward of each expert, or with those of all in one tensor."""
    count = shape.num_experts
    found: dict[str, Shape] = {"ffn_gate_inp.weight": (count, shape.hidden)}
    for name, size in layer.items():
        part, is_expert = name.removesuffix(".weight"), name in EXPERTS
        if is_expert and is_stacked:
            found[f"{part}_exps.weight"] = (count, *size)
        elif is_expert:
            found |= {f"{part}.{index}.weight": size for index in range(count)}
        else:
            found[name] = size
    return found


def _allowed(shape: Hyperparameters) -> dict[str, Shape]:
    """The optional tensors, with their shapes."""
    hidden, query, kv = shape.hidden, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    allowed: dict[str, Shape] = {"output.weight": (shape.vocabulary, hidden)}
    if shape.architecture != "llama":
        return allowed
    allowed["rope_freqs.weight"] = (shape.head_dim // 2,)
    layer: dict[str, Shape] = {
        "attn_q.bias": (query,), "attn_k.bias": (kv,), "attn_v.bias": (kv,), "attn_output.bias": (hidden,),
        "ffn_gate.bias": (shape.feed_forward,), "ffn_up.bias": (shape.feed_forward,),
        "ffn_down.bias": (hidden,),
    }  # fmt: skip
    return allowed | _for_all_layers(shape, layer)


def _for_all_layers(shape: Hyperparameters, layer: Mapping[str, Shape]) -> dict[str, Shape]:
    return {f"blk.{index}.{name}": size for index in range(shape.num_layers) for name, size in layer.items()}
