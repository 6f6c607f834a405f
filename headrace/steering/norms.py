"""The median norms of a model's hidden states, kept in a file: measuring them takes seconds at each start."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from headrace.small_files import write_whole

log = logging.getLogger(__name__)

MAX_BYTES = 2**20  # of a file: a model has a few hundred layers at most


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
            found = {int(layer): float(norm) for layer, norm in json.loads(text).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            log.debug("%s is not used: %s", self._path, exc)
            return {}
        return found if all(math.isfinite(norm) and norm > 0 for norm in found.values()) else {}

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
