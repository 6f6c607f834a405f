"""What each way of choosing the next token costs: milliseconds a step of the real model, and how much more
that is than a greedy step, at 1 and at 32 sequences. All ways take turns: a busy machine hurts them alike.

    python -m bench.sampling
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:  # run as a file: python bench/sampling.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headrace.config import PathsConfig
from headrace.engine.engine import Engine
from headrace.engine.load import load_engine
from headrace.engine.sequence import Constraint, SamplingParams, Sequence
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare
from headrace.text.structured.grammar import Grammars
from headrace.text.tokenizer import Tokenizer
from headrace.types import Format

STEPS = 16  # timed, after the first tokens
PROMPT = "Water flows through the headrace to the mill wheel, and number {} of the buckets"
GREEDY = SamplingParams(max_tokens=STEPS + 8, temperature=0)
SCHEMA = {
    "type": "array",
    "minItems": 50,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"enum": ["wheel", "bucket", "race"]},
            "size": {"type": "number"},
        },
        "required": ["name", "kind", "size"],
        "additionalProperties": False,
    },
}
BOUNDED = json.loads(json.dumps(SCHEMA).replace('{"type": "string"}', '{"type": "string", "maxLength": 20}'))


@dataclass(frozen=True, slots=True)
class Way:
    """One way of choosing tokens. `target`: how much more than greedy it may cost at 32 sequences."""

    name: str
    params: SamplingParams
    format: Format | None = None
    target: float | None = None


Times = tuple[float, float]  # milliseconds a step: on the clock, and of all cores together
DRAWN = replace(GREEDY, temperature=1.0, seed=1)
WAYS = [
    Way("greedy", GREEDY),
    Way("temperature 1, seed", DRAWN),
    Way("top_p 0.9, seed", replace(DRAWN, top_p=0.9), target=0.10),
    Way("temperature 0.7, top_p 0.9, seed", replace(DRAWN, temperature=0.7, top_p=0.9), target=0.10),
    Way("top_k 50, seed", replace(DRAWN, top_k=50)),
    Way("min_p 0.05, seed", replace(DRAWN, min_p=0.05)),
    Way("frequency_penalty, presence_penalty", replace(GREEDY, frequency_penalty=0.5, presence_penalty=0.5)),
    Way("repetition_penalty", replace(GREEDY, repetition_penalty=1.1)),
    Way("logit_bias, 100 tokens", replace(GREEDY, logit_bias=tuple((token, -1.0) for token in range(100)))),
    Way("logprobs", replace(GREEDY, logprobs=0)),
    Way("top_logprobs 5", replace(GREEDY, logprobs=5), target=0.10),
    Way("top_logprobs 20", replace(GREEDY, logprobs=20)),
    Way("JSON schema", GREEDY, Format("json_schema", SCHEMA), target=0.10),
    Way("JSON schema, strings of limited length", GREEDY, Format("json_schema", BOUNDED)),
    Way("JSON schema, top_p 0.9", replace(DRAWN, top_p=0.9), Format("json_schema", SCHEMA)),
    Way("regular expression", GREEDY, Format("regex", "[a-z ,.]{400,500}")),
]


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--only", nargs="*", default=[], help="names of ways, or parts of them")
    given = arguments.parse_args()
    ways = [way for way in WAYS if not given.only or any(part in way.name for part in given.only)]
    ways = [WAYS[0], *(way for way in ways if way is not WAYS[0])]
    model = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache))
    bench = Bench(model)
    for size in (1, 32):
        took: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
        for _ in range(given.rounds):
            for way in ways:
                took[way.name].append(bench.step_ms(way, size))
        print(f"\n{size} sequence{'s' * (size > 1)}: median of {given.rounds} rounds of {STEPS} steps")
        print(f"{'':40} {'ms/step':>8} {'over greedy':>12} {'CPU over greedy':>16}")
        for way in ways:
            print(_row(way, took[way.name], took["greedy"], size))
    return 0


def _row(way: Way, took: list[Times], greedy: list[Times], size: int) -> str:
    """The share is the median over rounds of the ratio to the same round's greedy."""
    pairs = list(zip(took, greedy, strict=True))
    more, cpu = (statistics.median(mine[i] / base[i] for mine, base in pairs) - 1 for i in (0, 1))
    goal = ""
    if way.target is not None and size == 32:
        goal = f"  target {way.target:.0%}: {'met' if more <= way.target else 'MISSED'}"
    return (
        f"{way.name:40} {statistics.median(wall for wall, _ in took):8.2f} {more:+12.1%} {cpu:+16.1%}{goal}"
    )


class Bench:
    def __init__(self, model: Model) -> None:
        self._tokenizer = Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos)
        self._engine: Engine = load_engine(model.folder, max_model_len=512, kv_cache_bytes=2**29)
        tokenizer = self._tokenizer
        self._grammars = Grammars(
            tokenizer.bytes_of_tokens, tokenizer.special, model.eos_token_ids, tokenizer.encode
        )

    def step_ms(self, way: Way, size: int) -> Times:
        """A step in which `size` sequences decode: its median on the clock, its mean of all cores."""
        for number in range(size):
            tokens = self._tokenizer.encode(PROMPT.format(number))
            self._engine.add(Sequence(tokens, way.params, constraint=self._constraint(way)))
        for _ in range(4):
            self._engine.step()
        began = time.process_time()
        times = [_timed(self._engine.step) for _ in range(STEPS)]
        cpu = (time.process_time() - began) / STEPS
        while self._engine.has_work:
            self._engine.step()
        return statistics.median(times) * 1e3, cpu * 1e3

    def _constraint(self, way: Way) -> Constraint | None:
        return None if way.format is None else self._grammars.compile(way.format)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
