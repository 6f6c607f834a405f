"""The engine's scheduling, paging and caching change nothing: exhaustively, over a runner made of hashes."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings

from tests.engine.fakes import FakeOracle, FakeRunner
from tests.engine.random_load import Drive, Mix, mixes, shared_prefixes

KINDS = (
    "preemptions", "chunks", "mixed steps", "prefix hits", "aborts", "stop", "length", "drafted", "accepted",
)  # fmt: skip
BASES = [tuple(range(60)), tuple(range(30, 0, -1)) * 2]


def test_every_mix_gives_the_oracles_tokens() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(mix=mixes(shared_prefixes(BASES, most=60)))
    def holds(mix: Mix) -> None:
        seen.update(Drive(FakeRunner(64), mix, FakeOracle()).run())

    holds()
    print(dict(seen))
    assert seen["near ties"] == 0
    for kind in KINDS:
        assert seen[kind] > 100, f"the mixes are too tame: {kind}"
