"""The hash of an item, over its owner, its parent and its body. Knows no database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.finite import COMPACT, dumped_pieces
from headrace.store.records import Json

ID_DIGITS = 48  # as many as a random id has
PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "compaction": "cmp",
}
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
        return "".join(map(_encodable, dumped_pieces(value, separators=COMPACT, ensure_ascii=False)))
    except UnicodeEncodeError:
        return "".join(dumped_pieces(value, separators=COMPACT))


def digest(owner: str, parent: str | None, body: Json) -> str:
    """SHA-256 of the JSON array [owner, parent, body] with sorted keys, in hexadecimal."""
    hash = hashlib.sha256()
    for piece in dumped_pieces([owner, parent, body], separators=COMPACT, sort_keys=True):
        hash.update(piece.encode())
    return hash.hexdigest()


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
