"""`headrace db`: commands by which an operator maintains the database."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from headrace.cli.terminal import ProgressBar
from headrace.config import Config, Loaded
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.store.maintenance import Maintenance

WRONG = 1  # verify's exit code if there are problems

T = TypeVar("T")


def on_database(config: Config, work: Callable[[Maintenance], Awaitable[T]]) -> T:
    """Run work on the database, with or without a server that runs, and return its result. Raises
    ConfigError, StoreUnavailable, and what work raises.
    """
    from headrace.store.maintenance import Maintenance  # loads SQLAlchemy, which `--help` does not need

    async def run() -> T:
        async with Maintenance(config.store, config.paths.data) as database:
            return await work(database)

    return asyncio.run(run())


def verify(arguments: argparse.Namespace, loaded: Loaded) -> int:
    with closing(ProgressBar(is_bytes=False)) as bar:
        problems = on_database(
            loaded.config, lambda database: database.verify(lambda n, of: bar("verifying", n, of))
        )
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "all is well", file=sys.stderr)
    return WRONG if problems else 0


def migrate(arguments: argparse.Namespace, loaded: Loaded) -> int:
    async def applied(database: Maintenance) -> list[str]:
        return database.applied

    steps = on_database(loaded.config, applied)
    print("\n".join(f"applied {step}" for step in steps) or "nothing to do: the schema is the newest")
    return 0


def prune(arguments: argparse.Namespace, loaded: Loaded) -> int:
    gone = on_database(loaded.config, lambda database: database.prune())
    print("removed " + ", ".join(f"{count} {name}" for name, count in gone.items()))
    return 0


def export(arguments: argparse.Namespace, loaded: Loaded) -> int:
    with closing(ProgressBar(is_bytes=False)) as bar, _writing(arguments.target) as file:
        count = on_database(
            loaded.config,
            lambda database: database.write_to(file.write, lambda n, of: bar("exporting", n, of)),
        )
    print(f"exported {count} rows", file=sys.stderr)
    return 0


def import_(arguments: argparse.Namespace, loaded: Loaded) -> int:
    with closing(ProgressBar(is_bytes=False)) as bar, _reading(arguments.source) as file:
        counts = on_database(
            loaded.config, lambda database: database.read_from(file, lambda n: bar("importing", n, 0))
        )
    print(f"imported {counts.num_new} rows; {counts.num_known} were there already", file=sys.stderr)
    return 0


@contextmanager
def _writing(target: str) -> Iterator[TextIO]:
    """Open standard output, or a file that only its owner may read. The file replaces an older one only once
    it is complete.
    """
    if target == "-":
        yield sys.stdout
        return
    part = Path(f"{target}.part")
    opened = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        with open(opened, "w", encoding="utf-8") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _reading(source: str) -> Iterator[TextIO]:
    is_file = source != "-"
    try:
        file = open(  # noqa: SIM115  # closed below
            source if is_file else 0, encoding="utf-8", errors="replace", closefd=is_file
        )
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no file {source}") from exc
    with file:
        yield file
