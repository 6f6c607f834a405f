"""Finds conversations by what was said in them, and by their title, which their metadata may have.

The database looks for each word in the owner's newest items, as far as it can: their bodies are JSON, and
SQLite ignores the case of ASCII letters only. Python then looks whether the item's texts have the word. From
the items that do, the way leads down their tree to the heads of conversations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, bindparam, func, select

from headrace.store.database import computed
from headrace.store.records import Json
from headrace.store.tables import conversations, items

MAX_ITEMS = 20_000  # the newest that may have a word; older ones are not searched for it
MAX_BYTES = 64 * 2**20  # of their bodies
BATCH_BYTES = 2**20
BATCH = 500  # hashes in a statement
TITLE = "title"
TEXTS = frozenset({"text", "refusal", "arguments", "output", "content"})

MAYBE = (
    select(items.c.hash, func.length(items.c.body).label("size"))
    .where(items.c.owner == bindparam("owner"), items.c.body.ilike(bindparam("pattern"), escape="\\"))
    .order_by(items.c.created_at.desc())
    .limit(MAX_ITEMS)
)
BODIES = select(items.c.hash, items.c.parent, items.c.body).where(
    items.c.hash.in_(bindparam("hashes", expanding=True))
)
METADATA = select(conversations.c.id, conversations.c.metadata).where(
    conversations.c.owner == bindparam("owner"),
    conversations.c.metadata.ilike(bindparam("pattern"), escape="\\"),
)
_FIRST = select(items.c.hash).where(items.c.hash.in_(bindparam("hashes", expanding=True)))
_BELOW = _FIRST.cte("below", recursive=True)
BELOW = _BELOW.union(select(items.c.hash).where(items.c.parent == _BELOW.c.hash))
HEADS = select(conversations.c.id).where(
    conversations.c.owner == bindparam("owner"), conversations.c.head.in_(select(BELOW.c.hash))
)


def words_of(text: str) -> list[str]:
    """The words to look for."""
    return list(dict.fromkeys(text.split()))


def find_conversations(c: Connection, owner: str, words: Sequence[str]) -> set[str]:
    """The ids of the owner's conversations that have each of the words somewhere, in whatever case."""
    ids: set[str] | None = None
    for word in words:
        having = _titled(c, owner, word) | _having(c, owner, word)
        ids = having if ids is None else ids & having
        if not ids:
            break
    return ids or set()


def _titled(c: Connection, owner: str, word: str) -> set[str]:
    rows = c.execute(METADATA, {"owner": owner, "pattern": _pattern(word)}).all()
    return {row.id for row in rows if word.casefold() in json.loads(row.metadata).get(TITLE, "").casefold()}


def _having(c: Connection, owner: str, word: str) -> set[str]:
    parents = {hash: parent for batch in _batches(c, owner, word) for hash, parent in _read(c, batch, word)}
    hashes = [hash for hash, parent in parents.items() if parent not in parents]  # these lead to the others
    ids: set[str] = set()
    for start in range(0, len(hashes), BATCH):
        ids.update(c.scalars(HEADS, {"owner": owner, "hashes": hashes[start : start + BATCH]}))
    return ids


def _batches(c: Connection, owner: str, word: str) -> Iterator[list[str]]:
    """The hashes of items that may have the word, so many at once as are read at once."""
    batch: list[str] = []
    read = size = 0
    for row in c.execute(MAYBE, {"owner": owner, "pattern": _pattern(word)}).all():
        if batch and (size + row.size > BATCH_BYTES or len(batch) == BATCH):
            yield batch
            batch, size = [], 0
        read += row.size
        if read > MAX_BYTES:
            break
        batch.append(row.hash)
        size += row.size
    if batch:
        yield batch


def _read(c: Connection, hashes: Sequence[str], word: str) -> list[tuple[str, str | None]]:
    """Find the items whose texts have the word, with their parents."""
    rows = c.execute(BODIES, {"hashes": hashes}).all()
    size = sum(len(row.body) for row in rows)
    return computed(
        c, size, lambda: [(row.hash, row.parent) for row in rows if _has(json.loads(row.body), word)]
    )


def _has(body: Json, word: str) -> bool:
    return any(word.casefold() in text.casefold() for text in _texts(body))


def _texts(value: object, name: str = "") -> Iterator[str]:
    """The strings below a value that are members of TEXTS."""
    if isinstance(value, str):
        if name in TEXTS:
            yield value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _texts(member, key)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member, name)


def _pattern(word: str) -> str:
    """The word as a pattern of LIKE: its letters and digits. Any text may stand for other characters, which
    JSON may escape, and for letters whose case SQLite does not know.
    """
    return "%" + "".join(char if _is_plain(char) else "%" for char in word) + "%"


def _is_plain(char: str) -> bool:
    return char.isalnum() and (char.isascii() or char.lower() == char.upper())
