"""The load that every system gets, and the numbers taken from it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from bench.children.protocol import Timing
from bench.client import poll_health
from bench.systems import Child, Server
from bench.tasks import TASKS
from bench.workload import Prompt, Prompts

HEALTH_EVERY_S = 0.005

Numbers = dict[str, float]  # by metric; a metric that was not taken is absent


PARTS = ("streams", "long", "tasks", "beside")


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in tokens."""

    streams: tuple[int, ...] = (1, 16, 32)
    prompt: int = 128
    output: int = 64
    long_prompt: int = 800
    task_output: int = 300  # at most
    beside: int = 4  # streams beside the longest prompt
    longest_prompt: int = 6000
    times: int = 3  # the short measurements are taken this often in a round
    parts: tuple[str, ...] = PARTS


QUICK = Plan(
    streams=(1, 4), prompt=32, output=8, long_prompt=128, task_output=16, longest_prompt=600, times=1
)


async def measure(
    child: Child, plan: Plan, prompts: Prompts, long: list[Prompt], *, polls_health: bool
) -> Numbers:
    """One round on a system that has just started. `long`: prompts for the times to the first token."""
    numbers: Numbers = {"ready_s": child.ready_s}
    await _warm_up(child, plan, prompts)
    for count in plan.streams if "streams" in plan.parts else ():
        numbers |= await _streams(child, plan, prompts, count)
    if "long" in plan.parts:
        numbers |= await _long_prompts(child, long)
    if "tasks" in plan.parts:
        numbers |= await _tasks(child, plan, prompts)
    if "beside" in plan.parts and isinstance(child, Server):
        numbers |= await _beside(child, plan, prompts)
    if "streams" in plan.parts and polls_health:
        numbers |= await _health(child, plan, prompts)
    numbers["peak_mib"] = child.peak_bytes() / 2**20
    return numbers


async def _warm_up(child: Child, plan: Plan, prompts: Prompts) -> None:
    for count in (1, min(4, plan.streams[-1])):
        await child.run([prompts.make(plan.prompt) for _ in range(count)], 4)


async def _streams(child: Child, plan: Plan, prompts: Prompts, count: int) -> Numbers:
    """`count` different prompts at once."""
    runs: list[Numbers] = []
    for _ in range(plan.times if count == 1 else 1):
        batch = [prompts.make(plan.prompt) for _ in range(count)]
        cpu, child_cpu, started = time.process_time(), child.cpu_s(), time.perf_counter()
        timings = await child.run(batch, plan.output)
        wall = time.perf_counter() - started
        numbers = _rates(timings, wall, plan)
        numbers["client_cpu"] = (time.process_time() - cpu) / wall
        numbers["cpu"] = (child.cpu_s() - child_cpu) / wall
        runs.append(numbers)
    return {f"{name}_{count}": median(run[name] for run in runs) for name in runs[0]}


async def _health(child: Child, plan: Plan, prompts: Prompts) -> Numbers:
    """How long a health check takes beside the most streams. Their speed is measured without it."""
    latencies: list[float] = []
    async with _polling(child, latencies):
        await child.run([prompts.make(plan.prompt) for _ in range(plan.streams[-1])], plan.output)
    return _percentiles(latencies)


def _rates(timings: Sequence[Timing], wall_s: float, plan: Plan) -> Numbers:
    short = [timing for timing in timings if timing.completion_tokens != plan.output]
    assert not short, f"{len(short)} of {len(timings)} answers do not have {plan.output} tokens"
    spans = [(timing.completion_tokens - 1) / (timing.last_s - timing.first_s) for timing in timings]
    return {
        "output_rate": sum(timing.completion_tokens for timing in timings) / wall_s,
        "decode_rate": median(spans),
        "first_s": median(timing.first_s for timing in timings),
        "prompt_tokens": median(timing.prompt_tokens for timing in timings),
    }


async def measure_restarted(child: Child, plan: Plan, prompts: Prompts, long: list[Prompt]) -> Numbers:
    """Time to first token of the prompts that the system had before it was started again."""
    await _warm_up(child, plan, prompts)
    timings = [(await child.run([prompt], 1))[0] for prompt in long]
    return {"restarted_s": median(timing.first_s for timing in timings)}


async def _long_prompts(child: Child, long: list[Prompt]) -> Numbers:
    """Time to first token of prompts never seen, and of each again."""
    cold, again = [], []
    for prompt in long:
        cold.append((await child.run([prompt], 1))[0])
        again.append((await child.run([prompt], 1))[0])
    return {
        "cold_s": median(timing.first_s for timing in cold),
        "again_s": median(timing.first_s for timing in again),
        "long_prompt_tokens": median(timing.prompt_tokens for timing in cold),
    }


async def _tasks(child: Child, plan: Plan, prompts: Prompts) -> Numbers:
    """Chats, one at a time, answered as far as the model goes: tokens a second after the first, by kind."""
    numbers: Numbers = {}
    for kind in TASKS:
        timings = [(await child.run([prompt], plan.task_output))[0] for prompt in prompts.tasks(kind)]
        tokens = sum(timing.completion_tokens - 1 for timing in timings)
        numbers[f"{kind}_rate"] = tokens / sum(timing.last_s - timing.first_s for timing in timings)
        numbers[f"{kind}_tokens"] = float(tokens)
    return numbers


async def _beside(child: Server, plan: Plan, prompts: Prompts) -> Numbers:
    """What streams notice of a long prompt."""
    long = prompts.make(plan.longest_prompt)
    gaps = await child.gaps_beside([prompts.make(plan.prompt) for _ in range(plan.beside)], long)
    usual, cuts = median(gaps.usual), quantiles(gaps.beside, n=100, method="inclusive")
    return {
        "usual_gap_ms": usual * 1e3,
        "beside_median": median(gaps.beside) / usual,
        "beside_p95": cuts[94] / usual,
        "beside_max": max(gaps.beside) / usual,
        "beside_prompt_s": gaps.prompt_s,
    }


@contextlib.asynccontextmanager
async def _polling(child: Child, latencies: list[float]) -> AsyncIterator[None]:
    assert isinstance(child, Server)
    task = asyncio.ensure_future(poll_health(child.url, HEALTH_EVERY_S, latencies))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _percentiles(latencies: list[float]) -> Numbers:
    if len(latencies) < 2:
        return {}
    cuts = quantiles(latencies, n=100, method="inclusive")
    return {
        "health_p50_ms": cuts[49] * 1e3,
        "health_p99_ms": cuts[98] * 1e3,
        "health_polls": float(len(latencies)),
    }
