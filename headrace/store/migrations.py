"""The schema's numbered migrations. Each is applied once, in a transaction of its own. A released migration
is never changed; a change of the schema is a new one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, Text, insert, select, text

from headrace.errors import ConfigError

APPLIED = Table(
    "migrations",
    MetaData(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("applied_at", BigInteger, nullable=False),
)
LOCK = 0x68656164  # the advisory lock of servers that migrate one PostgreSQL database


@dataclass(frozen=True, slots=True)
class Migration:
    """`statements`: SQL for both databases; `{bytes}` stands for their type of bytes."""

    number: int
    name: str
    statements: Sequence[str]


MIGRATIONS = (
    Migration(
        1,
        "items, conversations, responses, completions",
        (
            """CREATE TABLE items (
                hash {bytes} NOT NULL PRIMARY KEY,
                owner TEXT NOT NULL,
                parent {bytes} REFERENCES items (hash),
                system {bytes},
                depth INTEGER NOT NULL,
                item_id TEXT NOT NULL,
                created_at BIGINT NOT NULL,
                body TEXT NOT NULL)""",
            "CREATE INDEX items_parent ON items (parent)",
            "CREATE INDEX items_item_id ON items (item_id)",
            """CREATE TABLE conversations (
                id TEXT NOT NULL PRIMARY KEY,
                owner TEXT NOT NULL,
                added BIGINT NOT NULL,
                used_at BIGINT NOT NULL,
                head {bytes} REFERENCES items (hash),
                holder TEXT,
                token TEXT,
                metadata TEXT NOT NULL)""",
            "CREATE INDEX conversations_added ON conversations (owner, added)",
            "CREATE INDEX conversations_head ON conversations (head)",
            "CREATE INDEX conversations_holder ON conversations (holder) WHERE holder IS NOT NULL",
            """CREATE TABLE responses (
                id TEXT NOT NULL PRIMARY KEY,
                owner TEXT NOT NULL,
                created_at BIGINT NOT NULL,
                status TEXT NOT NULL,
                is_background BOOLEAN NOT NULL,
                is_streamed BOOLEAN NOT NULL,
                is_wanted BOOLEAN NOT NULL,
                is_deleted BOOLEAN NOT NULL,
                process TEXT,
                input_head {bytes} REFERENCES items (hash),
                output_head {bytes} REFERENCES items (hash),
                body TEXT NOT NULL)""",
            "CREATE INDEX responses_created_at ON responses (created_at)",
            "CREATE INDEX responses_input_head ON responses (input_head)",
            "CREATE INDEX responses_output_head ON responses (output_head)",
            "CREATE INDEX responses_process ON responses (process) WHERE process IS NOT NULL",
            """CREATE TABLE events (
                response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
                first INTEGER NOT NULL,
                count INTEGER NOT NULL,
                bodies {bytes} NOT NULL,
                PRIMARY KEY (response, first))""",
            """CREATE TABLE completions (
                id TEXT NOT NULL PRIMARY KEY,
                owner TEXT NOT NULL,
                added BIGINT NOT NULL,
                created_at BIGINT NOT NULL,
                model TEXT NOT NULL,
                head {bytes} REFERENCES items (hash),
                metadata TEXT NOT NULL,
                body TEXT NOT NULL)""",
            "CREATE INDEX completions_added ON completions (owner, added)",
            "CREATE INDEX completions_created_at ON completions (created_at)",
            "CREATE INDEX completions_head ON completions (head)",
            """CREATE TABLE processes (
                id TEXT NOT NULL PRIMARY KEY,
                host TEXT NOT NULL,
                pid INTEGER NOT NULL,
                started BIGINT NOT NULL,
                beat BIGINT NOT NULL)""",
            """CREATE TABLE loose (
                head {bytes} NOT NULL PRIMARY KEY,
                since BIGINT NOT NULL)""",
        ),
    ),
    Migration(
        2,
        "keys, usage",
        (
            """CREATE TABLE keys (
                id TEXT NOT NULL PRIMARY KEY,
                digest {bytes} NOT NULL UNIQUE,
                hint TEXT NOT NULL,
                name TEXT NOT NULL,
                owner TEXT NOT NULL,
                added BIGINT NOT NULL,
                expires_at BIGINT,
                revoked_at BIGINT,
                settings TEXT NOT NULL)""",
            """CREATE TABLE usage (
                key TEXT NOT NULL,
                provider TEXT NOT NULL,
                model TEXT NOT NULL,
                day INTEGER NOT NULL,
                requests BIGINT NOT NULL,
                prompt_tokens BIGINT NOT NULL,
                completion_tokens BIGINT NOT NULL,
                cached_tokens BIGINT NOT NULL,
                cost BIGINT NOT NULL,
                PRIMARY KEY (key, provider, model, day))""",
            "CREATE INDEX usage_day ON usage (day)",
            """CREATE TABLE usage_batches (
                process TEXT NOT NULL PRIMARY KEY,
                number BIGINT NOT NULL)""",
        ),
    ),
    Migration(
        3,
        "steering",
        (
            """CREATE TABLE steering_profiles (
                name TEXT NOT NULL PRIMARY KEY,
                model TEXT,
                description TEXT NOT NULL,
                body TEXT NOT NULL,
                created_at BIGINT NOT NULL,
                changed_at BIGINT NOT NULL)""",
            """CREATE TABLE steering_defaults (
                owner TEXT NOT NULL PRIMARY KEY,
                profile TEXT NOT NULL REFERENCES steering_profiles (name) ON DELETE CASCADE)""",
            """CREATE TABLE steering_attachments (
                id TEXT NOT NULL,
                model TEXT NOT NULL,
                kind TEXT NOT NULL,
                path TEXT NOT NULL,
                layer INTEGER,
                is_attached BOOLEAN NOT NULL,
                PRIMARY KEY (id, model))""",
        ),
    ),
    Migration(
        4,
        "presets",
        (
            """CREATE TABLE presets (
                name TEXT NOT NULL PRIMARY KEY,
                body TEXT NOT NULL,
                created_at BIGINT NOT NULL)""",
        ),
    ),
    Migration(5, "search", ("CREATE INDEX items_owner ON items (owner, created_at)",)),
    Migration(6, "layers", ("ALTER TABLE steering_attachments ADD COLUMN layers TEXT",)),
)


def migrate(c: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> Migration | None:
    """Apply the next migration and return it; None if all are applied. Raises ConfigError if the database's
    schema is newer than the newest of `migrations`.
    """
    if c.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        c.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    APPLIED.create(c, checkfirst=True)
    applied = set(c.scalars(select(APPLIED.c.number)))
    newest = max(applied, default=0)
    known = max(migration.number for migration in migrations)
    if newest > known:
        raise ConfigError(
            f"the database has schema {newest}, and this version of Headrace knows {known}: "
            "use the version that wrote it, or a newer one"
        )
    step = next((migration for migration in migrations if migration.number not in applied), None)
    if step is not None:
        _apply(c, step)
    return step


def _apply(c: Connection, step: Migration) -> None:
    kind = "BYTEA" if c.dialect.name == "postgresql" else "BLOB"
    for statement in step.statements:
        c.exec_driver_sql(statement.format(bytes=kind))
    c.execute(insert(APPLIED).values(number=step.number, name=step.name, applied_at=int(time.time())))
