"""The cache of models on disk: `models/<key>/` ready to load, `downloads/<key>/` as fetched, `partial/<key>/`
downloads that are to be continued, `staging/` otherwise incomplete.

Everything in `models/` and `downloads/` is complete: it is built in `staging/` under the model's lock and
moved at the end. When a process is killed, the operating system opens its lock, and the next process empties
its staging folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from headrace.errors import ModelError
from headrace.models.model import Model, Progress, Stamp, no_progress, read_manifest


class Cache:
    """Creates its folders on first use. Safe among processes on one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._models, self._downloads = self.root / "models", self.root / "downloads"
        self._staging, self._locks = self.root / "staging", self.root / "locks"
        self._partial = self.root / "partial"

    def models(self) -> list[Model]:
        """The models that are ready to load, sorted by name."""
        folders = self._models.iterdir() if self._models.is_dir() else ()
        models = (read_manifest(folder) for folder in folders)
        return sorted((model for model in models if model), key=lambda model: model.name)

    def find(self, name: str) -> Model | None:
        return next((model for model in self.models() if model.name == name), None)

    def remove(self, name: str) -> None:
        """Delete a model and its download, but not a local file that it was made from. Raises ModelError if
        there is none.
        """
        keys = {model.folder.name for model in self.models() if model.name == name}
        if self.downloads(name).is_dir():  # fetched, but never converted
            keys.add(name)
        if not keys:
            known = ", ".join(model.name for model in self.models()) or "nothing"
            raise ModelError(f"no model {name!r} in {self.root}; it holds {known}")
        for key in keys:
            with self.lock(key), self.stage(key) as staging:
                _move_away(self._models / key, staging)
                _move_away(self._downloads / key, staging)
                self.forget_partial(key)

    def load(self, key: str, stamp: Stamp | None = None) -> Model | None:
        """The model under `key` if it is ready and its source is still the one that `stamp` describes."""
        return read_manifest(self._models / key, stamp)

    def folder(self, key: str) -> Path:
        """The folder of the model under `key`, whether it exists or not."""
        return self._models / key

    def downloads(self, key: str) -> Path:
        return self._downloads / key

    def partial(self, key: str) -> Path:
        """The folder of downloads that are not complete. The holder of the model's lock works in it."""
        folder = self._partial / key
        self._make(folder)
        return folder

    def forget_partial(self, key: str) -> None:
        shutil.rmtree(self._partial / key, ignore_errors=True)

    def publish(self, built: Path, key: str) -> None:
        """Move a finished folder from staging into place. It replaces an older one."""
        self._models.mkdir(exist_ok=True)
        _move_away(self._models / key, built.parent)
        os.replace(built, self._models / key)

    def keep(self, fetched: Path, key: str) -> Path:
        """Move a complete and verified file from staging into the downloads."""
        target = self._downloads / key / fetched.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, target)
        return target

    @contextmanager
    def lock(self, key: str, progress: Progress = no_progress) -> Iterator[None]:
        """Hold the model's lock: one process at a time builds it. `progress` reports a wait for another."""
        self._make(self._locks)
        lock = FileLock(self._locks / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("waiting for another process", 0, 0)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def stage(self, key: str) -> Iterator[Path]:
        """An empty folder for the holder of the lock to work in; deleted afterwards."""
        room = self._staging / key
        shutil.rmtree(room, ignore_errors=True)  # left by a killed process
        self._make(room)
        # A child of the killed process may still write to its folder, so this one has another name.
        staging = Path(tempfile.mkdtemp(dir=room))
        try:
            yield staging
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ModelError(f"the model cache {self.root} cannot be written: {exc}") from exc


def _move_away(path: Path, staging: Path) -> None:
    if path.exists():
        os.replace(path, Path(tempfile.mkdtemp(dir=staging)) / path.name)
