"""The address of an item: a hash over its owner, its parent and its body. Knows no database."""

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
LONG = 256 * 1024  # characters that are encoded in one go
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next item goes: after `hash`; None: at the beginning."""

    hash: str | None = None
    depth: int = -1
    system: str | None = None  # the nearest system or developer message at or above `hash`


@dataclass(frozen=True, slots=True)
class Placed:
    """An item with its address. `depth`: how many are before it."""

    hash: str
    parent: str | None
    system: str | None
    depth: int
    id: str
    body: Json

    @property
    def place(self) -> Place:
        return Place(self.hash, self.depth, self.system)


def written(value: object) -> str:
    """As compact JSON that UTF-8 can write: half of a surrogate pair stays an escape."""
    try:
        return "".join(_writable(piece) for piece in pieces(value, ensure_ascii=False))
    except UnicodeEncodeError:
        return "".join(pieces(value))


def digest(owner: str, parent: str | None, body: Json) -> str:
    found = hashlib.sha256()
    for piece in pieces([owner, parent, body], sort_keys=True):
        found.update(piece.encode())
    return found.hexdigest()


def pieces(
    value: object, *, ensure_ascii: bool = True, sort_keys: bool = False, long: int = LONG
) -> Iterator[str]:
    """A value as compact JSON; a long text in several pieces, because Python's encoder keeps the interpreter
    to itself until a text is written. `long`: characters.
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


def _writable(piece: str) -> str:
    """The same. Raises UnicodeEncodeError."""
    piece.encode()
    return piece


def chain(owner: str, after: Place, bodies: Sequence[Json]) -> list[Placed]:
    """The addresses of items that follow each other. One without an id gets one made of its hash."""
    found = []
    for body in bodies:
        placed = place(owner, after, body)
        found.append(placed)
        after = placed.place
    return found


def place(owner: str, after: Place, body: Json) -> Placed:
    hash, id = _address(owner, after.hash, body)
    system = hash if is_system(body) else after.system
    return Placed(hash, after.hash, system, after.depth + 1, id, {**body, "id": id})


def is_system(body: Mapping[str, object]) -> bool:
    return body.get("type", "message") == "message" and body.get("role") in SYSTEM_ROLES


def _address(owner: str, parent: str | None, body: Json) -> tuple[str, str]:
    """Hash and id. An id that is made of the hash is no part of it, also where a caller sends it back."""
    bare = {name: value for name, value in body.items() if name != "id"}
    hash = digest(owner, parent, bare)
    made = f"{PREFIXES.get(str(body.get('type', 'message')), 'item')}_{hash[:ID_DIGITS]}"
    id = body.get("id")
    if id is None or id == made:
        return hash, made
    return digest(owner, parent, body), str(id)
