"""The commands of the model cache: pull, list, rm."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from headrace.cli.progress import ProgressBar
from headrace.config import Config, install_command
from headrace.errors import ModelError, UnsupportedModel
from headrace.models.catalog import DEFAULT_MODEL, Cache, GGUFModel, Model, locate, prepare
from headrace.models.model import Runtime
from headrace.models.references import parse

log = logging.getLogger(__name__)

RUNTIMES: dict[str, Runtime] = {"engine": "openvino", "torch": "torch"}  # by name in models.backends
TORCH_PACKAGES = ("torch", "transformers")
COLUMNS = ("NAME", "ARCHITECTURE", "QUANTIZATION", "CONTEXT", "SIZE", "SAMPLING")


def pull(reference: str, config: Config) -> int:
    model = fetch(reference, config)
    if isinstance(model, GGUFModel):
        print(f"{model.name} is ready in {model.gguf}, for llama.cpp")
    else:
        print(f"{model.name} is ready in {model.folder}")
    return 0


def list_models(config: Config) -> int:
    models = Cache(config.paths.cache).models()
    if not models:
        print(f"no models yet; try: headrace pull {DEFAULT_MODEL}")
        return 0
    rows = [COLUMNS, *(_row(model, config) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def remove(name: str, config: Config) -> int:
    Cache(config.paths.cache).remove(name)
    print(f"{name} is removed")
    return 0


def fetch(reference: str, config: Config) -> Model | GGUFModel:
    """Fetch and convert a model unless it is cached, with a progress bar. Returns a GGUFModel where llama.cpp
    serves it: by configuration, or because our engine does not read it. Raises ModelError.
    """
    backends = dict(entry.rsplit("=", 1) for entry in config.models.backends)
    chosen = backends.get(parse(reference).name)
    cache, bar = Cache(config.paths.cache), ProgressBar()
    try:
        if chosen != "llamacpp":
            return _with_runtime(prepare(reference, cache, bar, runtime=RUNTIMES.get(chosen or "")))
    except UnsupportedModel as exc:
        if chosen == "engine":
            raise
        _check_installed(f"{exc.message}; llama.cpp may, but it is not installed")
        log.info("%s: llama.cpp serves it", exc.message)
    finally:
        bar.close()
    _check_installed(f"{reference} is for llama.cpp, which is not installed")
    return locate(reference, cache, bar)


def _with_runtime(model: Model) -> Model:
    """Return the model if what runs it is installed. Raises ModelError."""
    if model.is_checkpoint and not all(map(find_spec, TORCH_PACKAGES)):
        raise ModelError(
            f"{model.reference} is a folder of safetensors, which needs PyTorch: {install_command('torch')}"
        )
    return model


def _check_installed(problem: str) -> None:
    from headrace.backends.llamacpp import is_installed

    if not is_installed():
        raise ModelError(f"{problem}: {install_command('llamacpp')}")


def _row(model: Model, config: Config) -> tuple[str, ...]:
    sampling = model.sampling if config.engine.generation_config == "model" else {}
    shown = ", ".join(f"{name} {value}" for name, value in sampling.items()) or "-"
    size = f"{model.size_bytes / 1e6:.0f} MB"
    return (model.name, model.architecture, model.quantization or "-", str(model.context_length), size, shown)
