"""`headrace db` as an operator runs it."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.store import Store
from tests.cli.process import headrace
from tests.postgres import PostgreSQL


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a conversation in it."""

    async def run() -> None:
        store = Store(StoreConfig(), tmp_path / "data")
        await store.start()
        await store.conversations.create("owner", [{"role": "user", "content": "hi"}], {})
        await store.aclose()

    asyncio.run(run())
    return tmp_path / "data"


def test_from_sqlite_to_postgresql_and_back(data: Path, tmp_path: Path, postgres: PostgreSQL) -> None:
    here, there = {"HEADRACE_DATA": str(data)}, {"DATABASE_URL": postgres.create()}
    done = headrace("db", "export", "all.jsonl", cwd=tmp_path, **here)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert stat.S_IMODE((tmp_path / "all.jsonl").stat().st_mode) == 0o600
    assert headrace("db", "export", cwd=tmp_path, **here).stdout == (tmp_path / "all.jsonl").read_text()
    done = headrace("db", "migrate", cwd=tmp_path, **there)
    assert done.stdout.startswith("applied 1 ("), done.stderr
    done = headrace("db", "import", cwd=tmp_path, text=(tmp_path / "all.jsonl").read_text(), **there)
    assert done.stderr.endswith("imported 2 rows; 0 were there already\n")
    done = headrace("db", "verify", cwd=tmp_path, **there)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.endswith("all is well\n")
    assert headrace("db", "export", cwd=tmp_path, **there).stdout == (tmp_path / "all.jsonl").read_text()


def test_damage_is_an_exit_code(data: Path, tmp_path: Path) -> None:
    with sqlite3.connect(data / "headrace.db") as connection:
        connection.execute("UPDATE items SET body = replace(body, 'hi', 'ho')")
    connection.close()
    done = headrace("db", "verify", cwd=tmp_path, HEADRACE_DATA=str(data))
    assert done.returncode == 1
    assert "its hash is wrong" in done.stdout
    assert done.stderr.endswith(f"{len(done.stdout.splitlines())} problems\n")


def test_prune_reports_what_it_deleted(data: Path, tmp_path: Path) -> None:
    done = headrace("db", "prune", cwd=tmp_path, HEADRACE_DATA=str(data))
    assert (done.returncode, done.stdout) == (0, "removed 0 responses, 0 completions, 0 items\n")
    assert headrace("db", "migrate", cwd=tmp_path, HEADRACE_DATA=str(data)).stdout.startswith("nothing to do")


def test_failures_are_reported(data: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("import", "none.jsonl"), "there is no file none.jsonl"),
        (("import", str(data / "headrace.db")), "line 1 is not JSON"),
        (("export", "no/such/folder.jsonl"), "no/such/folder.jsonl"),
    ):
        done = headrace("db", *arguments, cwd=tmp_path, HEADRACE_DATA=str(data))
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    down = "postgresql://u:secret@127.0.0.1:1/d"
    done = headrace("db", "verify", cwd=tmp_path, DATABASE_URL=down)
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
    assert "secret" not in done.stderr
