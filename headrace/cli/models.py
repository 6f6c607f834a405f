"""The commands of the model cache: pull, list, rm."""

from __future__ import annotations

from collections.abc import Collection

from headrace.cli.progress import ProgressBar
from headrace.cli.table import print_table
from headrace.config import Config
from headrace.local import fetched
from headrace.models.catalog import DEFAULT_MODEL, Cache, GGUFModel, Model
from headrace.models.references import ALIASES, HubSource, PyPISource, WheelsSource

AVAILABLE = ("NAME", "DOWNLOAD", "LICENCE", "HERE", "SOURCE")
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
    print_table([COLUMNS, *(_row(model, config) for model in models)])
    return 0


def list_available(config: Config) -> int:
    """List the built-in aliases. Those that have not been tested are marked."""
    here = {model.name for model in Cache(config.paths.cache).models()}
    rows = [AVAILABLE, *(_available(name, here) for name in ALIASES)]
    print_table(rows)
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


def remove(name: str, config: Config) -> int:
    Cache(config.paths.cache).remove(name)
    print(f"{name} is removed")
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
