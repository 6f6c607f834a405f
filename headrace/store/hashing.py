"""The hash of an item, over its owner, its parent and its body. Knows no database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from headrace.store.records import Json

ID_DIGITS = 48  # as many as a random id has
PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "compaction": "cmp",
}
LONG = 256 * 1024  # characters of a text that are encoded at once
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next item goes: after `hash` (None: at the root)."""

    hash: str | None = None
    depth: int = -1
    system: str | None = None  # the nearest system or developer message at or above `hash`


@dataclass(frozen=True, slots=True)
class AddressedItem:
    """An item with its hash and id. `depth`: the number of items before it."""

    hash: str
    parent: str | None
    system: str | None
    depth: int
    id: str
    body: Json

    @property
    def position(self) -> Position:
        return Position(self.hash, self.depth, self.system)


def to_json(value: object) -> str:
    """Compact JSON that can be encoded as UTF-8: a lone surrogate is escaped."""
    try:
        return "".join(_encodable(piece) for piece in pieces(value, ensure_ascii=False))
    except UnicodeEncodeError:
        return "".join(pieces(value))


def digest(owner: str, parent: str | None, body: Json) -> str:
    """SHA-256 of the JSON array [owner, parent, body] with sorted keys, in hexadecimal."""
    hash = hashlib.sha256()
    for piece in pieces([owner, parent, body], sort_keys=True):
        hash.update(piece.encode())
    return hash.hexdigest()


def pieces(
    value: object, *, ensure_ascii: bool = True, sort_keys: bool = False, long: int = LONG
) -> Iterator[str]:
    """A value as compact JSON, in pieces.

    A text longer than `long` characters is split, because Python's encoder holds the interpreter lock until a
    text is written, and other threads would wait.
    """
    if not _has_long_text(value, long):
        yield json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=(",", ":"))
        return
    inner = partial(pieces, ensure_ascii=ensure_ascii, sort_keys=sort_keys, long=long)
    if isinstance(value, str):
        yield '"'
        for start in range(0, len(value), long):
            yield json.dumps(value[start : start + long], ensure_ascii=ensure_ascii)[1:-1]
        yield '"'
    elif isinstance(value, Mapping):
        for index, (name, member) in enumerate(sorted(value.items()) if sort_keys else value.items()):
            yield f"{',' if index else '{'}{json.dumps(name, ensure_ascii=ensure_ascii)}:"
            yield from inner(member)
        yield "}"
    elif isinstance(value, Sequence):
        for index, entry in enumerate(value):
            yield "," if index else "["
            yield from inner(entry)
        yield "]"


def _has_long_text(value: object, long: int) -> bool:
    if isinstance(value, str):
        return len(value) > long
    if isinstance(value, Mapping):
        return any(_has_long_text(member, long) for member in value.values())
    return isinstance(value, list | tuple) and any(_has_long_text(entry, long) for entry in value)


def _encodable(piece: str) -> str:
    """Return the piece. Raises UnicodeEncodeError if UTF-8 cannot encode it."""
    piece.encode()
    return piece


def address_all(owner: str, after: Position, bodies: Sequence[Json]) -> list[AddressedItem]:
    """Address items that follow each other, the first after `after`."""
    addressed = []
    for body in bodies:
        item = address(owner, after, body)
        addressed.append(item)
        after = item.position
    return addressed


def address(owner: str, after: Position, body: Json) -> AddressedItem:
    """Address one item. One without an id gets an id derived from its hash."""
    hash, id = _hash_and_id(owner, after.hash, body)
    system = hash if is_system(body) else after.system
    return AddressedItem(hash, after.hash, system, after.depth + 1, id, {**body, "id": id})


def is_system(body: Mapping[str, object]) -> bool:
    return body.get("type", "message") == "message" and body.get("role") in SYSTEM_ROLES


def _hash_and_id(owner: str, parent: str | None, body: Json) -> tuple[str, str]:
    """An id derived from the hash is not hashed, so that an item which a client sends back keeps its hash."""
    bare = {name: value for name, value in body.items() if name != "id"}
    hash = digest(owner, parent, bare)
    derived = f"{PREFIXES.get(str(body.get('type', 'message')), 'item')}_{hash[:ID_DIGITS]}"
    id = body.get("id")
    if id is None or id == derived:
        return hash, derived
    return digest(owner, parent, body), str(id)
