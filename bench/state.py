"""What keeping a turn costs: latency over a stateless one, time per token, turns a second, bytes on the disk,
and the window of a long conversation; on SQLite, and on a PostgreSQL of its own where one is installed.

    python -m bench.state [--quick]

The model is a script, so that nothing but the server is measured. A turn that is kept takes turns with one
that is not: a busy machine hurts both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a file: python bench/state.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.children.scripted import MODELS, running
from bench.turns import PAIRS, Caller, ChatInConversation, NextResponse, Response, Way
from headrace.config import StoreConfig
from headrace.store import Store
from headrace.turns.chat import ITEMS_PER_MESSAGE
from tests.postgres import postgresql

CLIENTS = 32
LONG, BATCH = 2000, 20  # items of the long conversation, and of what it is made by
WINDOW = 20  # messages


@dataclass(frozen=True, slots=True)
class Plan:
    turns: int = 300  # of each way
    streams: int = 20
    load_s: float = 4.0
    kept: int = 1000  # turns whose size is taken


@dataclass(frozen=True, slots=True)
class Place:
    """A database. `limit_ms`: what a kept turn may add, p50."""

    name: str
    url: str
    limit_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `limit`: at most; None: no target."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    remark: str = ""

    @property
    def verdict(self) -> str:
        return "" if self.limit is None else ("met" if self.value <= self.limit else "missed")


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    arguments.add_argument(
        "--quick", action="store_true", help="does it run at all; its numbers mean nothing"
    )
    arguments.add_argument("--json", type=Path, help="write the numbers there, too")
    options = arguments.parse_args()
    plan = Plan(turns=20, streams=2, load_s=0.5, kept=50) if options.quick else Plan()
    rows: dict[str, list[Row]] = {}
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        print(f"one fsync here takes {fsync_ms(folder):.2f} ms (p50)")
        places = [Place("SQLite", "", 3.0)]
        places.append(Place("PostgreSQL", exits.enter_context(postgresql(is_durable=True)).create(), 5.0))
        for place in places:
            rows[place.name] = asyncio.run(measure(place, plan, folder))
            print("\n" + table(place.name, rows[place.name]), flush=True)
    if options.json:
        told = {name: [asdict(row) for row in found] for name, found in rows.items()}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


async def measure(place: Place, plan: Plan, folder: Path) -> list[Row]:
    with running(folder, place.url) as port:
        latencies = await added(port, plan, place)
        tokens = [await per_token(port, plan, kept, plain) for kept, plain in STREAMED]
        rates = [await rate(port, plan, kind, count) for kind in RATED for count in (1, CLIENTS)]
        sizes = [await size(port, plan, place, folder, kind, is_streamed) for kind, is_streamed in SIZED]
    return [*latencies, *tokens, *rates, *sizes, *await window(place, folder)]


async def added(port: int, plan: Plan, place: Place) -> list[Row]:
    """Milliseconds that a kept turn takes longer than one that is not."""
    caller = await Caller.to(port)
    ways = {kind: kind(caller) for pair in PAIRS for kind in pair}
    took: dict[type[Way], list[float]] = {kind: [] for kind in ways}
    for number in range(plan.turns + 20):
        for kind, way in ways.items():
            one = await way.turn()
            if number >= 20:  # warm
                took[kind].append(1e3 * one.whole_s)
    caller.close()
    rows = [Row(f"{k.name}", statistics.median(took[k]), "ms") for k in (Way, Response)]
    for kept, plain in PAIRS:
        more = [mine - other for mine, other in zip(took[kept], took[plain], strict=True)]
        tail = p99(took[kept]) - p99(took[plain])
        added_ms = statistics.median(more)
        rows.append(Row(f"{kept.name}, added", added_ms, "ms", place.limit_ms, f"p99 {tail:+.1f} ms"))
    return rows


# how much slower tokens may come, and what is compared
SLOWER = 1.05
STREAMED: tuple[tuple[type[Way], type[Way]], ...] = ((ChatInConversation, Way), (NextResponse, Response))


async def per_token(port: int, plan: Plan, kept: type[Way], plain: type[Way]) -> Row:
    """The ratio of the time between tokens, from a model that takes no time itself."""
    caller = await Caller.to(port)
    ways = [kind(caller, "stream", is_streamed=True) for kind in (kept, plain)]
    pairs = [[await way.turn() for way in ways] for _ in range(plan.streams)]
    caller.close()
    mine, other = (statistics.median(pair[i].tokens_s for pair in pairs) for i in (0, 1))
    ratio = statistics.median(pair[0].tokens_s / pair[1].tokens_s for pair in pairs)
    per = 1e6 / MODELS["stream"]
    return Row(
        f"{kept.name}, time per token", ratio, "x", SLOWER, f"{mine * per:.1f} and {other * per:.1f} µs"
    )


RATED: tuple[type[Way], ...] = (Way, ChatInConversation, Response, NextResponse)


async def rate(port: int, plan: Plan, kind: type[Way], count: int) -> Row:
    """Turns a second of so many clients."""
    ways = [kind(await Caller.to(port)) for _ in range(count)]
    started = time.perf_counter()

    async def ask(way: Way) -> int:
        turns = 0
        while time.perf_counter() - started < plan.load_s:
            await way.turn()
            turns += 1
        return turns

    total = sum(await asyncio.gather(*map(ask, ways)))
    clients = "1 client" if count == 1 else f"{count} clients"
    return Row(f"{kind.name}, {clients}", total / (time.perf_counter() - started), "turns/s")


SIZED: tuple[tuple[type[Way], bool], ...] = (
    (ChatInConversation, False),
    (NextResponse, False),
    (NextResponse, True),
)


async def size(port: int, plan: Plan, place: Place, folder: Path, kind: type[Way], is_streamed: bool) -> Row:
    """Of 1,000 turns with a question of 100 characters and an answer of 400."""
    before = await num_bytes(place, folder)
    ways = [kind(await Caller.to(port), "paragraph", is_streamed=is_streamed) for _ in range(8)]

    async def ask(way: Way) -> None:
        for _ in range(plan.kept // 8):
            await way.turn()

    await asyncio.gather(*map(ask, ways))
    grown = await num_bytes(place, folder) - before
    shown = ", streamed" if is_streamed else ""
    return Row(f"1,000 × {kind.name}{shown}", grown / (plan.kept // 8 * 8) * 1000 / 2**20, "MiB")


async def num_bytes(place: Place, folder: Path) -> int:
    if place.url:
        import asyncpg  # type: ignore[import-untyped]  # it has no types

        connection = await asyncpg.connect(place.url)
        found: int = await connection.fetchval("SELECT pg_database_size(current_database())")
        await connection.close()
        return found
    with sqlite3.connect(folder / "headrace.db") as database:
        pages, page = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
    database.close()
    return int(pages) * int(page)


async def window(place: Place, folder: Path) -> list[Row]:
    """What a chat reads of a conversation of 2,000 items."""
    store = Store(StoreConfig(url=place.url), folder)
    await store.start()
    made = await store.conversations.create("bench", [], {})
    for start in range(0, LONG, BATCH):
        items = [_item(number) for number in range(start, start + BATCH)]
        await store.conversations.append("bench", made.id, items)
    head = (await store.conversations.get("bench", made.id)).head
    took = []
    for _ in range(200):
        started = time.perf_counter()
        before, last = await store.items.window("bench", head, ITEMS_PER_MESSAGE * (WINDOW + 1))
        took.append(1e3 * (time.perf_counter() - started))
        assert (len(before), len(last)) == (1, ITEMS_PER_MESSAGE * (WINDOW + 1))
    await store.aclose()
    name = f"window of a conversation of {LONG:,} items"
    return [Row(name, statistics.median(took), "ms", 5.0, f"p99 {p99(took):.1f} ms")]


def _item(number: int) -> dict[str, object]:
    role = "system" if number == 0 else ("user", "assistant")[number % 2]
    kind = "output_text" if role == "assistant" else "input_text"
    part = {"type": kind, "text": f"{number}: " + "water " * 30}
    return {"type": "message", "role": role, "status": "completed", "content": [part]}


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def fsync_ms(folder: Path) -> float:
    """What the disk takes at least for what it shall not forget."""
    took = []
    with (folder / "probe").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(1e3 * (time.perf_counter() - started))
    return statistics.median(took)


def table(name: str, rows: Sequence[Row]) -> str:
    lines = [f"| {name} | measured | target | | |", "|---|--:|--:|---|---|"]
    for row in rows:
        limit = "" if row.limit is None else f"≤ {row.limit:g} {row.unit}"
        shown = f"{row.value:.0f}" if row.value >= 100 else f"{row.value:.2f}"
        lines.append(f"| {row.name} | {shown} {row.unit} | {limit} | {row.verdict} | {row.remark} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
