"""The schemas of the tests: how many compile, how long that takes, and what a mask costs per token.

python -m bench.schemas
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: python bench/schemas.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headrace.config import PathsConfig
from headrace.errors import BadRequest
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from headrace.text.structured.grammar import Grammars
from headrace.text.tokenizer import Tokenizer
from headrace.types import Format
from tests.text.structured.schemas import cases

TOKENS = 60  # of each schema's text


def main() -> int:
    grammars, tokenizer = _grammars()
    random, mask = np.random.default_rng(0), np.zeros((tokenizer.vocabulary + 31) // 32, np.int32)
    outcomes: Counter[str] = Counter()
    compiling: list[float] = []
    filling: list[float] = []
    for case in cases():
        started = time.perf_counter()
        try:
            constraint = grammars.compile(Format("json_schema", case.schema))
        except BadRequest as exc:
            outcomes[exc.code or ""] += 1
            continue
        compiling.append(time.perf_counter() - started)
        for _ in range(TOKENS):
            if constraint.is_complete:
                break
            started = time.perf_counter()
            constraint.fill(mask)
            filling.append(time.perf_counter() - started)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            token = int(random.choice(allowed))
            if token in tokenizer.special.values():  # an end
                break
            constraint.accept(token)
    total = len(compiling) + outcomes.total()
    rate = len(compiling) / total
    print(f"{len(compiling)} of {total} schemas compile ({rate:.0%}); refused: {dict(outcomes)}")
    print(f"compile: {_spread(compiling, 1e3)} ms")
    print(f"fill: {_spread(filling, 1e6)} us over {len(filling)} tokens")
    return 0


def _grammars() -> tuple[Grammars, Tokenizer]:
    model = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache))
    tokenizer = Tokenizer(model.folder)
    table = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
    return Grammars(table, tokenizer.special, model.eos_token_ids, tokenizer.encode), tokenizer


def _spread(seconds: list[float], scale: float) -> str:
    half, most, worst = np.quantile(seconds, [0.5, 0.99, 1]) * scale
    return f"median {half:.3g}, 99 % {most:.3g}, most {worst:.3g}"


if __name__ == "__main__":
    sys.exit(main())
