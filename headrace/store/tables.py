"""The tables as the newest migration leaves them (see migrations.py)."""

from __future__ import annotations

import json
import zlib

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    TypeDecorator,
    tuple_,
)

from headrace.errors import BadRequest
from headrace.store.records import Order


class Hash(TypeDecorator[str]):
    """A hash: hexadecimal text in Python, bytes in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.hex()


def storable(text: str) -> str:
    """The text with characters replaced that PostgreSQL or SQLite cannot store: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class Name(TypeDecorator[str]):
    """Text from a caller, made storable."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class Texts(TypeDecorator[list[str]]):
    """A list of similar texts, compressed."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> bytes | None:
        return None if value is None else zlib.compress(json.dumps(value).encode())

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> list[str] | None:
        if value is None:
            return None
        texts: list[str] = json.loads(zlib.decompress(value))
        return texts


metadata = MetaData()

# Items form trees. `system`: the nearest system or developer message at or above it.
items = Table(
    "items",
    metadata,
    Column("hash", Hash, primary_key=True),
    Column("owner", Name, nullable=False),
    Column("parent", Hash),
    Column("system", Hash),
    Column("depth", Integer, nullable=False),
    Column("item_id", Name, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

# `added`: microseconds since 1970, the order of lists. `holder` and `token`: the process that has locked it,
# and the lock.
conversations = Table(
    "conversations",
    metadata,
    Column("id", Name, primary_key=True),
    Column("owner", Name, nullable=False),
    Column("added", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("head", Hash),
    Column("holder", Text),
    Column("token", Text),
    Column("metadata", Text, nullable=False),
)

# `process`: the one that generates it. `is_wanted`: false after a request to cancel it. `is_deleted`: deleted
# while it was running, and so hidden.
responses = Table(
    "responses",
    metadata,
    Column("id", Name, primary_key=True),
    Column("owner", Name, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("is_background", Boolean, nullable=False),
    Column("is_streamed", Boolean, nullable=False),
    Column("is_wanted", Boolean, nullable=False),
    Column("is_deleted", Boolean, nullable=False),
    Column("process", Text),
    Column("input_head", Hash),
    Column("output_head", Hash),
    Column("body", Text, nullable=False),
)

# A batch of `count` events of a response's stream; `first`: the sequence_number of the first.
events = Table(
    "events",
    metadata,
    Column("response", Name, primary_key=True),
    Column("first", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    Column("bodies", Texts, nullable=False),
)

completions = Table(
    "completions",
    metadata,
    Column("id", Name, primary_key=True),
    Column("owner", Name, nullable=False),
    Column("added", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("model", Name, nullable=False),
    Column("head", Hash),
    Column("metadata", Text, nullable=False),
    Column("body", Text, nullable=False),
)

# The processes that have the database open. `beat` grows while one is alive: clocks of two machines are never
# compared.
processes = Table(
    "processes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

# API keys. `digest`: the SHA-256 of the secret, which is stored nowhere. `settings`: models, limits and
# rights, as JSON.
keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Hash, nullable=False),
    Column("hint", Text, nullable=False),
    Column("name", Name, nullable=False),
    Column("owner", Name, nullable=False),
    Column("added", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("settings", Text, nullable=False),
)

# What each key has used of each model on each day.
usage = Table(
    "usage",
    metadata,
    Column("key", Name, primary_key=True),
    Column("provider", Name, primary_key=True),
    Column("model", Name, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
)

# The number of the last batch that each process has added to `usage`.
usage_batches = Table(
    "usage_batches",
    metadata,
    Column("process", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

# Heads that no row names any more, and since when (see retention.py).
loose = Table(
    "loose", metadata, Column("head", Hash, primary_key=True), Column("since", BigInteger, nullable=False)
)

profiles = Table(
    "steering_profiles",
    metadata,
    Column("name", Name, primary_key=True),
    Column("model", Name),
    Column("description", Name, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)

# The profile of requests that name none. `owner`: whose; '' of everyone else.
defaults = Table(
    "steering_defaults",
    metadata,
    Column("owner", Name, primary_key=True),
    Column("profile", Name, nullable=False),
)

attachments = Table(
    "steering_attachments",
    metadata,
    Column("id", Name, primary_key=True),
    Column("model", Name, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("path", Name, nullable=False),
    Column("layer", Integer),
    Column("is_attached", Boolean, nullable=False),
    Column("layers", Text),
)

presets = Table(
    "presets",
    metadata,
    Column("name", Name, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)


def cursor_of(
    c: Connection, statement: Select[tuple[object, ...]], table: Table, after: str | None, noun: str
) -> Row[tuple[object, ...]] | None:
    """The row of `statement` with the id `after`, which a page follows; None without one. Raises BadRequest
    (param `after`) if it does not exist. `noun`: what the message calls a row.
    """
    if after is None:
        return None
    cursor = c.execute(statement.where(table.c.id == after)).first()
    if cursor is None:
        raise BadRequest(f"No {noun} with id '{after}' found.", param="after")
    return cursor


def following(
    statement: Select[tuple[object, ...]], table: Table, cursor: Row[tuple[object, ...]] | None, order: Order
) -> Select[tuple[object, ...]]:
    """The rows of a page, by the time at which they were added: those after `cursor`, or all."""
    key = (table.c.added, table.c.id)
    if cursor is not None:
        position, start = tuple_(*key), tuple_(cursor.added, cursor.id)
        statement = statement.where(position < start if order == "desc" else position > start)
    return statement.order_by(*(column.desc() if order == "desc" else column for column in key))
