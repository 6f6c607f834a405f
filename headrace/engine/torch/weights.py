"""Reads a folder of safetensors into a model of transformers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from headrace.engine.torch.devices import computes_bfloat16
from headrace.engine.torch.options import TorchOptions
from headrace.errors import ModelError

log = logging.getLogger(__name__)

Head = Literal["language", "score", "none"]  # what a model has above its last hidden states
LOADERS: dict[Head, Any] = {
    "language": AutoModelForCausalLM,
    "score": AutoModelForSequenceClassification,
    "none": AutoModel,
}


def dtype_of(options: TorchOptions, device: torch.device, *, exact: bool) -> torch.dtype:
    """The type of weights, keys and values. Raises ModelError if two options contradict each other."""
    if exact and options.dtype not in ("auto", "float32"):
        raise ModelError(f"engine.precision = 'f32' and engine.dtype = {options.dtype!r} exclude each other")
    if exact:
        return torch.float32
    if options.dtype != "auto":
        found: torch.dtype = getattr(torch, options.dtype)
        return found
    return torch.bfloat16 if computes_bfloat16(device) else torch.float32


def read_model(
    folder: Path, dtype: torch.dtype, device: torch.device, *, trusts_code: bool, head: Head = "language"
) -> Any:
    """Load the model in `folder`: the files are mapped, and each tensor goes where it belongs, so that the
    peak is hardly more than the weights. Shows a progress bar in a terminal. Raises ModelError, also where a
    weight is missing, for which transformers would take random numbers.
    """
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    arguments = {"trust_remote_code": trusts_code, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **arguments)
        model, report = LOADERS[head].from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **arguments
        )
        _check_complete(folder, report, head)
        return model.to(device)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as exc:
        log.debug("%s cannot be read", folder, exc_info=True)
        raise ModelError(f"{folder} cannot be read: {_reason(exc)}") from exc


def reads_types(folder: Path, *, trusts_code: bool) -> bool:
    """Whether the model in `folder` has an input for the types of tokens: its tokenizer says so. Raises
    ModelError.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trusts_code, local_files_only=True
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as exc:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {_reason(exc)}") from exc
    return "token_type_ids" in tokenizer.model_input_names


def _check_complete(folder: Path, report: dict[str, Any], head: Head) -> None:
    """Raises ModelError if the files lack a weight that is used. What pools BERT's states for a classifier
    is not.
    """
    missing = [name for name in sorted(report["missing_keys"]) if head != "none" or "pooler." not in name]
    if missing:
        raise ModelError(f"{folder} is not complete: its files have no {missing[0]}")


def _reason(exc: Exception) -> str:
    """The first lines of a library's error, joined; an error about remote code names our option instead."""
    text = " ".join(str(exc).split())
    if "trust_remote_code" in text:
        return (
            "transformers does not know its architecture, and its folder has code for it; "
            "--trust-remote-code runs that code, which can do whatever you can"
        )
    return text[:300] or type(exc).__name__
