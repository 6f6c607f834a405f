"""A folder of safetensors as a decoder for our graph: its tensors under ggml's names, and the hyperparameters
from its config.json.

As with GGUF files, every tensor must be used; otherwise the folder is refused, and PyTorch may run it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from headrace.errors import UnsupportedModel
from headrace.models import hyperparameters, safetensors
from headrace.models.hyperparameters import BEYOND, Hyperparameters

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
    "mlp.gate": "ffn_gate_inp",
}
EXPERT = re.compile(r"mlp\.experts\.(\d{1,5})\.(.+)")
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
# Tensors of old folders, which follow from the configuration; transformers does not read them either.
FREQUENCIES = ".rotary_emb.inv_freq"
TIED = ("gemma3_text", "smollm3")  # whose head is the embedding where the configuration does not say it

Json = Mapping[str, object]
Unsupported = Callable[[str], UnsupportedModel]

# model_type → ggml's name of the architecture
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "smollm3": "smollm3",
    "granite": "granite",
    "phi3": "phi3",
    "gemma3_text": "gemma3",
}
READ = frozenset(
    {
        "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
        "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps",
        "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "sliding_window",
        "use_sliding_window", "sliding_window_pattern", "layer_types", "no_rope_layers",
        "no_rope_layer_interval", "partial_rotary_factor", "query_pre_attn_scalar", "embedding_multiplier",
        "attention_multiplier", "residual_multiplier", "logits_scaling", "tie_word_embeddings",
        "attention_bias", "mlp_bias",  # the tensors say it
        "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
    }
)  # fmt: skip
IDLE = frozenset(
    {
        "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id",
        "cache_implementation", "dtype", "embd_pdrop", "eos_token_id", "head_bias", "hidden_dropout",
        "initializer_range", "max_window_layers", "original_max_position_embeddings",
        "pad_token_id", "pretraining_tp", "resid_pdrop", "torch_dtype", "transformers_version", "use_cache",
        "_name_or_path", "_attn_implementation", "_attn_implementation_autoset", "_sliding_window_pattern",
        # of converters, trainers and other programs; transformers reads none of them
        "is_llama_config", "max_sequence_length", "transformers.js_config", "unsloth_fixed",
        "unsloth_version",
        # how texts are generated, and what answers contain
        "do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens", "repetition_penalty",
        "id2label", "label2id", "output_attentions", "output_hidden_states", "output_router_logits",
        "return_dict", "router_aux_loss_coef", "sep_token_id", "task_specific_params", "tokenizer_class",
    }
)  # fmt: skip
# Other members, with the values that change nothing.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "use_bidirectional_attention": (False, None),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([],),
}
# What transformers takes for a member that is absent, where the architectures differ.
ABSENT: Mapping[str, Json] = {
    "mistral": {"sliding_window": 4096, "num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
    },
    "smollm3": {"rope_theta": 2e6, "num_key_value_heads": 4},
    "phi3": {"rms_norm_eps": 1e-5},
    "gemma3_text": {"rope_theta": 1e6, "sliding_window": 4096, "num_key_value_heads": 4, "head_dim": 256},
}
RENAMED = {"num_local_experts": "num_experts"}  # by transformers 5
PATTERN = 6  # of gemma3: every so many layers attend to everything, where config.json does not say it
PAUSE = 4  # of smollm3: every so many layers do not rotate, where config.json does not say it


@dataclass(frozen=True, slots=True)
class Read:
    """`rope_factors`: by which the frequencies are divided, [dim / 2]; None: by nothing."""

    hyperparameters: Hyperparameters
    rope_factors: NDArray[np.float32] | None


def read(config: Json, unsupported: Unsupported) -> Read:
    """Read the shape of the model from its configuration. Raises UnsupportedModel."""
    return _Reading(config, unsupported).read()


class _Reading:
    def __init__(self, config: Json, unsupported: Unsupported) -> None:
        self._type = str(config.get("model_type"))
        written = {RENAMED.get(name, name): value for name, value in config.items()}
        self._config: Json = {**ABSENT.get(self._type, {}), **written}
        self._unsupported = unsupported

    def read(self) -> Read:
        if self._type not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            reason = BEYOND.get(self._type, "")
            raise self._unsupported(f"is of architecture {self._type[:100]!r}{reason}, not {known}")
        self._check()
        hidden, heads, layers = (
            self._integer(name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        )
        head_dim = self._integer("head_dim", hidden // heads)
        rope = self._rope()
        theta, factor, rotated = self._number("rope_theta", 10000.0, rope), 1.0, 1.0
        if self._type == "phi3":  # the others ignore it
            rotated = self._number("partial_rotary_factor", self._number("partial_rotary_factor", 1.0), rope)
        if _kind(rope) == "linear":
            factor = self._number("factor", None, rope)
        is_gemma, has_experts = self._type == "gemma3_text", self._type == "qwen3_moe"
        shape = Hyperparameters(
            architecture=ARCHITECTURES[self._type],
            num_layers=layers,
            hidden=hidden,
            feed_forward=self._integer("moe_intermediate_size" if has_experts else "intermediate_size"),
            num_heads=heads,
            num_kv_heads=self._integer("num_key_value_heads", heads),
            head_dim=head_dim,
            vocabulary=self._integer("vocab_size"),
            context_length=self._integer("max_position_embeddings"),
            rms_eps=self._number("rms_norm_eps", 1e-6),
            rope_base=theta,
            rotary_dim=int(head_dim * rotated),
            local_rope_base=self._local_base() if is_gemma else 0.0,
            rope_factor=factor,
            windows=self._windows(layers),
            unrotated=self._unrotated(layers),
            attention_scale=self._attention_scale(),
            embedding_scale=hidden**0.5 if is_gemma else self._number("embedding_multiplier", 1.0),
            residual_scale=self._number("residual_multiplier", 1.0),
            logit_scale=1 / self._number("logits_scaling", 1.0),
            activation="gelu" if is_gemma else "silu",
            num_experts=self._integer("num_experts") if has_experts else 0,
            num_chosen=self._integer("num_experts_per_tok") if has_experts else 0,
            is_choice_normalised=bool(self._config.get("norm_topk_prob")),
        )
        factors = self._llama3_factors(rope, shape) if _kind(rope) == "llama3" else None
        return Read(shape, factors)

    def _check(self) -> None:
        for name, value in self._config.items():
            is_known = name in READ or name in IDLE or value is None or value in NEUTRAL.get(name, ())
            if not is_known:
                raise self._unsupported(f"has {name[:100]!r} in its configuration")

    def _rope(self) -> Json:
        """The rotary embedding of layers without a sliding window, with the names of transformers 5, whatever
        version wrote config.json.
        """
        written = self._config.get("rope_parameters", self._config.get("rope_scaling")) or {}
        if not isinstance(written, dict):
            raise self._unsupported("stretches positions in a way that its configuration does not describe")
        whole = written.get("full_attention", written)
        theta = {name: self._config[name] for name in ("rope_theta",) if name in self._config}
        rope = {**theta, **(whole if isinstance(whole, dict) else {})}
        if _kind(rope) not in ("default", "linear", "llama3"):
            raise self._unsupported(f"stretches positions by {str(_kind(rope))[:100]!r}")
        return rope

    def _local_base(self) -> float:
        parameters = self._config.get("rope_parameters")
        local = parameters.get("sliding_attention") if isinstance(parameters, dict) else None
        base = self._number("rope_local_base_freq", 10000.0)
        return self._number("rope_theta", base, local) if isinstance(local, dict) else base

    def _windows(self, layers: int) -> tuple[int, ...]:
        window = self._config.get("sliding_window")
        if not isinstance(window, int) or window <= 0 or self._config.get("use_sliding_window") is False:
            return ()
        if self._type in ("qwen2", "qwen3", "qwen3_moe", "smollm3") and not self._config.get(
            "use_sliding_window"
        ):
            return ()
        kinds = self._config.get("layer_types")
        if isinstance(kinds, list) and len(kinds) == layers and self._type != "qwen3_moe":
            return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
        if self._type == "gemma3_text":
            period = self._integer("sliding_window_pattern", PATTERN)
            return tuple(window if (layer + 1) % period else 0 for layer in range(layers))
        if self._type in ("mistral", "phi3"):
            return (window,) * layers
        raise self._unsupported("has a 'sliding_window' but not the layers that have it")

    def _unrotated(self, layers: int) -> frozenset[int]:
        if self._type != "smollm3":
            return frozenset()
        rotates = self._config.get("no_rope_layers")  # 1: it does
        if not isinstance(rotates, list):
            period = self._integer("no_rope_layer_interval", PAUSE)
            return frozenset(range(period - 1, layers, period))
        if len(rotates) != layers:
            raise self._unsupported(f"has {len(rotates)} 'no_rope_layers' and {layers} layers")
        return frozenset(layer for layer, rotated in enumerate(rotates) if not rotated)

    def _attention_scale(self) -> float:
        if self._type == "granite":
            return self._number("attention_multiplier", 1.0)
        if self._type == "gemma3_text":
            return 1 / math.sqrt(self._number("query_pre_attn_scalar", 256.0))
        return 0.0

    def _integer(self, name: str, default: int | None = None) -> int:
        own = self._config.get(name)
        value = default if own is None else own
        if type(value) is not int or not 0 < value < 2**31:
            raise self._unsupported(f"has no usable {name!r} in its configuration")
        return value

    def _number(self, name: str, default: float | None, members: Json | None = None) -> float:
        """A finite number above 0, of the configuration or of `members`; `default`: where the member is
        absent. A null is none: transformers refuses it.
        """
        value = (self._config if members is None else members).get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._unsupported(f"has no usable {name!r} in its configuration")
        return float(value)

    def _llama3_factors(self, rope: Json, shape: Hyperparameters) -> NDArray[np.float32]:
        """The divisor of each frequency in Llama 3.1: `factor` for slow ones, 1 for fast ones, and a number
        between these for the others (Llama 3's reference code, apply_scaling).
        """
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, original = (self._number(name, None, rope) for name in names)
        if low >= high:
            raise self._unsupported(f"stretches positions by llama3 between the frequencies {low} and {high}")
        frequencies = shape.rope_base ** (-np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
        turns = original * frequencies / (2 * np.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _kind(rope: Json) -> object:
    return rope.get("rope_type", rope.get("type")) or "default"


class CheckpointDecoder:
    """The decoder in the files of a folder; `config`: its config.json. Raises ModelError, and
    UnsupportedModel if our graph would compute something else.
    """

    def __init__(self, folder: Path, files: Sequence[Path], config: Mapping[str, object]) -> None:
        self.path = folder
        decoder = read(config, self.unsupported)
        self.hyperparameters, self._factors = decoder.hyperparameters, decoder.rope_factors
        self._is_gemma = config.get("model_type") == "gemma3_text"
        names = GEMMA if self._is_gemma else PARTS
        self._tensors: dict[str, safetensors.Tensor] = {}
        for file in files:
            for name, tensor in safetensors.tensors(file).items():
                if not name.endswith(FREQUENCIES):
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
        kind = safetensors.usual_kind(self._tensors.values())
        assert kind is not None, "there is an embedding"
        return kind

    def unsupported(self, problem: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.path} {problem}, which the engine does not read")

    def _renamed(self, name: str, parts: Mapping[str, str]) -> str:
        """The name in ggml. Raises UnsupportedModel for a tensor that the graph has no use for."""
        if name in NAMES:
            return NAMES[name]
        match = LAYER.fullmatch(name)
        part, expert = (match[2], "") if match else ("", "")
        if of_expert := EXPERT.fullmatch(part):
            part, expert = f"mlp.{of_expert[2]}", f".{int(of_expert[1])}"
        if match is None or part not in parts:
            raise self.unsupported(f"has a tensor {name[:200]!r}")
        return f"blk.{int(match[1])}.{parts[part]}{expert}.{match[3]}"

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
        """Raise UnsupportedModel unless the configuration says which matrices have a bias."""
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
