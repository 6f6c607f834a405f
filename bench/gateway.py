"""Headrace and other gateways before the same upstream, in turn, and the ratios between them.

    python -m bench.gateway [--quick] [--peers nginx,headrace] [--requests N] [--json FILE]

The gateway has a core for itself; the upstream and the load share another, in one process. Peers from package
registries are installed under .bench/ the first time. The peer headrace-metered is Headrace with a key of the
database that has limits, with usage, metrics and JSON logs: --peers headrace,headrace-metered,litellm
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: python bench/gateway.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop

from bench import report
from bench.gateways.install import NotAvailable
from bench.gateways.load import Address, Refused
from bench.gateways.measure import QUICK, Plan, measure, measure_direct
from bench.gateways.peers import DEFAULT, KNOWN, Peer
from bench.gateways.running import Failed, running
from bench.gateways.table import LABELS, TARGETS, table
from bench.gateways.upstream import MODEL, Upstream
from bench.machine import machine
from bench.measure import Numbers

PACKAGES = ("uvloop", "aiohttp", "uvicorn", "fastapi")
PATIENCE = 5  # so much longer than the others may Headrace take for its requests


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else Plan()
    plan = replace(plan, requests=options.requests or plan.requests)
    load_core, gateway_core = _cores()
    others = os.getloadavg()[0]
    os.sched_setaffinity(0, {load_core})
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        rounds, versions, missing = runner.run(compare(options, plan, gateway_core, Path(scratch)))
    print(f"\n{_heading(load_core, gateway_core, plan, others)}\n\n{table(rounds, versions)}")
    for name, why in missing.items():
        print(f"\n{LABELS[name]}: not available: {why}")
    print(f"\n{report.targets(rounds, TARGETS)}")
    if options.json:
        found = _json(rounds, versions, missing, plan)
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


async def compare(
    options: argparse.Namespace, plan: Plan, core: int, scratch: Path
) -> tuple[report.Rounds, dict[str, str], dict[str, str]]:
    """Numbers by gateway, versions, and why others are missing."""
    upstream = Upstream()
    async with await upstream.listen() as server:
        port = server.sockets[0].getsockname()[1]
        direct = Address(port, MODEL)
        peers, missing = _prepare(options.peers, scratch, port)
        rounds: report.Rounds = {"direct": [], **{peer.name: [] for peer in peers}}
        for _ in range(options.repeats):
            rounds["direct"].append(await measure_direct(direct, upstream, plan))
            _progress(
                "direct", "; ".join(f"{name} {value:.2f}" for name, value in rounds["direct"][-1].items())
            )
            for peer in peers:
                if peer.name in missing:
                    continue
                try:
                    rounds[peer.name].append(await _once(peer, direct, upstream, plan, core, scratch))
                except (Failed, Refused, TimeoutError) as exc:
                    missing[peer.name] = f"it failed: {exc or 'no answer in time'}"
    return rounds, {peer.name: peer.version for peer in peers}, missing


async def _once(
    peer: Peer, direct: Address, upstream: Upstream, plan: Plan, core: int, scratch: Path
) -> Numbers:
    """Started twice, the faster one counts: the first leaves bytecode, and files in the page cache."""
    async with running(peer, core, scratch) as first:
        _progress(peer.name, f"ready in {first.ready_s:.2f} s; once more")
    async with running(peer, core, scratch) as second:
        _progress(peer.name, f"ready in {second.ready_s:.2f} s; measured")
        is_ours = peer.name.startswith("headrace")
        memory_s = plan.memory_s * (PATIENCE if is_ours else 1)
        numbers = await measure(second, direct, upstream, plan, memory_s)
    return {**numbers, "ready_s": min(first.ready_s, second.ready_s)}


def _prepare(names: list[str], scratch: Path, port: int) -> tuple[list[Peer], dict[str, str]]:
    """Installed and configured, or why not."""
    peers, missing = [], {}
    for name in names:
        try:
            peers.append(KNOWN[name](name, scratch, port))
        except NotAvailable as exc:
            missing[name] = str(exc)
    return peers, missing


def _cores() -> tuple[int, int]:
    """One for load and upstream, one for the gateway."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the gateway, one for the load and the upstream")
    return cores[0], cores[1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--peers", type=_names, default=list(DEFAULT), metavar="A,B", help=f"of {', '.join(KNOWN)}"
    )
    parser.add_argument("--requests", type=int, metavar="N", help="of the memory phase (100000)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small counts: does it run at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(KNOWN):
        raise argparse.ArgumentTypeError(f"no such gateway: {', '.join(sorted(unknown))}")
    return names


def _progress(name: str, text: str) -> None:
    print(f"{LABELS[name]}: {text}", file=sys.stderr, flush=True)


def _heading(load_core: int, gateway_core: int, plan: Plan, others: float) -> str:
    return (
        f"{date.today().isoformat()}; {machine(PACKAGES)}.\n"
        f"Each gateway alone on core {gateway_core}, one worker; upstream and load in one process on core "
        f"{load_core}: the\ncolumn direct is their ceiling. Bytecode is written. The memory phase ends after "
        f"{plan.requests} requests or {plan.memory_s:.0f} s\n(Headrace: {plan.memory_s * PATIENCE:.0f} s), "
        f"whichever is first. Load average of the machine before: {others:.1f}. Beside\n"
        "other work only what is counted in CPU time can be trusted."
    )


def _json(
    rounds: report.Rounds, versions: dict[str, str], missing: dict[str, str], plan: Plan
) -> dict[str, Any]:
    """Infinity, which JSON does not know, is null: it never happened."""
    finite = {
        name: [{key: _finite(value) for key, value in run.items()} for run in runs]
        for name, runs in rounds.items()
    }
    reached = [(target, target.value(rounds)) for target in TARGETS]
    return {
        "date": date.today().isoformat(),
        "machine": machine(PACKAGES),
        "versions": versions,
        "missing": missing,
        "plan": asdict(plan),
        "rounds": finite,
        "targets": [
            {**asdict(target), "value": _finite(value), "verdict": target.verdict(value)}
            for target, value in reached
        ],
    }


def _finite(value: float | None) -> float | None:
    return None if value is not None and math.isinf(value) else value


if __name__ == "__main__":
    sys.exit(main())
