"""Builds the backends that the configuration names: local models, processes of our engine, and providers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from pydantic import ByteSize

from headrace import local
from headrace.backend_types import Backend
from headrace.config import Config
from headrace.config.kinds import load_kind
from headrace.encoder_types import Embedding
from headrace.errors import ConfigError
from headrace.models.catalog import Cache, prepare
from headrace.models.model import GGUFModel, Model, Progress
from headrace.models.references import ALIASES, DEFAULT_EMBEDDER
from headrace.pool import Known, Pool

if TYPE_CHECKING:
    from headrace.engine.torch.options import TorchOptions


def build_backends(config: Config, models: Sequence[Model | GGUFModel]) -> list[Backend]:
    """Build the backends, local models first, without starting them. Raises ConfigError, ModelError."""
    formats = dict(entry.rsplit("=", 1) for entry in config.models.tool_formats)
    local = [_local(model, formats, config) for model in models]
    return [*local, *_later(models, config), *build_providers(config)]


def build_served(config: Config, models: Sequence[Model | GGUFModel]) -> list[Backend]:
    """Build the backends of a server that loads and unloads models while it runs. Those in the cache that
    generate text are served, too. Raises ConfigError, ModelError.
    """
    here = [model for model in models if not config.engine.processes or not local.generates(model)]
    elsewhere = [model for model in models if model not in here]
    pool = [build_pool(config, here)] if here and not elsewhere else []
    apart = [_local(model, {}, config) for model in here] if elsewhere else []
    return [*_processes(config, elsewhere), *pool, *apart, *_later(models, config), *build_providers(config)]


def _processes(config: Config, models: Sequence[Model | GGUFModel]) -> list[Backend]:
    """The backend of these models in processes of their own; none without models."""
    if not models:
        return []
    from headrace.processes import engine_processes

    return [engine_processes(config, models)]


def build_pool(config: Config, models: Sequence[Model | GGUFModel]) -> Pool:
    """Build the pool of local models. `models`: those that are served from the start; models in the cache are
    added. Raises ConfigError.
    """
    named = [model.name for model in models]
    cached = Cache(config.paths.cache).models() if config.models.cached else []
    more = [model for model in cached if model.name not in named and local.generates(model)]
    size = local.sizes(config, sum(map(local.generates, models)))
    known = [
        (local.reference_of(model), described(model, config, size.kv_cache_bytes))
        for model in (*models, *more)
    ]
    pairs = (entry.rpartition("=") for entry in config.models.idle_seconds)
    idle_s = {name: float(text) or inf for name, _, text in pairs}
    pool = Pool(
        known,
        budget_bytes=size.budget_bytes,
        preload=() if config.models.preload == ("none",) else config.models.preload or named,
        pinned=frozenset(config.models.pin),
        idle_s=idle_s,
        default_idle_s=idle_s.get("", inf),
    )
    _check_names(config, pool)
    return pool


def _check_names(config: Config, pool: Pool) -> None:
    """Raise ConfigError if an option names a model that is not served."""
    models, here = config.models, ", ".join(pool.entries) or "none"
    idle = [entry.rpartition("=")[0] for entry in models.idle_seconds]
    preload = () if models.preload == ("none",) else models.preload
    for option, names in (("preload", preload), ("pin", models.pin), ("idle_seconds", filter(None, idle))):
        for name in names:
            if name not in pool.entries:
                raise ConfigError(f"models.{option}: there is no model {name!r} here; there are {here}")


def described(model: Model | GGUFModel, config: Config, kv_cache_bytes: int) -> Known:
    def build(model: Model | GGUFModel, kv_cache_bytes: int) -> Backend:
        formats = dict(entry.rsplit("=", 1) for entry in config.models.tool_formats)
        engine = config.engine.model_copy(update={"kv_cache_bytes": ByteSize(kv_cache_bytes)})
        return _local(model, formats, config.model_copy(update={"engine": engine}))

    return local.known(model, config, kv_cache_bytes, build)


def build_providers(config: Config) -> list[Backend]:
    """Build the backends of the configured providers. Fetches GGUF files of llama.cpp. Raises ConfigError,
    ModelError.
    """
    return [build_provider(name, config) for name in config.providers]


def build_provider(name: str, config: Config) -> Backend:
    """Build the backend of the provider of this name."""
    provider = config.providers[name]
    if provider.kind == "fake":
        from headrace.backends.fake import FakeBackend

        return FakeBackend(
            ["Hello", " world"], name=name, id=provider.models[0] if provider.models else "fake"
        )
    if provider.kind == "llamacpp":
        from headrace.models.catalog import locate

        assert provider.path is not None, "the configuration was checked"
        model = locate(provider.path, Cache(config.paths.cache))
        return _llama_cpp(name, model, config, timeout_s=provider.timeout_s)
    make = load_kind(provider.kind)
    if provider.python is not None:
        from headrace.backends.replicas import started

        return started(name, provider, make)
    if provider.replicas:
        from headrace.backends.replicas import replicated

        return replicated(name, provider, make)
    backend: Backend = make(name, provider, provider.api_key)
    return backend


def _local(model: Model | GGUFModel, tool_formats: Mapping[str, str], config: Config) -> Backend:
    if not isinstance(model, GGUFModel) and model.embedding is not None:
        return _embedder(model.name, model.embedding, lambda progress: model, config, is_eager=True)
    if isinstance(model, GGUFModel):
        if model.name in tool_formats:
            raise ConfigError(
                f"models.tool_formats: {model.name} is served by llama.cpp, which detects the format itself"
            )
        return _llama_cpp("headrace", model, config, timeout_s=config.server.request_timeout_s or 86_400)
    from headrace.backends.engine import EngineBackend, EngineSettings

    engine = config.engine
    if engine.device.startswith("cuda") and not model.is_checkpoint:
        raise ConfigError(f"engine.device = {engine.device!r}: OpenVINO runs {model.name}, on the CPU")
    settings = EngineSettings(
        max_model_len=engine.max_model_len,
        kv_cache_bytes=int(engine.kv_cache_bytes),
        kv_cache_dtype=engine.kv_cache_dtype,
        max_num_seqs=engine.max_num_seqs,
        max_queue=engine.max_queue,
        max_batch_tokens=engine.max_batch_tokens,
        num_threads=engine.num_threads,
        exact=engine.precision == "f32",
        torch=torch_options(config),
        use_generation_config=engine.generation_config == "model",
        max_tokens_default=config.server.max_tokens_default,
        loop_tokens=engine.loop_tokens,
        deterministic=engine.deterministic,
        speculates=engine.speculation == "auto",
        max_tokenize_bytes=int(engine.max_tokenize_bytes),
        disk_cache=config.paths.cache / "prefixes",
        norms=config.paths.cache / "norms",
        disk_cache_bytes=int(engine.disk_cache_bytes),
        share_prefix_cache=engine.share_prefix_cache,
        steering_root=config.steering.folder(config.paths.data),
        steering_attach=config.steering.attach,
        max_dose=config.steering.max_dose or inf,
        stall_s=engine.stall_seconds,
    )
    return EngineBackend(model, settings, tool_formats.get(model.name))


def torch_options(config: Config) -> TorchOptions:
    """What the configuration says to models that PyTorch runs."""
    from headrace.engine.torch.options import TorchOptions

    engine = config.engine
    return TorchOptions(engine.device, engine.dtype, config.models.trust_remote_code)


def _later(models: Sequence[Model | GGUFModel], config: Config) -> list[Backend]:
    """The embedding model that is fetched at its first use, unless the configuration has another or none."""
    alias = ALIASES[DEFAULT_EMBEDDER]
    if config.models.embedding != "auto" or any(model.name == alias.name for model in models):
        return []
    assert alias.embedding is not None
    fetch = partial(prepare, alias.text, Cache(config.paths.cache))
    return [_embedder(alias.name, alias.embedding, fetch, config)]


def _embedder(
    name: str,
    embedding: Embedding,
    fetch: Callable[[Progress], Model],
    config: Config,
    *,
    is_eager: bool = False,
) -> Backend:
    from headrace.backends.embedder import CrossEncoderBackend, EmbedderBackend, EmbedderSettings

    engine = config.engine
    settings = EmbedderSettings(
        max_requests=engine.max_num_seqs + engine.max_queue,
        num_threads=engine.num_threads,
        exact=engine.precision == "f32",
        deterministic=engine.deterministic,
        torch=torch_options(config),
    )
    backend = EmbedderBackend if embedding.score is None else CrossEncoderBackend
    return backend(name, embedding.limited(engine.max_model_len), fetch, settings, is_eager=is_eager)


def _llama_cpp(name: str, model: GGUFModel, config: Config, *, timeout_s: float) -> Backend:
    from headrace.backends.llamacpp import LlamaCppBackend, slots

    engine = config.engine
    num_slots, length = slots(
        model,
        max_model_len=engine.max_model_len,
        kv_cache_bytes=int(engine.kv_cache_bytes),
        max_num_seqs=engine.max_num_seqs,
    )
    return LlamaCppBackend(
        name,
        model.gguf,
        model=model.name,
        context_length=length,
        num_slots=num_slots,
        max_queue=engine.max_queue,
        num_threads=engine.num_threads,
        timeout_s=timeout_s,
        longest_token=model.header.longest_token,
        own_template=model.header.chat_template or "",
        max_tokens_default=config.server.max_tokens_default,
        max_tokenize_bytes=int(engine.max_tokenize_bytes),
        # llama.cpp cannot tell callers apart: with several keys it keeps no prompt for the next request.
        reuses_prompts=engine.share_prefix_cache
        or (len(config.server.api_keys) <= 1 and not config.server.takes_stored_keys),
    )
