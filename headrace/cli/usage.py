"""`headrace usage`: what each key has used of each model, by day."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

from headrace.api.authentication import names
from headrace.cli.database import on_database
from headrace.cli.table import print_table
from headrace.config import Config
from headrace.store import UsageRow

BILLION = 10**9
DAY_S = 86_400
HEAD = ("DAY", "KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "ANSWER", "COST")


def usage(config: Config, *, days: int, key: str | None, as_json: bool) -> int:
    """Print the usage of the last days. Raises ConfigError, StoreUnavailable."""
    until = int(time.time() // DAY_S) + 1
    found = on_database(
        config, lambda database: database.usage.rows(since=until - days, until=until, key=key)
    )
    configured = names(config.server)
    rows = [replace(row, name=row.name or configured.get(row.key)) for row in found]
    if as_json:
        print(
            json.dumps([{**asdict(row), "day": _date(row.day), "cost": row.cost / BILLION} for row in rows])
        )
        return 0
    print_table([HEAD, *(_line(row) for row in rows)], right_from=3)
    return 0


def _line(row: UsageRow) -> tuple[str, ...]:
    name = f"{row.key} ({row.name})" if row.name else row.key
    counts = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    model = f"{row.provider}:{row.model}"
    return (_date(row.day), name, model, *(f"{count:,}" for count in counts), f"{row.cost / BILLION:.4f}")


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S))
