"""Small random models of many architectures, from transformers' own configurations."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 300
SIZES: dict[str, object] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "sliding_window": 24, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256, "n_ctx": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "num_experts": 4,
    "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "ffn_hidden_size": 96, "word_embed_proj_dim": 64, "ffn_dim": 96,
    "hidden_size_per_layer_input": 0, "attention_chunk_size": 20,
}  # fmt: skip
LATENT: dict[str, object] = {
    "q_lora_rank": None, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 8,
    "n_group": 1, "topk_group": 1, "num_key_value_heads": 4, "head_dim": None,
}  # fmt: skip
OWN_HEADS: dict[str, object] = {"head_dim": None, "num_key_value_heads": None}
# What an architecture needs beside SIZES; None takes a member out of them.
OTHERS: dict[str, dict[str, object]] = {
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "gpt2": OWN_HEADS,
    "gpt_neox": OWN_HEADS,
    "gptj": {**OWN_HEADS, "rotary_dim": 8},
    "codegen": {**OWN_HEADS, "rotary_dim": 8},
    "opt": OWN_HEADS,
    "xglm": OWN_HEADS,
    "bloom": OWN_HEADS,
    "mpt": OWN_HEADS,
    "falcon": OWN_HEADS,
    "persimmon": OWN_HEADS,
    "phi": {"head_dim": None},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 300,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "attn_layer_indices": [1]},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_d_ssm": 128},
    # Its usual sizes take a second a pass: 128 heads with states of 256, padded to 256 tokens.
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "layer_types": ["mamba", "attention"] * 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
}
PAGED = (
    "llama", "llama4_text", "mistral", "mixtral", "ministral", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt2", "gpt_neox", "gptj", "opt",
    "stablelm", "starcoder2", "olmo", "olmo2", "olmo3", "olmoe", "granite", "granitemoe", "cohere",
    "cohere2", "gpt_oss", "deepseek_v2", "deepseek_v3", "glm", "glm4", "glm4_moe", "smollm3", "nemotron",
    "exaone4", "ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense", "helium", "seed_oss", "arcee", "apertus",
    "codegen", "persimmon", "jetmoe", "phimoe", "gpt_bigcode", "biogpt",
    "vaultgemma", "gemma3n_text", "diffllama", "flex_olmo", "afmoe", "bitnet", "cohere2_moe", "cwm", "exaone",
    "flint", "granite_swa", "granitemoeshared", "hunyuan_v1_moe", "hyperclovax", "internlm3",
    "jais2", "mellum", "modernbert-decoder", "nanochat", "apertus1p5_text", "ctrl", "exaone_moe",
    "granitemoe_swa", "hy_v3", "iquestcoder", "laguna", "mimo_v2_flash", "minimax_m2", "ministral3",
    "sarvam_moe", "solar_open",
)  # fmt: skip
SEQUENTIAL = (
    "bloom", "falcon", "mpt", "mamba", "mamba2", "jamba", "bamba", "qwen3_next", "minimax", "lfm2",
    "recurrent_gemma", "rwkv", "falcon_h1", "xglm", "doge", "falcon_mamba", "granitemoehybrid", "nemotron_h",
    "olmo_hybrid",
)  # fmt: skip


def random_model(name: str) -> Any:
    """The architecture's random model, in float32, the same each time."""
    torch.manual_seed(0)
    known = AutoConfig.for_model(name)
    sizes = {key: value for key, value in SIZES.items() if hasattr(known, key) or key in known.attribute_map}
    sizes |= OTHERS.get(name, {})
    config = AutoConfig.for_model(name, **{key: value for key, value in sizes.items() if value is not None})
    return AutoModelForCausalLM.from_config(config).float().eval()
