"""`headrace keys`: API keys in the store, with or without a server that runs. `headrace usage`: what each key
has used of each model, by day.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from headrace.cli.db import on_database
from headrace.cli.numbers import count
from headrace.cli.terminal import print_table
from headrace.config import Config, Loaded
from headrace.errors import ServerError
from headrace.store import StoredKey, UsageRow
from headrace.wire.keys import KeyBody, changed
from headrace.wire.parameters import parse

if TYPE_CHECKING:
    from headrace.store.keys import Keys, UsageCounts

FAILED = 1
PAGE = 100
UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
LIMITS = {  # flag → what it limits
    "requests-per-minute": "requests in any 60 seconds",
    "tokens-per-minute": "tokens of prompts and answers in any 60 seconds",
    "concurrent-requests": "requests at once",
    "total-tokens": "tokens in the key's whole life",
}
BILLION = 10**9
DAY_S = 86_400
USAGE_HEAD = ("DAY", "KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "ANSWER", "COST")


def add_options(create: argparse.ArgumentParser) -> None:
    """The options of `keys create`."""
    create.add_argument("--name", required=True, help="what it is for, as `laptop` or `nightly evaluation`")
    create.add_argument("--owner", default="", help="whose it is")
    create.add_argument(
        "--allow-model", action="append", default=[], metavar="MODEL",
        help="a model that it may use, NAME* for all that begin so; repeatable. Default: all",
    )  # fmt: skip
    create.add_argument("--expires-in", type=_duration, metavar="TIME", help="as 12h, 30d or 8w")
    for name, text in LIMITS.items():
        create.add_argument(f"--{name}", type=count, metavar="N", help=f"limit: {text}")
    create.add_argument(
        "--total-cost",
        type=float,
        metavar="COST",
        help="limit: what its whole life may cost, by the configured prices",
    )
    create.add_argument(
        "--may-hurry", action="store_true", help="its requests' `priority` may put them before others'"
    )


def create(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Make a key with what `POST /v1/admin/keys` would accept."""

    def work() -> None:
        limits = {name: getattr(arguments, name.replace("-", "_")) for name in (*LIMITS, "total-cost")}
        expires_in = arguments.expires_in
        body = {
            "name": arguments.name, "owner": arguments.owner, "models": arguments.allow_model,
            "expires_at": None if expires_in is None else int(time.time()) + expires_in,
            "limits": {name.replace("-", "_"): limit for name, limit in limits.items()},
            "may_hurry": arguments.may_hurry,
        }  # fmt: skip
        checked = parse(KeyBody, json.dumps(body, ensure_ascii=False).encode())
        key = changed(StoredKey("", "", "", "", 0), checked)
        _show_secret(loaded.config, *on_database(loaded.config, lambda database: database.keys.create(key)))

    return _reported(work)


def rotate(arguments: argparse.Namespace, loaded: Loaded) -> int:
    def work() -> None:
        rotated = on_database(loaded.config, lambda database: database.keys.rotate(arguments.id))
        _show_secret(loaded.config, *rotated)

    return _reported(work)


def revoke(arguments: argparse.Namespace, loaded: Loaded) -> int:
    def work() -> None:
        key = on_database(loaded.config, lambda database: database.keys.revoke(arguments.id))
        print(f"revoked {key.id} ({key.name}); running servers refuse it within seconds")

    return _reported(work)


def list_keys(arguments: argparse.Namespace, loaded: Loaded) -> int:
    rows: list[tuple[str, ...]] = [("ID", "KEY", "NAME", "OWNER", "STATE", "MODELS", "LIMITS")]
    rows += [_row(key) for key in on_database(loaded.config, lambda database: all_keys(database.keys))]
    print_table(rows)
    return 0


async def all_keys(keys: Keys) -> list[StoredKey]:
    """Every key, the newest first."""
    every: list[StoredKey] = []
    has_more = True
    while has_more:
        page = await keys.page(limit=PAGE, after=every[-1].id if every else None)
        every += page.data
        has_more = page.has_more
    return every


def _row(key: StoredKey) -> tuple[str, ...]:
    state = "valid"
    if key.revoked_at is not None:
        state = "revoked"
    elif not key.is_valid(time.time()):
        state = "expired"
    elif key.expires_at is not None:
        state = f"until {time.strftime('%Y-%m-%d', time.gmtime(key.expires_at))}"
    limits = [
        f"{getattr(key.limits, name):g} {name.replace('_', ' ')}"
        for name in (*(name.replace("-", "_") for name in LIMITS), "total_cost")
        if getattr(key.limits, name) is not None
    ]
    return (
        key.id, key.hint, key.name, key.owner or "-", state, ", ".join(key.models) or "all",
        ", ".join(limits) or "none",
    )  # fmt: skip


def _show_secret(config: Config, key: StoredKey, secret: str) -> None:
    print(secret)
    print(f"{key.id} ({key.name}). The key above is shown once: keep it now.", file=sys.stderr)
    if not config.server.takes_stored_keys:
        print("A server takes it when it is started with --require-auth or --admin-key.", file=sys.stderr)


def _reported(work: Callable[[], None]) -> int:
    try:
        work()
    except ServerError as exc:
        print(f"headrace: {exc.message}", file=sys.stderr)
        return FAILED
    return 0


def _duration(text: str) -> int:
    """Seconds."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 12h, 30d or 8w")
    return int(match[1]) * UNITS[match[2]]


def usage(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Print the usage of the last days. Raises ConfigError, StoreUnavailable."""
    from headrace.api.authentication import names  # loads FastAPI, which `--help` does not need

    until = int(time.time() // DAY_S) + 1
    since = max(0, until - arguments.days)
    usage_rows = on_database(
        loaded.config, lambda database: all_usage(database.usage, since, until, arguments.key)
    )
    configured = names(loaded.config.server)
    rows = [replace(row, name=row.name or configured.get(row.key)) for row in usage_rows]
    if arguments.json:
        print(
            json.dumps([{**asdict(row), "day": _date(row.day), "cost": row.cost / BILLION} for row in rows])
        )
        return 0
    print_table([USAGE_HEAD, *(_line(row) for row in rows)], right_from=3)
    return 0


async def all_usage(usage: UsageCounts, since: int, until: int, key: str | None) -> list[UsageRow]:
    """Every row of the days from `since` to before `until` (days since 1970), the newest first."""
    found: list[UsageRow] = []
    has_more = True
    while has_more:
        page = await usage.page(since=since, until=found[-1].day if found else until, key=key)
        found += page.data
        has_more = page.has_more
    return found


def _line(row: UsageRow) -> tuple[str, ...]:
    name = f"{row.key} ({row.name})" if row.name else row.key
    counts = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    model = f"{row.provider}:{row.model}"
    return (_date(row.day), name, model, *(f"{count:,}" for count in counts), f"{row.cost / BILLION:.4f}")


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY_S))
