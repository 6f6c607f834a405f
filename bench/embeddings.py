"""How often the right text is nearest: the first sentence of a docstring is the query, and the rest of it is
to be found among the rests of 160 docstrings of the standard library.

    python -m bench.embeddings [--models minilm-l6-v2,smollm2-135m-instruct]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if not __package__:  # run as a file: python bench/embeddings.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.machine import machine
from bench.systems import Server, known, start
from headrace.config import PathsConfig
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from headrace.models.references import DEFAULT_EMBEDDER

MODULES = (
    "os", "json", "subprocess", "threading", "asyncio", "pathlib", "shutil", "socket", "logging", "itertools",
    "collections", "random", "statistics", "tempfile", "zipfile", "argparse", "functools", "re",
)  # fmt: skip
PAIRS = 160
MAX_TEXT = 600  # characters
AT_ONCE = 32  # texts a request

Pair = tuple[str, str]
Vectors = NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description="How often is the right text nearest?")
    parser.add_argument("--models", default=f"{DEFAULT_EMBEDDER},{DEFAULT_MODEL}", metavar="NAMES")
    names = parser.parse_args().models.split(",")
    print(machine(("headrace", "openvino")))
    found = list(pairs())
    print(f"{len(found)} pairs\n")
    print("| model | dimensions | recall@1 | recall@5 | MRR | tokens | tokens/s of CPU |")
    print("|---|---|---|---|---|---|---|")
    asyncio.run(compare(found, names))
    return 0


def pairs() -> Iterator[Pair]:
    """The first sentence and the rest of docstrings, in the order of the modules; no pair twice."""
    seen: set[Pair] = set()
    for module in map(importlib.import_module, MODULES):
        for name in dir(module):
            first, _, rest = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")
            pair = (first, rest[:MAX_TEXT])
            is_usable = not name.startswith("_") and 25 < len(first) < 200 and len(rest) > 120
            if is_usable and pair not in seen and len(seen) < PAIRS:
                seen.add(pair)
                yield pair


async def compare(found: list[Pair], names: list[str]) -> None:
    """Print a row for each model, all of one server."""
    model = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache))
    with tempfile.TemporaryDirectory() as scratch:
        command = next(
            one for one in known(model, PathsConfig().cache, Path(scratch)) if one.name == "headrace"
        )
        server = await start(command, sys.executable, Path(scratch) / "log")
        assert isinstance(server, Server)
        try:
            for name in names:
                await asyncio.to_thread(_row, server, name, found)
        finally:
            await server.stop()


def _row(server: Server, name: str, found: list[Pair]) -> None:
    url = server.url
    _embedded(url, name, ["warm up"])
    before = server.cpu_s()
    (queries, first), (texts, second) = (
        _embedded(url, name, list(side)) for side in zip(*found, strict=True)
    )
    took_s = server.cpu_s() - before
    scores = queries @ texts.T
    ranks = (scores >= scores.diagonal()[:, None]).sum(1)
    tokens = first + second
    print(
        f"| {name} | {texts.shape[1]} | {np.mean(ranks == 1):.0%} | {np.mean(ranks <= 5):.0%} "
        f"| {np.mean(1 / ranks):.2f} | {tokens} | {tokens / took_s:.0f} |",
        flush=True,
    )


def _embedded(url: str, model: str, texts: list[str]) -> tuple[Vectors, int]:
    """The vectors of the texts, and how many tokens they have. Longer ones than the model reads are cut."""
    rows: list[Any] = []
    tokens = 0
    for first in range(0, len(texts), AT_ONCE):
        body = {"model": model, "input": texts[first : first + AT_ONCE], "truncate_prompt_tokens": -1}
        request = urllib.request.Request(
            url + "/v1/embeddings", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            answer = json.load(response)
        rows += [row["embedding"] for row in answer["data"]]
        tokens += answer["usage"]["prompt_tokens"]
    return np.array(rows), tokens


if __name__ == "__main__":
    sys.exit(main())
