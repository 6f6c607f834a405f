"""A folder of safetensors as a decoder for our graph: its tensors under ggml's names.

As with GGUF files, every tensor must be used; otherwise the folder is refused, and PyTorch may run it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from headrace.errors import UnsupportedModel
from headrace.models import checkpoint_config, hyperparameters, safetensors

TYPES = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
# transformers' names → ggml's
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = re.compile(r"model\.layers\.(\d{1,5})\.(.+)\.(weight|bias)")
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Gemma has four norms a layer, of which two come after what they normalise.
GEMMA = {
    **PARTS,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# By the member of the configuration that says whether they have a bias.
BIASES = {
    "attention_bias": ("attn_q", "attn_k", "attn_v", "attn_output"),
    "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down"),
}
FACTORS = "rope_freqs.weight"
TIED = ("gemma3_text", "smollm3")  # whose head is the embedding where the configuration does not say it


class CheckpointDecoder:
    """The decoder in the files of a folder; `config`: its config.json. Raises ModelError, and
    UnsupportedModel if our graph would compute something else.
    """

    def __init__(self, folder: Path, files: Sequence[Path], config: Mapping[str, object]) -> None:
        self.path = folder
        read = checkpoint_config.read(config, self.unsupported)
        self.hyperparameters, self._factors = read.hyperparameters, read.rope_factors
        self._is_gemma = config.get("model_type") == "gemma3_text"
        names = GEMMA if self._is_gemma else PARTS
        self._tensors: dict[str, safetensors.Tensor] = {}
        for file in files:
            for name, tensor in safetensors.tensors(file).items():
                self._tensors[self._renamed(name, names)] = tensor
        if "output.weight" not in self._tensors and not _is_tied(config):
            raise self.unsupported("has no tensor 'lm_head.weight'")
        if self._repeats_embedding():
            del self._tensors["output.weight"]
        self._check(config)

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._tensors or (tensor == FACTORS and self._factors is not None)

    def tensor_type(self, name: str) -> GGMLQuantizationType:
        return TYPES[self._tensors[name].kind]

    def num_columns(self, name: str) -> int:
        return self._tensors[name].shape[1]

    def raw(self, name: str) -> NDArray[np.uint8]:
        return self._tensors[name].raw

    def weight(self, name: str) -> NDArray[np.float32]:
        if name == FACTORS and self._factors is not None:
            return self._factors
        values = self._tensors[name].values()
        is_difference = self._is_gemma and name.endswith("norm.weight")  # from 1
        return values + np.float32(1) if is_difference else values

    def quantization(self) -> str:
        """The format that holds most of the matrices' numbers."""
        sizes: dict[str, int] = {}
        for tensor in self._tensors.values():
            sizes[tensor.kind] = sizes.get(tensor.kind, 0) + len(tensor.raw)
        return max(sizes, key=lambda kind: sizes[kind])

    def unsupported(self, problem: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.path} {problem}, which the engine does not read")

    def _renamed(self, name: str, parts: Mapping[str, str]) -> str:
        """The name in ggml. Raises UnsupportedModel for a tensor that the graph has no use for."""
        if name in NAMES:
            return NAMES[name]
        found = LAYER.fullmatch(name)
        if found is None or found[2] not in parts:
            raise self.unsupported(f"has a tensor {name[:200]!r}")
        return f"blk.{int(found[1])}.{parts[found[2]]}.{found[3]}"

    def _repeats_embedding(self) -> bool:
        """Whether the head is a copy of the embedding, whatever the configuration says (as transformers)."""
        head, table = (self._tensors.get(name) for name in ("output.weight", "token_embd.weight"))
        if head is None or table is None or (head.kind, head.shape) != (table.kind, table.shape):
            return False
        return np.array_equal(head.raw, table.raw)

    def _check(self, config: Mapping[str, object]) -> None:
        other = next((name for name, tensor in self._tensors.items() if tensor.kind not in TYPES), None)
        if other is not None:
            raise self.unsupported(f"has {other!r} as {self._tensors[other].kind}")
        shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        hyperparameters.check_tensors(self.hyperparameters, shapes, self.unsupported)
        self._check_biases(config)

    def _check_biases(self, config: Mapping[str, object]) -> None:
        """Raises UnsupportedModel unless the configuration says which matrices have a bias."""
        if self.hyperparameters.architecture == "qwen2":  # three of its matrices always have one
            return
        for member, parts in BIASES.items():
            wanted = bool(config.get(member))
            for layer in range(self.hyperparameters.num_layers):
                for part in parts:
                    if (f"blk.{layer}.{part}.bias" in self._tensors) != wanted:
                        has = "no" if wanted else "a"
                        raise self.unsupported(
                            f"has {has} bias of layer {layer}'s {part}; {member} is {wanted}"
                        )


def _is_tied(config: Mapping[str, object]) -> bool:
    tied = config.get("tie_word_embeddings")
    return config.get("model_type") in TIED if tied is None else bool(tied)
