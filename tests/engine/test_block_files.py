"""Blocks in files: what was written is read, and what is not as it was written counts as missing."""

from __future__ import annotations

import multiprocessing
import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.engine.disk import BlockFiles
from tests.serving import eventually

FINGERPRINT, SIZE = b"a model's print.", 5000
KEYS = [bytes([number]) * 16 for number in range(64)]


def files(folder: Path, *, blocks: float = 1000, fingerprint: bytes = FINGERPRINT) -> BlockFiles:
    return BlockFiles(
        folder / "prefixes", int(blocks * (SIZE + 48)), fingerprint=fingerprint, block_bytes=SIZE
    )


def content(key: bytes) -> bytes:
    return random.Random(key).randbytes(SIZE)


def write(store: BlockFiles, *keys: bytes, is_exact: bool = True) -> None:
    for key in keys:
        store.write(key, content(key), is_exact=is_exact)


def only(store: BlockFiles) -> Path:
    (path,) = store.folder.iterdir()
    return path


@pytest.mark.parametrize("is_exact", [False, True])
def test_a_block_is_read_as_it_was_written(tmp_path: Path, is_exact: bool) -> None:
    write(files(tmp_path), KEYS[0], is_exact=is_exact)
    stored = files(tmp_path).read(KEYS[0])
    assert stored is not None
    assert (bytes(stored.content), stored.is_exact) == (content(KEYS[0]), is_exact)
    assert files(tmp_path).read(KEYS[1]) is None


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    (tmp_path / "prefixes").mkdir(mode=0o755)
    store = files(tmp_path)
    write(store, KEYS[0])
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only(store).stat().st_mode) == 0o600


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "header only": lambda data: data[:48],
    "half a header": lambda data: data[:20],
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "far longer": lambda data: data * 100,
    "a bit of the content": lambda data: data[:-7] + bytes([data[-7] ^ 1]) + data[-6:],
    "a bit of the checksum": lambda data: data[:45] + bytes([data[45] ^ 1]) + data[46:],
    "zeros, as after a power cut": lambda data: bytes(len(data)),
    "another program's": lambda data: b"SQLite format 3\0" + data[16:],
    "another key's": lambda data: data[:24] + KEYS[9] + data[40:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_ignored_and_replaced(tmp_path: Path, damage: str) -> None:
    store = files(tmp_path)
    write(store, KEYS[0])
    path = only(store)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert store.read(KEYS[0]) is None
    write(store, KEYS[0])
    stored = store.read(KEYS[0])
    assert stored is not None
    assert stored.content == content(KEYS[0])


def test_a_file_of_another_model_is_ignored_and_replaced(tmp_path: Path) -> None:
    write(files(tmp_path, fingerprint=b"another's print."), KEYS[0])
    assert files(tmp_path).read(KEYS[0]) is None
    write(files(tmp_path), KEYS[0])
    assert files(tmp_path).read(KEYS[0]) is not None


def test_an_exact_block_replaces_an_inexact_one_and_not_the_other_way(tmp_path: Path) -> None:
    store, other = files(tmp_path), bytes(SIZE)
    store.write(KEYS[0], other, is_exact=False)
    write(store, KEYS[0])
    store.write(KEYS[0], other, is_exact=False)
    stored = store.read(KEYS[0])
    assert stored is not None
    assert (bytes(stored.content), stored.is_exact) == (content(KEYS[0]), True)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = files(tmp_path, blocks=32)
    for number, key in enumerate(KEYS[:20]):
        store.write(key, content(key), is_exact=True, age_s=1000 - number)
    assert store.read(KEYS[0], age_s=500) is not None  # used after it was written
    write(store, *KEYS[20:44])
    present = [number for number, key in enumerate(KEYS) if store.has(key)]
    assert 28 <= len(present) <= 32
    assert present == [0, *range(44 - len(present) + 1, 44)]


def test_a_deleted_folder_comes_back(tmp_path: Path) -> None:
    store = files(tmp_path)
    store.folder.rmdir()
    assert store.read(KEYS[0]) is None
    write(store, KEYS[0])
    assert store.read(KEYS[0]) is not None


def test_what_is_in_the_way_does_no_harm(tmp_path: Path) -> None:
    store = files(tmp_path, blocks=16)
    (store.folder / (KEYS[0].hex() + ".kv")).mkdir()
    (store.folder / "notes.txt").write_text("mine")
    assert store.read(KEYS[0]) is None
    with pytest.raises(OSError, match=r"\.kv"):
        write(store, KEYS[0])
    write(store, *KEYS[1:40])
    assert (store.folder / "notes.txt").read_text() == "mine"


def _write_for_ever(folder: Path) -> None:
    store = files(folder)
    for number in range(2**40):
        key = KEYS[number % len(KEYS)]
        store.write(key, content(key), is_exact=True)
        store.remove(KEYS[(number * 7) % len(KEYS)])


def test_a_killed_writer_leaves_nothing_that_is_wrong(tmp_path: Path) -> None:
    """Two processes write and read the same folder; one is killed again and again, whatever it is doing."""
    store, context = files(tmp_path), multiprocessing.get_context("forkserver")
    for number in range(3):
        writer = context.Process(target=_write_for_ever, args=(tmp_path,))
        writer.start()
        eventually(lambda: any(map(store.has, KEYS)))
        for key in KEYS * (5 + number):
            stored = store.read(key)
            assert stored is None or stored.content == content(key)
            store.write(key, content(key), is_exact=True)
        writer.kill()
        writer.join()
    write(store, *KEYS)
    assert all(store.read(key) is not None for key in KEYS)


def test_what_a_killed_writer_left_is_deleted_later(tmp_path: Path) -> None:
    store = files(tmp_path)
    for name, age_s in (("old.tmp", 3600), ("new.tmp", 0)):
        (store.folder / name).write_bytes(b"x")
        os.utime(store.folder / name, (time.time() - age_s,) * 2)
    store.trim()
    assert [path.name for path in store.folder.iterdir()] == ["new.tmp"]
