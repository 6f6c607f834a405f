"""lm-eval's local-completions on a small task of ours, against the same numbers computed directly.

The server computes in float32. lm-eval has no tokenizer of its own: it asks the server. It is started with
the Python of its environment as the only argument; this script runs in Headrace's, for the direct way.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from turns import MODEL, URL, run, turn

from examples import examples
from headrace.models.catalog import Cache, prepare
from headrace.text.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parents[2]))
from tests.engine.plain import PlainModel

TASK = "headrace_capitals"
FOLDER = Path(__file__).parent / "lm_eval"
CLOSE = 1e-3


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer to one item, as lm-eval scored it."""

    context: str
    continuation: str
    loglikelihood: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Report:
    accuracy: float
    scored: list[list[Scored]]  # the answers of each item
    targets: list[int]


@functools.cache
def report() -> Report:
    with tempfile.TemporaryDirectory() as folder:
        _run_lm_eval(Path(folder))
        (results,) = Path(folder).rglob("results_*.json")
        (samples,) = Path(folder).rglob("samples_*.jsonl")
        found = json.loads(results.read_text())["results"][TASK]["acc,none"]
        items = [json.loads(line) for line in samples.read_text().splitlines()]
    return Report(found, [list(_scored(item)) for item in items], [int(item["target"]) for item in items])


def _run_lm_eval(output: Path) -> None:
    (documented,) = examples("lm_eval", "sh", URL)
    command = shlex.split(documented.replace("\\\n", " "))
    command[:1] = [sys.argv[1], "-m", "lm_eval"]
    command += ["--log_samples", "--output_path", str(output)]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]


def _scored(item: dict[str, object]) -> Iterator[Scored]:
    arguments, answers = item["arguments"], item["filtered_resps"]
    assert isinstance(arguments, dict)
    assert isinstance(answers, list)
    for argument, (loglikelihood, is_greedy) in zip(arguments.values(), answers, strict=True):
        yield Scored(argument["arg_0"], argument["arg_1"], float(loglikelihood), str(is_greedy) == "True")


@functools.cache
def direct() -> list[list[tuple[float, bool]]]:
    """What the model says of the same tokens: log-likelihood and whether each was the likeliest."""
    named = os.environ.get("HEADRACE_CACHE")
    cache = Cache(Path(named) if named else user_cache_path("headrace", appauthor=False))
    folder = prepare(MODEL, cache).folder
    model, tokenizer = PlainModel(folder), Tokenizer(folder)
    return [[_direct(model, tokenizer, answer) for answer in item] for item in report().scored]


def _direct(model: PlainModel, tokenizer: Tokenizer, answer: Scored) -> tuple[float, bool]:
    tokens = tokenizer.encode(answer.context + answer.continuation)
    start = len(tokenizer.encode(answer.context))
    logits = model.logits(tokens)[start - 1 : -1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logprobs -= logits.max(-1, keepdims=True)
    chosen = np.array(tokens[start:])
    return float(logprobs[np.arange(len(chosen)), chosen].sum()), bool((logits.argmax(-1) == chosen).all())


@turn("it runs, with the server's tokenizer")
def runs() -> None:
    assert len(report().scored) == 20
    assert all(len(answers) == 4 for answers in report().scored)


@turn(f"log-likelihoods within {CLOSE} of a direct computation")
def loglikelihoods() -> None:
    pairs = [
        (seen, expected)
        for item, computed in zip(report().scored, direct(), strict=True)
        for seen, expected in zip(item, computed, strict=True)
    ]
    differences = [abs(seen.loglikelihood - expected[0]) for seen, expected in pairs]
    print(f"largest difference of {len(pairs)}: {max(differences):.1e}")
    assert max(differences) <= CLOSE, pairs[int(np.argmax(differences))]
    assert [seen.is_greedy for seen, _ in pairs] == [expected[1] for _, expected in pairs]


@turn("the same accuracy")
def accuracy() -> None:
    answers = [int(np.argmax([value for value, _ in item])) for item in direct()]
    expected = np.mean([answer == target for answer, target in zip(answers, report().targets, strict=True)])
    print(f"accuracy {report().accuracy}")
    assert report().accuracy == expected


if __name__ == "__main__":
    run()
