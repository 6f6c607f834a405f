"""Headrace and its peers under the same load, in turn, each in its own process, and the ratios between them.

    python -m bench.serving [--quick] [--systems headrace,engine] [--peer-python PATH] [--json FILE]

A round starts every system once, measures all, stops it; the next round does it again. Ratios are taken
within a round and their median is shown, so that a machine whose speed drifts compares like with like.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: python bench/serving.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import report
from bench.client import Refused
from bench.machine import machine
from bench.measure import PARTS, QUICK, Numbers, Plan, measure, measure_restarted
from bench.systems import Child, Command, Failed, is_installed, known, prepare, start
from bench.tasks import TASKS
from bench.workload import Prompts
from headrace.config import PathsConfig
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model
from headrace.models.catalog import prepare as prepare_model

PACKAGES = ("headrace", "openvino", "openvino-genai", "xllamacpp", "transformers", "torch", "vllm")
OURS = ("headrace", "plain", "engine", "torch", "torch-engine")


def main() -> int:
    options = _options()
    model = prepare_model(options.model, Cache(options.cache))
    plan = replace(QUICK if options.quick else Plan(), parts=options.parts)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
        rounds, missing = asyncio.run(compare(model, plan, options, Path(scratch)))
    targets = report.targets(rounds, report.TARGETS)
    print(f"\n{machine(PACKAGES)}\n\n{report.table(rounds, missing, plan.streams)}\n\n{targets}")
    if options.json:
        options.json.write_text(json.dumps(_json(rounds, missing, plan), indent=2) + "\n", encoding="utf-8")
    return 0


async def compare(
    model: Model, plan: Plan, options: argparse.Namespace, scratch: Path
) -> tuple[report.Rounds, dict[str, str]]:
    commands, missing = _choose(known(model, options.cache, scratch, options.torch_dtype), options)
    prepare(commands, model, options.peer_python, scratch)
    rounds: report.Rounds = {command.name: [] for command in commands}
    for index in range(options.repeats):
        for command in commands:
            if command.name in missing:
                continue
            prompts = Prompts(model.folder, seed=index)  # the same for all systems of a round
            try:
                numbers = await _once(command, plan, prompts, _python(command, options), scratch)
            except (Failed, Refused) as exc:
                missing[command.name] = "failed"
                print(f"{command.name} failed:\n{exc}", file=sys.stderr)
                continue
            rounds[command.name].append(numbers)
            _progress(index, command, numbers, plan)
    return rounds, missing


async def _once(command: Command, plan: Plan, prompts: Prompts, python: str, scratch: Path) -> Numbers:
    long = [prompts.make(plan.long_prompt) for _ in range(plan.times)]
    async with _started(command, python, scratch) as child:
        numbers = await measure(child, plan, prompts, long, polls_health=command.polls_health)
    if command.restarts and "long" in plan.parts:
        async with _started(command, python, scratch) as child:
            numbers |= await measure_restarted(child, plan, prompts, long)
    return numbers


@asynccontextmanager
async def _started(command: Command, python: str, scratch: Path) -> AsyncIterator[Child]:
    child: Child = await start(command, python, scratch / f"{command.name}.log")
    try:
        yield child
    finally:
        await child.stop()


def _choose(commands: list[Command], options: argparse.Namespace) -> tuple[list[Command], dict[str, str]]:
    """Those that were asked for and can run; the others with the reason."""
    asked = [command for command in commands if not options.systems or command.name in options.systems]
    missing = {
        command.name: "not installed"
        for command in asked
        if command.needs and not is_installed(command.needs, _python(command, options))
    }
    return [command for command in asked if command.name not in missing], missing


def _python(command: Command, options: argparse.Namespace) -> str:
    python: str = sys.executable if command.name in OURS else options.peer_python
    return python


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Headrace and its peers under the same load.")
    parser.add_argument("--model", metavar="REF", default=DEFAULT_MODEL, help="model reference (%(default)s)")
    parser.add_argument("--cache", type=Path, default=PathsConfig().cache, help="where models are kept")
    parser.add_argument("--systems", type=lambda text: text.split(","), metavar="A,B", help="only these")
    parser.add_argument(
        "--parts", type=lambda text: tuple(text.split(",")), metavar="A,B", default=PARTS,
        help=f"only these measurements, of {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--torch-dtype", choices=("bfloat16", "float32"), default="bfloat16",
        help="numbers of all that run on PyTorch (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="runs the peers")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small load: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    options = parser.parse_args()
    options.cache = options.cache.absolute()
    return options


def _progress(index: int, command: Command, numbers: Numbers, plan: Plan) -> None:
    shown = ", ".join(f"{name} {numbers[name]:.4g}" for name in _progress_of(plan) if name in numbers)
    print(f"round {index + 1} {command.name}: {shown}", file=sys.stderr, flush=True)


def _progress_of(plan: Plan) -> list[str]:
    return [
        *(f"output_rate_{count}" for count in plan.streams), "decode_rate_1", "cold_s", "again_s",
        *(f"{kind}_rate" for kind in TASKS), *(f"{kind}_tokens" for kind in TASKS),
        "usual_gap_ms", "beside_median", "beside_p95", "beside_max", "beside_prompt_s", "ready_s",
    ]  # fmt: skip


def _json(rounds: report.Rounds, missing: dict[str, str], plan: Plan) -> dict[str, Any]:
    return {
        "machine": machine(PACKAGES),
        "plan": asdict(plan),
        "rounds": rounds,
        "medians": {name: report.medians(runs) for name, runs in rounds.items()},
        "missing": missing,
        "targets": [
            {**asdict(target), "value": (value := target.value(rounds)), "verdict": target.verdict(value)}
            for target in report.TARGETS
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
