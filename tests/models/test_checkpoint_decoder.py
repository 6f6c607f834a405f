"""Our graph of a folder of safetensors computes what transformers computes: random tiny models of each
architecture that it has, in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import UnsupportedModel
from headrace.models import checkpoint_decoder, convert
from headrace.models.model import no_progress
from tests.engine.plain import PlainModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

TOKENS = [1 + (7 * index) % 250 for index in range(40)]
BASE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 2.5, "attention_multiplier": 0.3, "residual_multiplier": 0.4,
    "logits_scaling": 3.0,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases, tied": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "norm_topk_prob": True}),
    "qwen3_moe, not normalised": ("qwen3_moe", {**EXPERTS, "head_dim": 32, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 3}),
    "granite": ("granite", GRANITE),
    "phi3": ("phi3", {"sliding_window": 7}),
    "phi3, in part": ("phi3", {"partial_rotary_factor": 0.5}),
    "phi3, in part, as of version 5": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    "llama ignores the part": ("llama", {"partial_rotary_factor": 0.5}),
    "mistral with wide heads": ("mistral", {"head_dim": 32, "sliding_window": 5}),
    "qwen2 with some windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3},
    ),
    "gemma3 stretched": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 77.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
            },
        },
    ),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 24}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_equals_transformers(name: str, tmp_path: Path) -> None:
    kind, members = CASES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**BASE, **members})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("norm.weight", "bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    model.save_pretrained(tmp_path)
    built = tmp_path / "graph"
    built.mkdir()
    convert.convert_checkpoint(tmp_path, sorted(tmp_path.glob("*.safetensors")), built, no_progress)
    found = PlainModel(built).logits(TOKENS)
    assert np.abs(expected).max() > 1, "the logits must be worth comparing"
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_what_transformers_does_not_read_changes_nothing(tmp_path: Path) -> None:
    """As folders of old versions and other programs have it."""
    config = transformers.AutoConfig.for_model("llama", **BASE)
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    weights = safetensors_torch.load_file(file)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    safetensors_torch.save_file(weights, file, {"format": "pt"})
    described = json.loads((tmp_path / "config.json").read_text())
    others = {"is_llama_config": True, "unsloth_version": "x", "temperature": 0.6, "id2label": {"0": "a"}}
    found = checkpoint_decoder.CheckpointDecoder(tmp_path, [file], described | others)
    assert found.hyperparameters == checkpoint_decoder.read(described, UnsupportedModel).hyperparameters


# As transformers 4 wrote them, with a value of each member that is not the usual one.
WRITTEN: dict[str, Any] = {
    **BASE, "rms_norm_eps": 3e-4, "rope_theta": 77.0, "head_dim": 16, "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "granite": GRANITE,
    "mistral": {"sliding_window": 7},
    "qwen3_moe": {**EXPERTS, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "phi3": {"sliding_window": 7, "head_dim": 8, "partial_rotary_factor": 0.5},
    "smollm3": {"no_rope_layers": [1, 0, 0, 1, 1, 0], "no_rope_layer_interval": 3},
    "gemma3_text": {
        "sliding_window": 7, "sliding_window_pattern": 2, "query_pre_attn_scalar": 24,
        "rope_local_base_freq": 55.0, "hidden_activation": "gelu_pytorch_tanh",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", checkpoint_decoder.ARCHITECTURES)
def test_a_member_that_is_absent_has_transformers_own_value(kind: str, tmp_path: Path) -> None:
    """Or the folder is refused, and PyTorch runs it."""
    whole = {"model_type": kind, **WRITTEN, **OWN.get(kind, {})}
    refused = []
    for name in sorted(checkpoint_decoder.READ & whole.keys() - {"model_type"}):
        config = {key: value for key, value in whole.items() if key != name}
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            found = checkpoint_decoder.read(config, UnsupportedModel)
        except UnsupportedModel:
            refused.append(name)
            continue
        transformers.AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
        completed = json.loads((tmp_path / "config.json").read_text())
        assert found == checkpoint_decoder.read(completed, UnsupportedModel), name
    assert len(refused) < len(whole) / 2
