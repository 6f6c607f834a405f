"""What a file of weights adds to a fingerprint: its size, its time, and pieces of it."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 256, 4096  # of a file


def add_file(digest: blake2b, path: Path) -> None:
    status = path.stat()
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    digest.update(_sample(path))


def _sample(path: Path) -> bytes:
    """Pieces of a file from all over it: reading gigabytes of weights whole would delay the start."""
    length = path.stat().st_size
    with path.open("rb") as file:
        pieces = []
        for index in range(SAMPLES):
            file.seek(length * index // SAMPLES)
            pieces.append(file.read(SAMPLE_BYTES))
    return b"".join(pieces)
