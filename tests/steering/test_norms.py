"""The norms of hidden states are measured once for a model, and kept in a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from headrace.backends.engine import EngineBackend, EngineSettings
from headrace.backends.engine.editor import MAX_BYTES, NormFile
from headrace.models.catalog import Model
from headrace.steering.formats.control_vector import write_vector

KEY = bytes(range(16))
WIDTH = 64  # of the small model
NORMS = {-1: 3.25, 7: 41.5}


def path_of(folder: Path) -> Path:
    return folder / f"{KEY.hex()}.json"


def test_norms_are_read_as_they_were_added(tmp_path: Path) -> None:
    file = NormFile(tmp_path / "new", KEY)
    assert file.read() == {}
    file.add({7: 40.0})
    file.add(NORMS)
    assert NormFile(tmp_path / "new", KEY).read() == NORMS
    assert [path.name for path in (tmp_path / "new").iterdir()] == [path_of(tmp_path).name]


def damaged() -> dict[str, bytes]:
    """Files that are not what was written."""
    whole = json.dumps({"7": 41.5}).encode()
    return {
        "empty": b"",
        "no checksum": whole,
        "another checksum": b"0" * 32 + b"\n" + whole,
        "binary": bytes(range(256)),
        "long": b"0" * (2 * MAX_BYTES),
    }


@pytest.mark.parametrize("content", damaged().values(), ids=damaged().keys())
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    path_of(tmp_path).write_bytes(content)
    file = NormFile(tmp_path, KEY)
    assert file.read() == {}
    file.add(NORMS)
    assert file.read() == NORMS


@pytest.mark.parametrize("length", [1, 20, 40, -1])
def test_a_truncated_file_is_not_used(tmp_path: Path, length: int) -> None:
    file = NormFile(tmp_path, KEY)
    file.add(NORMS)
    path_of(tmp_path).write_bytes(path_of(tmp_path).read_bytes()[:length])
    assert file.read() == {}


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    file = NormFile(tmp_path, KEY)
    file.add(NORMS)
    path_of(tmp_path).write_bytes(path_of(tmp_path).read_bytes().replace(b"41.5", b"42.5"))
    assert file.read() == {}


def test_another_models_file_is_not_used(tmp_path: Path) -> None:
    NormFile(tmp_path, KEY).add(NORMS)
    other = bytes(16)
    path_of(tmp_path).rename(tmp_path / f"{other.hex()}.json")
    assert NormFile(tmp_path, other).read() == {}


def test_a_folder_that_cannot_be_written_to_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    file = NormFile(tmp_path / "file", KEY)
    file.add(NORMS)
    assert file.read() == {}


def measured(model: Model, folder: Path, layers: list[int]) -> tuple[dict[int, float], int]:
    """The norms at the layers of a vector, and how many tokens a new backend computed for them."""
    root = folder.parent / "steering"
    direction = np.ones(WIDTH, np.float32)
    write_vector(root / "vectors" / "v.gguf", dict.fromkeys(layers, direction), model=model.name)

    async def attached() -> tuple[dict[int, float], int]:
        backend = EngineBackend(model, EngineSettings(kv_cache_bytes=2**27, norms=folder, steering_root=root))
        await backend.start()
        try:
            await asyncio.to_thread(backend.library(model.name).open, "v")
            stats = backend.stats()
            assert stats is not None
            return dict(backend.library(model.name).shelf.norms), stats.counts["num_computed"]
        finally:
            await backend.aclose()

    return asyncio.run(attached())


def test_the_second_start_measures_only_what_is_new(small_model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "norms"
    first, computed = measured(small_model, folder, [0])
    assert computed > 500
    assert measured(small_model, folder, [0]) == (first, 0)
    both, computed = measured(small_model, folder, [0, 1])
    assert computed > 500
    assert both[0] == first[0]
    assert measured(small_model, folder, [0, 1]) == (both, 0)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    again, computed = measured(small_model, folder, [0])
    assert computed > 500
    assert again == first
