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
    """A GGUF file of architecture llama, smollm3 or granite (they rotate interleaved pairs), qwen2, qwen3,
    qwen3moe, phi3 or gemma3 (they rotate halves).
    """

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
        self.rotary_dim = fields.get("rope.dimension_count", self.head_dim)
        self.window = fields.get("attention.sliding_window", 0)
        self.scale = fields.get("attention.scale", 0) or self.head_dim**-0.5
        self.embedding_scale = fields.get("embedding_scale", 0) or 1
        self.num_chosen = fields.get("expert_used_count", 0)
        self.is_gemma = arch == "gemma3"
        self.period = fields.get("attention.sliding_window_pattern", 6 if self.is_gemma else 0)
        self.local_base = fields.get("rope.freq_base_swa", 10000.0)
        self.stretched = fields.get("rope.scaling.factor", 1.0)
        if self.is_gemma:
            self.embedding_scale = fields["embedding_length"] ** 0.5
            if self.num_layers == 62:  # 27B: query_pre_attn_scalar is 168 = 5376 / 32 (its config.json)
                self.scale = (fields["embedding_length"] / self.num_heads) ** -0.5
        self.residual_scale = fields.get("residual_scale", 0) or 1
        self.logit_divisor = fields.get("logit_scale", 0) or 1

    def logits(self, tokens: list[int]) -> Floats:
        """Compute the whole sequence: logits[tokens, vocabulary]."""
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self.states(tokens) @ head.T / np.float32(self.logit_divisor)

    def states(self, tokens: list[int]) -> Floats:
        """Compute the last hidden states, the head's input: states[tokens, width]."""
        x = self.weights["token_embd.weight"][tokens] * np.float32(self.embedding_scale)
        scale = np.float32(self.residual_scale)
        for layer in range(self.num_layers):
            block = f"blk.{layer}."
            attended = self._attention(layer, block, self._norm(x, block + "attn_norm"))
            x = x + scale * self._after(attended, block + "post_attention_norm")
            fed = self._feed_forward(block, self._norm(x, block + "ffn_norm"))
            x = x + scale * self._after(fed, block + "post_ffw_norm")
        return self._norm(x, "output_norm")

    def _linear(self, x: Floats, name: str) -> Floats:
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def _norm(self, x: Floats, name: str) -> Floats:
        scale: Floats = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        return x / scale * self.weights[name + ".weight"]

    def _after(self, x: Floats, name: str) -> Floats:
        """Gemma normalises what attention and feed-forward add."""
        return self._norm(x, name) if name + ".weight" in self.weights else x

    def _is_global(self, layer: int) -> bool:
        """Whether the layer attends to everything."""
        return not self.window or bool(self.period and (layer + 1) % self.period == 0)

    def _experts(self, block: str, x: Floats) -> Floats:
        """Each token's answers of the experts with the largest odds, weighted by these."""
        router, *experts = (
            self.weights[f"{block}{part}.weight"]
            for part in ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
        )
        odds = np.exp(x @ router.T)
        out = np.zeros_like(x)
        for row, token in enumerate(x):
            chosen = np.argsort(-odds[row])[: self.num_chosen]
            for expert in chosen:
                gate, up, down = (weight[expert] for weight in experts)
                active = gate @ token / (1 + np.exp(-(gate @ token)))
                out[row] += odds[row, expert] / odds[row, chosen].sum() * (down @ (active * (up @ token)))
        return out

    def _feed_forward(self, block: str, x: Floats) -> Floats:
        if self.num_chosen:
            return self._experts(block, x)
        up = self._linear(x, block + "ffn_up")
        if block + "ffn_gate.weight" in self.weights:
            gate = self._linear(x, block + "ffn_gate")
        else:  # phi3 has both in one matrix
            gate, up = np.split(up, 2, axis=-1)
        if self.is_gemma:  # Hendrycks and Gimpel 2016, their approximation by tanh
            active = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + np.float32(0.044715) * gate**3)))
        else:
            active = gate / (1 + np.exp(-gate))
        return self._linear((active * up).astype(np.float32), block + "ffn_down")

    def _attention(self, layer: int, block: str, x: Floats) -> Floats:
        count = len(x)
        rotate = self.architecture != "smollm3" or (layer + 1) % 4 != 0
        if block + "attn_qkv.weight" in self.weights:
            sizes = np.cumsum([self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim])
            flat = np.split(self._linear(x, block + "attn_qkv"), sizes, axis=-1)
        else:
            flat = [self._linear(x, block + name) for name in ("attn_q", "attn_k", "attn_v")]
        base, factor = self.rope_base, self.stretched
        if self.is_gemma and not self._is_global(layer):
            base, factor = self.local_base, 1.0
        frequencies = base ** (-np.arange(0, self.rotary_dim, 2) / self.rotary_dim) / factor
        rotation = frequencies if rotate else None
        q = self._heads(flat[0], block + "attn_q", self.num_heads, rotation)
        k = self._heads(flat[1], block + "attn_k", self.num_kv_heads, rotation)
        v = self._heads(flat[2], block + "attn_v", self.num_kv_heads, None)
        serves = self.num_heads // self.num_kv_heads
        distance = np.arange(count)[:, None] - np.arange(count)
        is_hidden = (distance < 0) | (not self._is_global(layer) and distance >= self.window)
        masked = np.where(is_hidden, np.float32(-np.inf), np.float32(0))
        attended = np.empty((count, self.num_heads, self.head_dim), np.float32)
        for head in range(self.num_heads):
            scores = q[:, head] @ k[:, head // serves].T * np.float32(self.scale) + masked
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            attended[:, head] = (scores / scores.sum(-1, keepdims=True)) @ v[:, head // serves]
        return self._linear(attended.reshape(count, -1), block + "attn_output")

    def _heads(self, flat: Floats, name: str, count: int, rotation: NDArray[np.float64] | None) -> Floats:
        """Split the projected flat[tokens, width] into [tokens, heads, head_dim], normalise each head if the
        model has a weight for that, and rotate by position, at these frequencies if there are any.
        """
        split = flat.reshape(len(flat), count, self.head_dim)
        if name + "_norm.weight" in self.weights:
            split = self._norm(split, name + "_norm")
        return split if rotation is None else self._rotate(split, rotation)

    def _rotate(self, x: Floats, frequencies: NDArray[np.float64]) -> Floats:
        """Rotate each pair of coordinates i by position × base^(-2i/dim) (RoFormer). Llama and its kin pair
        neighbours, the others the first half with the second. What lies beyond rotary_dim stays as it is.
        """
        half, rest = self.rotary_dim // 2, x[..., self.rotary_dim :]
        x = x[..., : self.rotary_dim]
        if "rope_freqs.weight" in self.weights:
            frequencies = frequencies / self.weights["rope_freqs.weight"]
        angles = (np.arange(len(x))[:, None] * frequencies[None, :])[:, None, :]
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        out = np.empty_like(x)
        first, second = (
            (np.s_[..., 0::2], np.s_[..., 1::2])
            if self.architecture in ("llama", "smollm3", "granite")
            else (np.s_[..., :half], np.s_[..., half:])
        )
        out[first] = x[first] * cos - x[second] * sin
        out[second] = x[first] * sin + x[second] * cos
        return np.concatenate([out, rest], axis=-1)
