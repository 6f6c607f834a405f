"""Local models, before they are loaded: how they get here, and what is known of them: a description, and an
estimate of the memory that they need. How much memory there is for models: that of the machine, or of the
container that this process runs in.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from headrace.backend_types import Backend
from headrace.backends.model_card import card_of
from headrace.config import Config, install_command
from headrace.config.memory import FREE_MEMORY_SHARE
from headrace.encoder_types import Embedding
from headrace.errors import ModelError, UnsupportedModel
from headrace.features import Feature
from headrace.models.catalog import Cache, locate, prepare
from headrace.models.checkpoint import is_checkpoint
from headrace.models.model import CONFIG, GRAPH, WEIGHTS, GGUFModel, Model, Progress, Runtime
from headrace.models.references import FolderSource, parse
from headrace.pool import Known
from headrace.types import TEXT_ONLY, ModelInfo

SHARE = 0.7  # of it, for models, where the configuration has no budget
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2, and of version 1
OWNER = "headrace"
MIB = 2**20
# Our engine, beside the weights and the KV cache. Measured: docs/models.md.
WEIGHT_FACTOR, ENGINE_BYTES = 2.0, 96 * MIB
CHECKPOINT_FACTOR, TORCH_BYTES = 1.2, 700 * MIB  # PyTorch itself takes as much; not measured
LLAMACPP_BYTES = 160 * MIB  # a process of its own, beside the file and the cache
BYTES_PER_NUMBER = {"auto": 2, "bf16": 2, "u8": 1.125}

log = logging.getLogger(__name__)

RUNTIMES: dict[str, Runtime] = {"engine": "openvino", "torch": "torch"}  # by name in models.backends
TORCH_PACKAGES = ("torch", "transformers")
NVIDIA = Path("/proc/driver/nvidia")  # there is one where the kernel drives such a GPU

Build = Callable[[Model | GGUFModel, int], Backend]


def fetched(reference: str, config: Config, progress: Progress) -> Model | GGUFModel:
    """Fetch and convert a model unless it is cached. Returns a GGUFModel where llama.cpp serves it: by
    configuration, or because our engine does not read it. Raises ModelError.
    """
    backends = dict(entry.rsplit("=", 1) for entry in config.models.backends)
    chosen = backends.get(parse(reference).name)
    cache = Cache(config.paths.cache)
    try:
        if chosen != "llamacpp":
            runtime = RUNTIMES.get(chosen or "")
            converted = None if runtime else _converted(reference, cache, progress)
            return converted or _with_runtime(prepare(reference, cache, progress, runtime=runtime))
    except UnsupportedModel as exc:
        if chosen == "engine":
            raise
        _check_installed(f"{exc.message}; llama.cpp may, but it is not installed")
        log.info("%s: llama.cpp serves it", exc.message)
    _check_installed(f"{reference} is for llama.cpp, which is not installed")
    return locate(reference, cache, progress)


def _converted(reference: str, cache: Cache, progress: Progress) -> Model | None:
    """A folder of safetensors as a graph for OpenVINO, which is faster on a CPU. None: it is no such folder,
    our graph does not compute it, or there is a GPU. Raises ModelError.
    """
    source = parse(reference).source
    if not isinstance(source, FolderSource) or not is_checkpoint(source.path) or NVIDIA.exists():
        return None
    try:
        return prepare(reference, cache, progress, runtime="openvino")
    except UnsupportedModel as exc:
        log.info("%s: PyTorch runs it", exc.message)
        return None


def _with_runtime(model: Model) -> Model:
    """Return the model if what runs it is installed. Raises ModelError."""
    if model.is_checkpoint and not all(map(find_spec, TORCH_PACKAGES)):
        raise ModelError(
            f"{model.reference} is a folder of safetensors, which needs PyTorch: {install_command('torch')}"
        )
    return model


def generates(model: Model | GGUFModel) -> bool:
    """Whether a model generates text. Others embed texts only."""
    return isinstance(model, GGUFModel) or model.embedding is None


def reference_of(model: Model | GGUFModel) -> str:
    return model.reference if isinstance(model, Model) else str(model.gguf)


def _check_installed(problem: str) -> None:
    from headrace.backends.llamacpp import is_installed

    if not is_installed():
        raise ModelError(f"{problem}: {install_command('llamacpp')}")


@dataclass(frozen=True, slots=True)
class Sizes:
    """`budget_bytes`: the memory for all models; `kv_cache_bytes`: for one model's KV cache, at most."""

    budget_bytes: int
    kv_cache_bytes: int


def sizes(config: Config, num_models: int) -> Sizes:
    """The memory for models. Without `engine.kv_cache_bytes`, a quarter of the free memory, and of the budget
    at most, is for the KV caches of the models that are served from the start.
    """
    budget = memory_budget(int(config.engine.memory_budget))
    free = min(psutil.virtual_memory().available, budget)
    share = int(free * FREE_MEMORY_SHARE / max(1, num_models))
    return Sizes(budget, int(config.engine.kv_cache_bytes) or share)


def known(model: Model | GGUFModel, config: Config, kv_cache_bytes: int, build: Build) -> Known:
    """`build`: makes a backend for the model, with a KV cache of so many bytes, and does not start it."""
    make = partial(build, model, kv_cache_bytes)
    if isinstance(model, GGUFModel):
        return _of_llamacpp(model, config, kv_cache_bytes, make)
    if model.embedding is not None:
        return _of_encoder(model, model.embedding.limited(config.engine.max_model_len), make)
    from headrace.features import OWN_ENGINE

    longest = min(config.engine.max_model_len or model.context_length, model.context_length)
    cache = min(kv_cache_bytes, int(_token_bytes(model, config) * longest * config.engine.max_num_seqs))
    memory = cache + _loaded_bytes(model)
    sampling = model.sampling if config.engine.generation_config == "model" else {}
    info = ModelInfo(model.name, OWNER, model.created, longest, None, dict(sampling), modalities=TEXT_ONLY)
    return Known(model, info, card_of(model, OWN_ENGINE), OWN_ENGINE, memory, make)


def _of_encoder(model: Model, embedding: Embedding, make: Callable[[], Backend]) -> Known:
    from headrace.backends.embedder import CrossEncoderBackend, EmbedderBackend

    kind = EmbedderBackend if embedding.score is None else CrossEncoderBackend
    info = ModelInfo(
        model.name, OWNER, model.created, embedding.max_tokens, None, kind=kind.kind, modalities=TEXT_ONLY
    )
    return Known(model, info, card_of(model, kind.features), kind.features, _loaded_bytes(model), make)


def _of_llamacpp(model: GGUFModel, config: Config, kv_cache_bytes: int, make: Callable[[], Backend]) -> Known:
    from headrace.backends.llamacpp import LlamaCppBackend, slots

    features: frozenset[Feature] = LlamaCppBackend.features
    num_slots, length = slots(
        model,
        max_model_len=config.engine.max_model_len,
        kv_cache_bytes=kv_cache_bytes,
        max_num_seqs=config.engine.max_num_seqs,
    )
    status = model.gguf.stat()
    memory = status.st_size + LLAMACPP_BYTES + num_slots * length * model.header.cache_bytes
    info = ModelInfo(model.name, OWNER, int(status.st_mtime), length, None, modalities=TEXT_ONLY)
    return Known(model, info, card_of(model, features), features, memory, make)


def _loaded_bytes(model: Model) -> int:
    """A loaded model without its KV cache."""
    if model.is_checkpoint:
        return int(model.size_bytes * CHECKPOINT_FACTOR) + TORCH_BYTES
    return int(_weights_bytes(model) * WEIGHT_FACTOR) + ENGINE_BYTES


def _weights_bytes(model: Model) -> int:
    files = [model.folder / name for name in (WEIGHTS, GRAPH)]
    return sum(file.stat().st_size for file in files if file.exists()) or model.size_bytes


def _token_bytes(model: Model, config: Config) -> float:
    """The keys and values of one token; without a readable config.json, an infinite number, so that the
    cache's own limit counts.
    """
    shape = _read(model.folder / CONFIG)
    try:
        heads = shape["num_attention_heads"]
        size = shape.get("head_dim") or shape["hidden_size"] // heads
        numbers = 2 * shape["num_hidden_layers"] * (shape.get("num_key_value_heads") or heads) * size
    except (KeyError, TypeError, ZeroDivisionError):
        return 2.0**62
    engine = config.engine
    return float(numbers * (4 if engine.precision == "f32" else BYTES_PER_NUMBER[engine.kv_cache_dtype]))


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def total_bytes() -> int:
    """The machine's memory, or the limit of this process's control group if that is less."""
    machine = psutil.virtual_memory().total
    return min((machine, *(limit for name in LIMITS if (limit := _limit(CGROUP / name)) is not None)))


def memory_budget(configured: int) -> int:
    """The memory for models, in bytes. `configured`: engine.memory_budget; 0: a share of all memory."""
    return configured or int(total_bytes() * SHARE)


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None
