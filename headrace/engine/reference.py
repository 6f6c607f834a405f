"""The slow oracle for fidelity: a float32 forward pass in NumPy over the exactly dequantized GGUF file.

It is independent of the runtime and of our graph: it follows the papers (RMSNorm, RoFormer, grouped-query
attention, SwiGLU) and ggml's conventions for how weights are stored. Slow on purpose: plain loops over
layers, the whole sequence at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class ReferenceModel:
    """A GGUF file of architecture llama (rotates interleaved pairs), qwen2 or qwen3 (rotate halves)."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self.weights: dict[str, Floats] = {
            tensor.name: np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(
                tuple(int(n) for n in reversed(tensor.shape.tolist()))
            )
            for tensor in reader.tensors
        }
        arch = reader.fields["general.architecture"].contents()
        fields = {
            key.removeprefix(arch + "."): f.contents()
            for key, f in reader.fields.items()
            if key.startswith(arch)
        }
        self.architecture = arch
        self.num_layers = fields["block_count"]
        self.num_heads = fields["attention.head_count"]
        self.num_kv_heads = fields.get("attention.head_count_kv", self.num_heads)
        self.head_dim = fields.get("attention.key_length", fields["embedding_length"] // self.num_heads)
        self.eps = fields.get("attention.layer_norm_rms_epsilon", 1e-5)
        self.rope_base = fields.get("rope.freq_base", 10000.0)

    def logits(self, tokens: list[int]) -> Floats:
        """Compute the whole sequence: logits[tokens, vocabulary]."""
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self.states(tokens) @ head.T

    def states(self, tokens: list[int]) -> Floats:
        """Compute the last hidden states, the head's input: states[tokens, width]."""
        x = self.weights["token_embd.weight"][tokens]
        for layer in range(self.num_layers):
            block = f"blk.{layer}."
            x = x + self._attention(block, self._norm(x, block + "attn_norm"))
            x = x + self._feed_forward(block, self._norm(x, block + "ffn_norm"))
        return self._norm(x, "output_norm")

    def _linear(self, x: Floats, name: str) -> Floats:
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def _norm(self, x: Floats, name: str) -> Floats:
        scale: Floats = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        return x / scale * self.weights[name + ".weight"]

    def _feed_forward(self, block: str, x: Floats) -> Floats:
        gate = self._linear(x, block + "ffn_gate")
        swish = gate / (1 + np.exp(-gate))
        return self._linear(swish * self._linear(x, block + "ffn_up"), block + "ffn_down")

    def _attention(self, block: str, x: Floats) -> Floats:
        count = len(x)
        q = self._heads(x, block + "attn_q", self.num_heads, rotate=True)
        k = self._heads(x, block + "attn_k", self.num_kv_heads, rotate=True)
        v = self._heads(x, block + "attn_v", self.num_kv_heads, rotate=False)
        serves = self.num_heads // self.num_kv_heads
        future = np.triu(np.full((count, count), -np.inf, np.float32), 1)
        attended = np.empty((count, self.num_heads, self.head_dim), np.float32)
        for head in range(self.num_heads):
            scores = q[:, head] @ k[:, head // serves].T / np.float32(np.sqrt(self.head_dim)) + future
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            attended[:, head] = (scores / scores.sum(-1, keepdims=True)) @ v[:, head // serves]
        return self._linear(attended.reshape(count, -1), block + "attn_output")

    def _heads(self, x: Floats, name: str, count: int, *, rotate: bool) -> Floats:
        """Project x[tokens, width] to [tokens, heads, head_dim], normalise each head if the model has a
        weight for that, and rotate by position if `rotate`.
        """
        split = self._linear(x, name).reshape(len(x), count, self.head_dim)
        if name + "_norm.weight" in self.weights:
            split = self._norm(split, name + "_norm")
        return self._rotate(split) if rotate else split

    def _rotate(self, x: Floats) -> Floats:
        """Rotate each pair of coordinates i by position × base^(-2i/dim) (RoFormer). Llama pairs neighbours,
        the others pair the first half with the second.
        """
        half = self.head_dim // 2
        frequencies = self.rope_base ** (-np.arange(half) * 2.0 / self.head_dim)
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights["rope_freqs.weight"]
        angles = (np.arange(len(x))[:, None] * frequencies[None, :])[:, None, :]
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        out = np.empty_like(x)
        first, second = (
            (np.s_[..., 0::2], np.s_[..., 1::2])
            if self.architecture == "llama"
            else (np.s_[..., :half], np.s_[..., half:])
        )
        out[first] = x[first] * cos - x[second] * sin
        out[second] = x[first] * sin + x[second] * cos
        return out
