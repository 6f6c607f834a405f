"""The tables as the newest migration leaves them. What they are is said here; how they came to be, in
migrations.py.
"""

from __future__ import annotations

import json
import zlib

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)


class Hash(TypeDecorator[str]):
    """Hexadecimal here, bytes there."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.hex()


def plain(text: str) -> str:
    """As both databases can keep it."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class Name(TypeDecorator[str]):
    """Text that may come from a caller: what a database cannot keep in text is another sign there."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain(value)


class Texts(TypeDecorator[list[str]]):
    """A list of texts that are much alike, small."""

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

# `added`: microseconds since 1970, the order of lists. `holder` and `token`: which process holds it, and
# for whom.
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

# `process`: which one makes it. `is_wanted`: false once it shall stop. `is_deleted`: gone, though it still
# runs.
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

# `count` events of a response's stream, from the number `first` on.
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

# The servers that have the database open. `beat` grows while one is alive; no clock of another machine is
# believed.
processes = Table(
    "processes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

# Heads that were let go of: what they name is kept a while, for turns that were asked on it.
loose = Table(
    "loose",
    metadata,
    Column("head", Hash, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
