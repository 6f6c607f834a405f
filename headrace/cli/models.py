"""The commands that look after the model cache."""

from __future__ import annotations

from headrace.cli.progress import ProgressBar
from headrace.config import Config
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare

COLUMNS = ("NAME", "ARCHITECTURE", "QUANTIZATION", "CONTEXT", "SIZE", "SAMPLING")


def pull(reference: str, config: Config) -> int:
    model = fetch(reference, config)
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


def fetch(reference: str, config: Config) -> Model:
    """The model, fetched and converted first if need be, with a progress bar."""
    bar = ProgressBar()
    try:
        return prepare(reference, Cache(config.paths.cache), bar)
    finally:
        bar.close()


def _row(model: Model, config: Config) -> tuple[str, ...]:
    sampling = model.sampling if config.engine.generation_config == "model" else {}
    shown = ", ".join(f"{name} {value}" for name, value in sampling.items()) or "-"
    size = f"{model.size_bytes / 1e6:.0f} MB"
    return (model.name, model.architecture, model.quantization or "-", str(model.context_length), size, shown)
