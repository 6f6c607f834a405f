"""`headrace usage`: what each key has used of each model, by day."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from headrace.api.authentication import names
from headrace.cli.table import print_table
from headrace.config import Config
from headrace.store import UsageRow

BILLION = 10**9
DAY_S = 86_400
HEAD = ("DAY", "KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "ANSWER", "COST")


def usage(config: Config, *, days: int, key: str | None, as_json: bool) -> int:
    """Print the usage of the last days. Raises ConfigError, StoreUnavailable."""
    until = int(time.time() // DAY_S) + 1
    rows = asyncio.run(_read(config, until - days, until, key))
    configured = names(config.server)
    rows = [replace(row, name=row.name or configured.get(row.key)) for row in rows]
    if as_json:
        print(
            json.dumps([{**asdict(row), "day": _date(row.day), "cost": row.cost / BILLION} for row in rows])
        )
        return 0
    print_table([HEAD, *(_line(row) for row in rows)], right_from=3)
    return 0


async def _read(config: Config, since: int, until: int, key: str | None) -> Sequence[UsageRow]:
    from headrace.store.maintenance import Maintenance  # loads SQLAlchemy, which `--help` does not need

    async with Maintenance(config.store, config.paths.data) as database:
        return await database.usage.rows(since=since, until=until, key=key)


def _line(row: UsageRow) -> tuple[str, ...]:
    name = f"{row.key} ({row.name})" if row.name else row.key
    counts = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    model = f"{row.provider}:{row.model}"
    return (_date(row.day), name, model, *(f"{count:,}" for count in counts), f"{row.cost / BILLION:.4f}")


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S))
