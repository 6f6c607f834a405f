"""Makes layers of a running engine editable: compiles beside it, and exchanges the graph between steps. The
median norms of the hidden states are kept in a file: measuring them takes seconds at each start.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.backends.engine.thread import EngineThread
from headrace.engine.engine import Engine
from headrace.engine.probing import NO_READING, Source
from headrace.engine.sequence import BATCH, SamplingParams
from headrace.engine.sequence import Sequence as EngineSequence
from headrace.errors import EngineFailed, ModelError, SteeringRefused
from headrace.small_files import write_whole
from headrace.steering.slot import SiteNeeds
from headrace.steering.types import Probe, Reading
from headrace.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CALIBRATION_TOKENS = 1024
POLL_S = 0.2  # between two looks at whether the engine is alive
MAX_BYTES = 2**20  # of a file: a model has a few hundred layers at most
CHARACTERS = 8000
SHORTEST = 1000  # of a page, in characters: shorter ones are tables and headings


class NormFile:
    """One file for each model, configuration and text that is measured: `key` stands for all three. A file
    that is damaged or foreign counts as missing, and is replaced.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._path, self._key = folder / f"{key.hex()}.json", key

    def read(self) -> dict[int, float]:
        """The norms that are known, by layer."""
        try:
            with self._path.open("rb") as file:
                checksum, _, text = file.read(MAX_BYTES).partition(b"\n")
            if checksum.decode() != self._checksum(text):
                return {}
            norms = {int(layer): float(norm) for layer, norm in json.loads(text).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            log.debug("%s is not used: %s", self._path, exc)
            return {}
        return norms if all(math.isfinite(norm) and norm > 0 for norm in norms.values()) else {}

    def add(self, norms: Mapping[int, float]) -> None:
        """Keep these, too. A folder that cannot be written to is logged: they are measured again next time.

        Of two processes that add at the same time the last one wins; the other's are measured again.
        """
        known = {**self.read(), **norms}
        text = json.dumps({str(layer): norm for layer, norm in sorted(known.items())}).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, self._checksum(text).encode(), b"\n", text)
        except OSError as exc:
            log.info("the norms of hidden states are not kept: %s", exc)

    def _checksum(self, text: bytes) -> str:
        return blake2b(text, digest_size=16, key=self._key).hexdigest()


class NormProber:
    """Measures the norms of the hidden states of one text; `done` is set after the last."""

    probe = Probe("", require_all=True)

    def __init__(self, layer: int, num_tokens: int) -> None:
        self.layer, self._num_tokens = layer, num_tokens
        self.source = Source(("norms", layer), layer, _norms)
        self.norms: list[float] = []
        self.done = threading.Event()

    def read(self, numbers: NDArray[np.float32], start: int) -> list[Reading]:
        self.norms += numbers[:, 0].tolist()
        if len(self.norms) >= self._num_tokens:
            self.done.set()
        return [NO_READING] * len(numbers)


def _norms(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """[tokens, 1]"""
    norms: NDArray[np.float32] = np.linalg.norm(states, axis=1, keepdims=True)
    return norms


class EngineEditor:
    """See steering.library.Editor. `calibration`: returns the tokens of an ordinary text; `norms`: the folder
    that keeps what was measured on it, None: none.
    """

    def __init__(
        self,
        engine: Engine,
        thread: Callable[[], EngineThread],
        calibration: Callable[[], list[int]],
        norms: Path | None = None,
    ) -> None:
        self._engine, self._thread, self._calibration = engine, thread, calibration
        self._norms = norms

    def set_sites(self, sites: Mapping[int, SiteNeeds]) -> bool:
        """Raises EngineFailed if the engine stops, SteeringRefused if the model cannot be edited."""
        runner = self._engine.runner
        try:
            graph = runner.compile_sites(sites)
        except ModelError as exc:
            raise SteeringRefused(exc.message, code="steering_unsupported", param="model") from exc

        def install() -> bool:
            if not self._engine.uses() <= set(sites):
                return False
            runner.install_sites(graph)
            return True

        try:
            return self._thread().call(install).result()
        except CancelledError as exc:
            raise EngineFailed("the engine has stopped") from exc

    def median_norms(self, layers: Sequence[int]) -> dict[int, float]:
        """The median norms of the layers' hidden states: as an earlier process measured them with the same
        model and configuration, else measured now.
        """
        file = self._norm_file
        known = file.read() if file is not None else {}
        norms = {layer: known[layer] for layer in layers if layer in known}
        missing = [layer for layer in layers if layer not in norms]
        if missing:
            measured = self._measured(missing)
            if file is not None:
                file.add(measured)
            norms |= measured
        return norms

    @cached_property
    def _tokens(self) -> list[int]:
        """The tokens of the sample text whose hidden states are measured, as many as the cache holds."""
        return self._calibration()[: min(CALIBRATION_TOKENS, self._engine.max_tokens - 1)]

    @cached_property
    def _norm_file(self) -> NormFile | None:
        if self._norms is None:
            return None
        text = np.array(self._tokens, "<i8").tobytes()
        key = blake2b(self._engine.runner.fingerprint + text, digest_size=16).digest()
        return NormFile(self._norms, key)

    def _measured(self, layers: Sequence[int]) -> dict[int, float]:
        """Measure the median norms on the calibration text without its first token, whose norm is many times
        the others'. The text is computed like a request of low priority.
        """
        tokens = self._tokens
        probers = tuple(NormProber(layer, len(tokens)) for layer in layers)
        params = SamplingParams(max_tokens=0)
        sequence = EngineSequence(list(tokens), params, BATCH, salt=b"calibration", probers=probers)
        thread = self._thread()
        thread.add(sequence)
        while not all(prober.done.wait(POLL_S) for prober in probers):
            if not thread.is_alive or sequence.finish_reason == "error":
                raise EngineFailed("the norms of the hidden states could not be measured")
        return {prober.layer: float(np.median(prober.norms[1:])) for prober in probers}


def ordinary_text(tokenizer: Tokenizer) -> list[int]:
    """The tokens of an ordinary text, on which the norms of hidden states are measured, with BOS if the model
    uses one: Python's own documentation, which every installation has.
    """
    from pydoc_data.topics import topics

    pages = [page for _, page in sorted(topics.items()) if len(page) >= SHORTEST]
    return tokenizer.encode_prompt("\n".join(pages)[:CHARACTERS])
