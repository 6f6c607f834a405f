"""What every gateway goes through, and the numbers taken from it.

A number over direct is over the same load straight at the upstream, measured right before.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

from bench.gateways.load import Address, ask, open_stream, streams
from bench.gateways.running import Running
from bench.gateways.upstream import Pace, Upstream
from bench.measure import Numbers
from bench.processes import cpu_s, pss_bytes, rss_bytes

MIB = 2**20
TOKEN_S = 0.02  # a chunk every 20 ms
STALL_S = 0.1
NEVER_S = 2.0  # how long a hang-up may take to reach the upstream before it counts as never
ENOUGH_NEVERS = 2
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. Whatever is counted also ends after its time: a slow gateway does less."""

    latencies: int = 2000
    latency_s: float = 4
    first_words: int = 100
    rate_s: float = 5
    fast_words: int = 2000  # of a stream that is not paced
    fast_streams: int = 5
    paced_streams: int = 16
    paced_words: int = 200
    levels: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    level_words: int = 100
    requests: int = 100_000  # of the memory phase
    memory_s: float = 30
    hangups: int = 10


QUICK = Plan(
    latencies=100, latency_s=2, first_words=10, rate_s=1, fast_words=200, fast_streams=2, paced_streams=4,
    paced_words=25, levels=(1, 8), level_words=25, requests=1000, memory_s=3, hangups=2,
)  # fmt: skip


async def measure(
    running: Running, direct: Address, upstream: Upstream, plan: Plan, memory_s: float
) -> Numbers:
    """One round on a gateway that has just started."""
    address, pid = running.address, running.pid
    numbers: Numbers = {"ready_s": running.ready_s}
    numbers["idle_mib"], numbers["idle_pss_mib"] = rss_bytes(pid) / MIB, pss_bytes(pid) / MIB
    await ask(address, 4, requests=plan.latencies // 4, within_s=plan.latency_s / 2)  # warm
    numbers |= _over(await _latency(direct, upstream, plan), await _latency(address, upstream, plan))
    numbers |= await _rate(address, plan, pid)
    numbers |= await _paced(address, upstream, plan, pid)
    numbers |= _over(await _delay(direct, upstream, plan), await _delay(address, upstream, plan))
    numbers |= await _fast(address, upstream, plan, pid)
    numbers |= await _held(address, upstream, plan)
    numbers |= await _memory(address, plan.requests, memory_s, pid)
    numbers["hangup_stream_ms"] = await _hangup(address, upstream, plan, stream=True)
    numbers["hangup_json_ms"] = await _hangup(address, upstream, plan, stream=False)
    return numbers


async def measure_direct(direct: Address, upstream: Upstream, plan: Plan) -> Numbers:
    """The baseline: what load and upstream take by themselves, on their one core."""
    numbers = await _latency(direct, upstream, plan)
    numbers |= await _rate(direct, plan)
    numbers |= await _delay(direct, upstream, plan)
    numbers |= await _fast(direct, upstream, plan)
    return numbers | await _held(direct, upstream, plan)


def _over(direct: Numbers, gateway: Numbers) -> Numbers:
    """The gateway's, and as added_… what they are over direct."""
    added = {f"added_{name}": gateway[name] - value for name, value in direct.items()}
    return {**gateway, **added}


async def _latency(address: Address, upstream: Upstream, plan: Plan) -> Numbers:
    """Whole answers over one connection, and the first word of streams, each over a new one."""
    took = await ask(address, 1, requests=plan.latencies, within_s=plan.latency_s)
    cuts = quantiles(took, n=100, method="inclusive")
    with upstream.paced(Pace(chunks=2)):
        opened = [(await streams(address, 1, 2))[0] for _ in range(plan.first_words)]
    first = median(one.times[0] - one.began for one in opened)
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "first_ms": first * 1e3}


async def _rate(address: Address, plan: Plan, pid: int | None = None) -> Numbers:
    """Whole answers a second over many connections, and a second of the gateway's CPU time."""
    cpu, began = _cpu(pid), perf_counter()
    took = await ask(address, CONNECTIONS, requests=10**9, within_s=plan.rate_s)
    numbers = {"rate": len(took) / (perf_counter() - began)}
    return numbers | ({} if pid is None else {"rate_per_cpu": len(took) / (_cpu(pid) - cpu)})


async def _paced(address: Address, upstream: Upstream, plan: Plan, pid: int) -> Numbers:
    """CPU time of a chunk that comes by itself, 20 ms after the one before. Opening a stream is in it."""
    cpu = _cpu(pid)
    with upstream.paced(Pace(chunks=plan.paced_words, every_s=TOKEN_S)):
        await streams(address, plan.paced_streams, plan.paced_words)
    return {"chunk_cpu_us": (_cpu(pid) - cpu) * 1e6 / (plan.paced_streams * plan.paced_words)}


async def _delay(address: Address, upstream: Upstream, plan: Plan) -> Numbers:
    """From the upstream's writing a paced chunk to the client's reading it: one stream."""
    with upstream.paced(Pace(chunks=plan.level_words, every_s=TOKEN_S)):
        (stream,) = await streams(address, 1, plan.level_words)
        sent = upstream.sent
    delays = [stream.times[bisect(stream.times, at)] - at for at in sent]  # what was read next after it
    return {"chunk_ms": median(delays) * 1e3}


async def _fast(address: Address, upstream: Upstream, plan: Plan, pid: int | None = None) -> Numbers:
    """Time and CPU time of a chunk of one stream whose chunks come as fast as they are read."""
    cpu = _cpu(pid)
    with upstream.paced(Pace(chunks=plan.fast_words)):
        opened = [(await streams(address, 1, plan.fast_words))[0] for _ in range(plan.fast_streams)]
    spent = median(one.times[-1] - one.times[0] for one in opened)
    numbers = {"fast_chunk_us": spent * 1e6 / (plan.fast_words - 1)}
    if pid is not None:
        numbers["fast_chunk_cpu_us"] = (_cpu(pid) - cpu) * 1e6 / (plan.fast_words * plan.fast_streams)
    return numbers


async def _held(address: Address, upstream: Upstream, plan: Plan) -> Numbers:
    """The most paced streams at once without a gap that is a stall. A level has two chances."""
    held, gap = 0, 0.0
    with upstream.paced(Pace(chunks=plan.level_words, every_s=TOKEN_S)):
        for level in plan.levels:
            gap = await _worst_gap(address, level, plan)
            if gap > STALL_S:
                gap = await _worst_gap(address, level, plan)
            if gap > STALL_S:
                break
            held = level
    return {"held": float(held), "last_gap_ms": gap * 1e3}


async def _worst_gap(address: Address, count: int, plan: Plan) -> float:
    return max(one.worst_gap for one in await streams(address, count, plan.level_words))


async def _memory(address: Address, requests: int, within_s: float, pid: int) -> Numbers:
    """What is resident after many whole answers, and by how much it grew over the last half of them."""
    samples: list[float] = []
    sampler = asyncio.ensure_future(_sample(pid, samples))
    try:
        took = await ask(address, CONNECTIONS, requests=requests, within_s=within_s)
    finally:
        sampler.cancel()
    half = samples[len(samples) // 2 :] or [rss_bytes(pid) / MIB]
    few = max(1, len(half) // 5)
    return {
        "requests": float(len(took)),
        "after_mib": rss_bytes(pid) / MIB,
        "after_pss_mib": pss_bytes(pid) / MIB,
        "growth_mib": median(half[-few:]) - median(half[:few]),
    }


async def _sample(pid: int, samples: list[float]) -> None:
    while True:
        samples.append(rss_bytes(pid) / MIB)
        await asyncio.sleep(0.25)


async def _hangup(address: Address, upstream: Upstream, plan: Plan, *, stream: bool) -> float:
    """Milliseconds from a client's hang-up to the upstream's seeing it; the median, infinity: never."""
    pace = Pace(chunks=int(NEVER_S / TOKEN_S) * 3, every_s=TOKEN_S) if stream else Pace(opening_s=2 * NEVER_S)
    took: list[float] = []
    with upstream.paced(pace):
        while len(took) < plan.hangups and took.count(math.inf) < ENOUGH_NEVERS:
            took.append(await _one_hangup(address, upstream, stream=stream))
    return median(took) * 1e3


async def _one_hangup(address: Address, upstream: Upstream, *, stream: bool) -> float:
    with upstream.watched():
        client = await open_stream(address, stream=stream)
        async with asyncio.timeout(NEVER_S):
            visit = await upstream.visits.get()
    if stream:
        await client.started
    left = client.leave()
    try:
        return await asyncio.wait_for(visit.closed, NEVER_S) - left
    except TimeoutError:
        return math.inf


def _cpu(pid: int | None) -> float:
    return 0.0 if pid is None else cpu_s(pid)
