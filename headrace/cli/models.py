"""The commands of the model cache: pull, list, rm; and `headrace show`, which describes a model from its
files, without loading it.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection

from headrace.backend_types import Backend
from headrace.cli.terminal import ProgressBar, print_table
from headrace.config import Config, Loaded
from headrace.errors import ModelError
from headrace.local import fetched, known, sizes
from headrace.models.catalog import DEFAULT_MODEL, Cache, GGUFModel, Model
from headrace.models.references import (
    ALIASES,
    FileSource,
    FolderSource,
    HubSource,
    PyPISource,
    WheelsSource,
    parse,
)

AVAILABLE = ("NAME", "DOWNLOAD", "LICENCE", "HERE", "SOURCE")
COLUMNS = ("NAME", "ARCHITECTURE", "QUANTIZATION", "CONTEXT", "SIZE", "SAMPLING")

SHOWN = 600  # characters of a chat template
MIB = 2**20


def pull(arguments: argparse.Namespace, loaded: Loaded) -> int:
    model = fetch(arguments.reference, loaded.config)
    if isinstance(model, GGUFModel):
        print(f"{model.name} is ready in {model.gguf}, for llama.cpp")
    else:
        print(f"{model.name} is ready in {model.folder}")
    return 0


def list_models(arguments: argparse.Namespace, loaded: Loaded) -> int:
    models = Cache(loaded.config.paths.cache).models()
    if arguments.available:
        return _list_available({model.name for model in models})
    if not models:
        print(f"no models yet; try: headrace pull {DEFAULT_MODEL}")
        return 0
    print_table([COLUMNS, *(_row(model, loaded.config) for model in models)])
    return 0


def _list_available(here: Collection[str]) -> int:
    """List the built-in aliases. Those that have not been tested are marked."""
    print_table([AVAILABLE, *(_available(name, here) for name in ALIASES)])
    print(
        "\n* not tested: the machines that Headrace is developed on cannot reach the Hugging Face hub."
        "\nOur engine is written for all of these architectures; llama.cpp runs them, too (docs/models.md)."
    )
    return 0


def _available(name: str, here: Collection[str]) -> tuple[str, ...]:
    alias = ALIASES[name]
    size = "?" if alias.download_bytes is None else f"{alias.download_bytes / 1e6:.0f} MB"
    source = alias.source
    where = "?"
    if isinstance(source, PyPISource):
        where = f"pypi:{source.package}"
    elif isinstance(source, HubSource):
        where = f"hf:{source.repo}"
    elif isinstance(source, WheelsSource):
        where = ", ".join(f"pypi:{part.package}" for _, part in source.files)
    mark = "" if alias.is_tested else " *"
    return (name + mark, size, alias.license or "?", "yes" if name in here else "-", where)


def remove(arguments: argparse.Namespace, loaded: Loaded) -> int:
    Cache(loaded.config.paths.cache).remove(arguments.name)
    print(f"{arguments.name} is removed")
    return 0


def fetch(reference: str, config: Config) -> Model | GGUFModel:
    """Fetch and convert a model unless it is cached, with a progress bar. Raises ModelError."""
    bar = ProgressBar()
    try:
        return fetched(reference, config, bar)
    finally:
        bar.close()


def _row(model: Model, config: Config) -> tuple[str, ...]:
    sampling = model.sampling if config.engine.generation_config == "model" else {}
    shown = ", ".join(f"{name} {value}" for name, value in sampling.items()) or "-"
    size = f"{model.size_bytes / 1e6:.0f} MB"
    return (model.name, model.architecture, model.quantization or "-", str(model.context_length), size, shown)


def show(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Describe a model from its files. Raises ModelError if it is not on this machine."""
    config = loaded.config
    model = _found(arguments.model, config)
    described = known(model, config, sizes(config, 1).kv_cache_bytes, _never)
    card, info = described.card, described.info
    alias = ALIASES.get(model.name)
    rows = {
        "name": info.id,
        "reference": model.reference if isinstance(model, Model) else str(model.gguf),
        "architecture": card.architecture or "?",
        "quantization": card.quantization or "?",
        "context": f"{info.max_model_len} tokens",
        "capabilities": ", ".join(sorted(card.capabilities)),
        "licence": (alias.license if alias is not None else None) or "not known: see its source",
        "files": f"{(card.size_bytes or 0) / MIB:.0f} MiB",
        "memory": f"about {described.memory_bytes / MIB:.0f} MiB, KV cache included",
        "sampling": ", ".join(f"{key} {value}" for key, value in info.sampling.items()) or "-",
    }
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key.ljust(width)}  {value}")
    template = card.template or "none: the model continues texts, and cannot chat"
    print(f"\nchat template\n{template if len(template) <= SHOWN else template[:SHOWN] + '…'}")
    return 0


def _found(name: str, config: Config) -> Model | GGUFModel:
    """A model of the cache by its name, else a path. Nothing is fetched."""
    from headrace.models import gguf, published

    model = Cache(config.paths.cache).find(name)
    if model is not None:
        return model
    reference = parse(name)
    if isinstance(reference.source, FolderSource):
        return published.describe_ir(reference.source.path, name=reference.name, reference=reference.text)
    if isinstance(reference.source, FileSource):
        return GGUFModel(reference.name, reference.source.path, gguf.header(reference.source.path))
    raise ModelError(f"{name} is not on this machine yet; headrace pull {name} fetches it")


def _never(model: Model | GGUFModel, _: int) -> Backend:
    raise AssertionError(f"{model.name} is only described")
