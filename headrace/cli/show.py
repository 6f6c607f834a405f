"""`headrace show`: describes a model from its files, without loading it."""

from __future__ import annotations

from headrace.backend_types import Backend
from headrace.config import Config
from headrace.errors import ModelError
from headrace.local import known, sizes
from headrace.models.catalog import Cache, GGUFModel, Model
from headrace.models.references import ALIASES, FileSource, FolderSource, parse

SHOWN = 600  # characters of a chat template
MIB = 2**20


def show(name: str, config: Config) -> int:
    """Raises ModelError for a model that is not on this machine."""
    model = _found(name, config)
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
