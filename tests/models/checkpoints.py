"""Folders of safetensors, written without torch: small ones, and the default model's dequantized weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from headrace.models.model import CONFIG, GENERATION, TEMPLATE, TOKENIZER, Model

Floats = NDArray[np.float32]

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_safetensors(path: Path, tensors: Mapping[str, Floats]) -> None:
    """The format: the header's length in 8 bytes, the header as JSON, the numbers."""
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, "<f4").data)


def write_checkpoint(model: Model, folder: Path) -> None:
    """Write the exact weights of the model's GGUF file, of architecture llama, as published models are."""
    assert model.gguf is not None
    folder.mkdir()
    for name in (TOKENIZER, GENERATION, TEMPLATE):
        if (model.folder / name).is_file():
            shutil.copy(model.folder / name, folder)
    config = json.loads((model.folder / CONFIG).read_text())
    tensors = dequantized(model.gguf, config)
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "dtype": "float32",
    }
    (folder / CONFIG).write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)


def dequantized(gguf: Path, config: Mapping[str, int]) -> dict[str, Floats]:
    """The weights under transformers' names, in its order of rows."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found: dict[str, Floats] = {}
    for tensor in GGUFReader(gguf).tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        weights = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)
        part = tensor.name.split(".")
        if part[0] != "blk":
            found[f"{OUTSIDE[part[0]]}.{part[1]}"] = weights
            continue
        if part[2] in heads:
            weights = _halved(weights, heads[part[2]])
        found[f"model.layers.{part[1]}.{INSIDE[part[2]]}.{part[3]}"] = weights
    return found


def _halved(weights: Floats, heads: int) -> Floats:
    """GGUF files of architecture llama rotate neighbouring rows of a head; transformers rotates a row of its
    first half with one of its second.
    """
    pairs = weights.reshape(heads, -1, 2, weights.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weights.shape)
