"""Reads a folder of safetensors into a model of transformers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from headrace.engine.torch.devices import computes_bfloat16
from headrace.engine.torch.options import TorchOptions
from headrace.errors import ModelError

log = logging.getLogger(__name__)

Head = Literal["language", "score", "none"]  # what a model has above its last hidden states
PLAIN = ("F64", "F32", "F16", "BF16")  # numbers that are the weights themselves
LOADERS: dict[Head, Any] = {
    "language": AutoModelForCausalLM,
    "score": AutoModelForSequenceClassification,
    "none": AutoModel,
}
WRITING, SEEING = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def dtype_of(options: TorchOptions, device: torch.device, *, exact: bool) -> torch.dtype:
    """The type of weights, keys and values. Raises ModelError if two options contradict each other."""
    if exact and options.dtype not in ("auto", "float32"):
        raise ModelError(f"engine.precision = 'f32' and engine.dtype = {options.dtype!r} exclude each other")
    if exact:
        return torch.float32
    if options.dtype != "auto":
        dtype: torch.dtype = getattr(torch, options.dtype)
        return dtype
    return torch.bfloat16 if computes_bfloat16(device) else torch.float32


def read_model(
    folder: Path, dtype: torch.dtype, device: torch.device, *, trusts_code: bool, head: Head = "language"
) -> Any:
    """Load the model in `folder`: the files are mapped, and each tensor goes where it belongs, so that the
    peak is hardly more than the weights. Shows a progress bar in a terminal. Raises ModelError, also where
    transformers would take random numbers for a weight that is missing, or quantized ones as they are.
    """
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    arguments = {"trust_remote_code": trusts_code, "local_files_only": True}
    try:
        # Its `dtype` is the one below; what the folder says is misspelled in some.
        config = AutoConfig.from_pretrained(folder, dtype=dtype, **arguments)
        model, report = _loader(config, head).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **arguments,
        )
        _check_complete(folder, report, head)
        _check_quantization(folder, model)
        return model.to(device)
    except ModelError:
        raise
    except Exception as exc:  # whatever a library makes of a configuration that it does not expect
        log.debug("%s cannot be read", folder, exc_info=True)
        raise ModelError(f"{folder} cannot be read: {_reason(exc)}") from exc


def _loader(config: Any, head: Head) -> Any:
    """What loads the model. One that generates text beside images does so without any, too; of one with an
    encoder and a decoder, the folder may have the encoder alone.
    """
    kind = config.model_type
    if head == "none" and (config.architectures or [""])[0].endswith("EncoderModel"):
        return AutoModelForTextEncoding
    if head == "language" and kind in SEEING and kind not in WRITING:
        return AutoModelForImageTextToText
    return LOADERS[head]


def damage(folder: Path) -> str:
    """Why a model computes numbers that are infinite, or none: the first such tensor in its files, if any."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no mapping
                tensor = opened.get_tensor(name)
                if tensor.is_floating_point() and not tensor.float().isfinite().all():
                    return f"{name!r} in {file.name} has numbers that are infinite, or none"
    return "its weights are too large for these numbers (engine.dtype)"


def reads_types(folder: Path, config: Any, *, trusts_code: bool) -> bool:
    """Whether the model in `folder` has an input for the types of tokens: its tokenizer says so. Raises
    ModelError.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=trusts_code, local_files_only=True
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as exc:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {_reason(exc)}") from exc
    return "token_type_ids" in tokenizer.model_input_names


def _check_complete(folder: Path, report: dict[str, Any], head: Head) -> None:
    """Raise ModelError if the files lack a weight that is used, or have it in another shape. What pools
    BERT's states for a classifier is not used. Logs what the model does not use.
    """
    missing = [name for name in sorted(report["missing_keys"]) if head != "none" or "pooler." not in name]
    if missing:
        raise ModelError(f"{folder} is not complete: its files have no {missing[0]}")
    for name, actual, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{folder} has {name!r} of shape {list(actual)}; its config.json says {list(wanted)}"
        )
    others = sorted(report["unexpected_keys"])
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        log.warning("%s has what the model does not use: %s%s", folder, others[0], more)


def _check_quantization(folder: Path, model: Any) -> None:
    """Raise ModelError if the weights are quantized in a way that transformers has not undone."""
    if getattr(model, "hf_quantizer", None) is not None:
        return
    described = getattr(model.config, "quantization_config", None)
    if isinstance(described, dict):
        method = str(described.get("quant_method"))[:100]
        raise ModelError(f"{folder} is quantized by {method!r}, which transformers does not know")
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
            for name, part in parts.items():
                kind = part.get_dtype()
                if kind not in PLAIN and len(part.get_shape()) > 1 and name.endswith(".weight"):
                    reason = "its config.json does not say how it is quantized"
                    raise ModelError(f"{folder} has {name!r} as {kind}, and {reason}")


def _reason(exc: Exception) -> str:
    """The first lines of a library's error, joined; an error about remote code names our option instead."""
    text = " ".join(str(exc).split())
    if "trust_remote_code" in text:
        return (
            "transformers does not know its architecture, and its folder has code for it; "
            "--trust-remote-code runs that code, which can do whatever you can"
        )
    if text.startswith("Unrecognized configuration class"):
        return "transformers has no model of its architecture that generates text from text"
    if isinstance(exc, KeyError) and " " not in text:  # a name that is in none of its tables
        return f"transformers does not know {text[:200]}"
    return text[:300] or type(exc).__name__
