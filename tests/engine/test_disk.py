"""The prefix cache on disk: it changes no token, and its blocks are found after a restart."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings

from headrace.engine.disk import BlockFiles, Stored
from headrace.engine.engine import Engine
from headrace.engine.sequence import SamplingParams, Sequence
from tests.engine.fakes import FakeOracle, FakeRunner
from tests.engine.random_load import Drive, Mix, mixes, shared_prefixes

BASES = [tuple(range(60)), tuple(range(30, 0, -1)) * 2]


def block_files(folder: Path, max_bytes: int = 2**20) -> BlockFiles:
    return BlockFiles(folder, max_bytes, fingerprint=FakeRunner.fingerprint, block_bytes=32)


def serve(engine: Engine, *sequences: Sequence) -> list[list[int]]:
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
        engine.check()
    return [sequence.tokens[sequence.num_prompt :] for sequence in sequences]


def sequence_of(prompt: list[int], *, leader: Sequence | None = None, **params: object) -> Sequence:
    all_params = {"max_tokens": 6, "temperature": 0, **params}
    return Sequence(list(prompt), SamplingParams(**all_params), leader=leader)  # type: ignore[arg-type]


def prompt_of(seed: int, length: int = 50) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


def test_every_mix_gives_the_oracles_tokens() -> None:
    """Pools so small that blocks go out to the disk and come back, and later mixes find those of earlier."""
    seen: Counter[str] = Counter()

    @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(mix=mixes(shared_prefixes(BASES, most=60), most_spare=6))
    def holds(mix: Mix) -> None:
        for _ in range(2):
            seen.update(Drive(FakeRunner(64), mix, FakeOracle(), files=block_files(Path(folder))).run())

    with TemporaryDirectory() as folder:
        holds()
    print(dict(seen))
    for kind in ("preemptions", "chunks", "mixed steps", "prefix hits", "aborts", "stop", "length"):
        assert seen[kind] > 20, f"the mixes are too tame: {kind}"
    assert seen["read"] > 500
    assert seen["written"] > 1000


def test_a_prompt_is_cached_after_a_restart(tmp_path: Path) -> None:
    prompt = prompt_of(1)
    first = Engine(FakeRunner(64), files=block_files(tmp_path))
    before = serve(first, sequence_of(prompt))
    first.close()
    second = Engine(FakeRunner(64), files=block_files(tmp_path))
    again, longer = sequence_of(prompt), sequence_of([*prompt, *prompt_of(2)])
    assert serve(second, again) == before
    assert again.num_cached == 48  # in blocks of 4, and two tokens at least are computed
    serve(second, longer)
    assert longer.num_cached == 50, "the end of the first prompt is copied"


def test_evicted_blocks_come_back(tmp_path: Path) -> None:
    engine = Engine(FakeRunner(16), files=block_files(tmp_path))
    prompts = [prompt_of(seed) for seed in range(5)]
    before = [serve(engine, sequence_of(prompt)) for prompt in prompts]
    for prompt, answer in zip(prompts, before, strict=True):
        again = sequence_of(prompt)
        assert serve(engine, again) == answer
        assert again.num_cached == 48


def test_a_prompt_longer_than_the_room_is_computed(tmp_path: Path) -> None:
    prompt = prompt_of(3, 200)
    first = Engine(FakeRunner(64), files=block_files(tmp_path))
    before = serve(first, sequence_of(prompt))
    first.close()
    second = Engine(FakeRunner(52), files=block_files(tmp_path))
    running = sequence_of(prompt_of(4), max_tokens=100)
    assert serve(second, running, sequence_of(prompt))[1:] == before


@pytest.mark.parametrize("invariant", [False, True])
def test_blocks_of_answers_serve_only_those_that_may_take_them(tmp_path: Path, invariant: bool) -> None:
    first = Engine(FakeRunner(64), files=block_files(tmp_path))
    turn = sequence_of(prompt_of(5, 20), max_tokens=20)
    serve(first, turn)
    first.close()
    second = Engine(FakeRunner(64), files=block_files(tmp_path))
    next_turn = sequence_of([*turn.tokens, 1, 2, 3], invariant=invariant)
    serve(second, next_turn)
    assert next_turn.num_cached == (20 if invariant else 36)


def test_owners_do_not_find_each_others_prompts(tmp_path: Path) -> None:
    prompt, found = prompt_of(6), []
    for salt in (b"a" * 16, b"b" * 16, b"", b"a" * 16):
        engine = Engine(FakeRunner(64), files=block_files(tmp_path))
        sequence = Sequence(list(prompt), SamplingParams(max_tokens=2), salt=salt)
        serve(engine, sequence)
        engine.close()
        found.append(sequence.num_cached)
    assert found == [0, 0, 0, 48]


def test_two_engines_share_a_folder(tmp_path: Path) -> None:
    one, two = (Engine(FakeRunner(16), files=block_files(tmp_path)) for _ in range(2))
    for seed in range(5):
        serve(one, sequence_of(prompt_of(seed)))
    one.disk.flush()  # type: ignore[union-attr]
    sequence = sequence_of(prompt_of(0))
    serve(two, sequence)
    assert sequence.num_cached == 48


def test_damaged_files_are_computed_again_and_replaced(tmp_path: Path) -> None:
    prompt = prompt_of(7)
    first = Engine(FakeRunner(64), files=block_files(tmp_path))
    before = serve(first, sequence_of(prompt))
    first.close()
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        data = path.read_bytes()
        path.write_bytes([data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", data[::-1]][number % 4])
    for cached in (0, 48):
        engine = Engine(FakeRunner(64), files=block_files(tmp_path))
        sequence = sequence_of(prompt)
        assert serve(engine, sequence) == before
        assert sequence.num_cached == cached
        engine.close()


def test_an_aborted_sequence_does_not_start(tmp_path: Path) -> None:
    first = Engine(FakeRunner(64), files=block_files(tmp_path))
    leader = sequence_of(prompt_of(8))
    before = serve(first, leader)
    first.close()
    engine = Engine(FakeRunner(64), files=block_files(tmp_path))
    leader = sequence_of(prompt_of(8))
    follower = sequence_of(prompt_of(8), leader=leader)
    engine.add(leader)
    engine.abort(leader)
    assert serve(engine, follower) == before
    assert leader.num_generated == 0
    assert engine.pool.num_held == 0


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    engine = Engine(FakeRunner(16), files=block_files(tmp_path / "prefixes"))
    (tmp_path / "prefixes").rmdir()
    (tmp_path / "prefixes").write_text("a file in the way")
    fresh = Engine(FakeRunner(16))
    for seed in range(5):
        assert serve(engine, sequence_of(prompt_of(seed))) == serve(fresh, sequence_of(prompt_of(seed)))
    engine.close()
    assert engine.disk is not None
    assert engine.disk.num_failures > 0


def test_the_folder_keeps_its_size(tmp_path: Path) -> None:
    limit = 40 * 80  # 40 blocks of 4 tokens
    for seed in range(6):
        engine = Engine(FakeRunner(64), files=block_files(tmp_path, limit))
        serve(engine, sequence_of(prompt_of(seed)))
        engine.close()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
        for path in tmp_path.iterdir():  # some time passes until the next start
            used = path.stat().st_mtime - 10
            os.utime(path, (used, used))
    engine = Engine(FakeRunner(64), files=block_files(tmp_path, limit))
    last, first = sequence_of(prompt_of(5)), sequence_of(prompt_of(0))
    serve(engine, last, first)
    # Ends of prompts count as used a little earlier than their beginnings, so some of the last may be gone.
    assert last.num_cached > 24
    assert first.num_cached == 0


class Unreadable(BlockFiles):
    """Its files cannot be read, for a reason that nobody has thought of."""

    def read(self, key: bytes, *, age_s: float = 0) -> Stored | None:
        raise MemoryError


def test_a_failure_of_the_reader_is_no_failure_of_the_request(tmp_path: Path) -> None:
    prompt = prompt_of(9)
    first = Engine(FakeRunner(64), files=block_files(tmp_path))
    before = serve(first, sequence_of(prompt))
    first.close()
    files = Unreadable(tmp_path, 2**20, fingerprint=FakeRunner.fingerprint, block_bytes=32)
    engine = Engine(FakeRunner(64), files=files)
    sequence = sequence_of(prompt)
    assert serve(engine, sequence) == before
    assert sequence.num_cached == 0
