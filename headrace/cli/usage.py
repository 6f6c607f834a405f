"""`headrace usage`: what each key has used of each model, by day."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from headrace.cli.table import print_table
from headrace.config import Config
from headrace.store import StoredKey, UsageRow

BILLION = 10**9
DAY_S = 86_400
HEAD = ("DAY", "KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "ANSWER", "COST")


def usage(config: Config, *, days: int, key: str | None, as_json: bool) -> int:
    """Print the usage of the last days. Raises ConfigError, StoreUnavailable."""
    until = int(time.time() // DAY_S) + 1
    rows, names = asyncio.run(_read(config, until - days, until, key))
    if as_json:
        print(
            json.dumps([{**asdict(row), "day": _date(row.day), "cost": row.cost / BILLION} for row in rows])
        )
        return 0
    print_table([HEAD, *(_line(row, names) for row in rows)], right_from=3)
    return 0


async def _read(
    config: Config, since: int, until: int, key: str | None
) -> tuple[Sequence[UsageRow], dict[str, str]]:
    """The rows, and the names of keys by their ids."""
    from headrace.cli.keys import all_keys
    from headrace.store.maintenance import Maintenance  # loads SQLAlchemy, which `--help` does not need

    async with Maintenance(config.store, config.paths.data) as database:
        keys: list[StoredKey] = await all_keys(database.keys)
        rows = await database.usage.rows(since=since, until=until, key=key)
        return rows, {found.id: found.name for found in keys}


def _line(row: UsageRow, names: dict[str, str]) -> tuple[str, ...]:
    name = f"{row.key} ({names[row.key]})" if row.key in names else row.key
    counts = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    model = f"{row.provider}:{row.model}"
    return (_date(row.day), name, model, *(f"{count:,}" for count in counts), f"{row.cost / BILLION:.4f}")


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S))
