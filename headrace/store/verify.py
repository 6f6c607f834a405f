"""Verifies the database: recomputes the hashes and follows the references, reading row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from sqlalchemy import Column, Connection, Row, Table, func, select

from headrace.store.hashing import Position, address
from headrace.store.tables import completions, conversations, events, items, loose, responses, storable

ROWS = 500  # fetched at once
STREAMED = {"stream_results": True, "yield_per": ROWS}

Progress = Callable[[int, int], None]  # called with the numbers of rows checked so far, and in all

# a table, what messages call a row of it, and its columns that reference items
HEADS: tuple[tuple[Table, str, tuple[str, ...]], ...] = (
    (conversations, "conversation", ("head",)),
    (responses, "response", ("input_head", "output_head")),
    (completions, "chat completion", ("head",)),
)


def problems(c: Connection, report: Progress) -> list[str]:
    """A line for each thing that is wrong. No line quotes an item's content."""
    problems = list(_items(c, report))
    for table, name, columns in HEADS:
        for column in columns:
            problems += _heads(c, table, name, table.c[column])
    problems += _outputs(c)
    problems += _bodies(c)
    problems += _events(c)
    return problems


def _items(c: Connection, report: Progress) -> Iterator[str]:
    total = c.scalar(select(func.count()).select_from(items)) or 0
    parents = items.alias()
    columns = (
        parents.c.hash.label("parent_hash"),
        parents.c.owner.label("parent_owner"),
        parents.c.depth.label("parent_depth"),
        parents.c.system.label("parent_system"),
    )
    statement = select(items, *columns).join(parents, parents.c.hash == items.c.parent, isouter=True)
    rows = c.execute(statement, execution_options=STREAMED)
    for number, row in enumerate(rows):
        if number % ROWS == 0:
            report(number, total)
        yield from (f"item {row.hash[:16]} ({row.item_id}): {problem}" for problem in _item(row))
    report(total, total)


def _item(row: Row[tuple[object, ...]]) -> Iterator[str]:
    try:
        body = json.loads(row.body)
    except ValueError:
        yield "its body is not JSON"
        return
    if not isinstance(body, dict):
        yield "its body is no object"
        return
    after = Position()
    if row.parent is not None:
        if row.parent_hash is None:
            yield "its parent is missing"
            return
        if row.parent_owner != row.owner:
            yield "its parent belongs to another owner"
        after = Position(row.parent_hash, row.parent_depth, row.parent_system)
    expected = address(row.owner, after, body)
    for name, is_right in (
        ("hash", expected.hash == row.hash),
        ("id", expected.id == body.get("id") and storable(expected.id) == row.item_id),
        ("depth", expected.depth == row.depth),
        ("system pointer", expected.hash != row.hash or expected.system == row.system),
    ):
        if not is_right:
            yield f"its {name} is wrong"


def _heads(c: Connection, table: Table, name: str, head: Column[str]) -> Iterator[str]:
    lost = select(table.c.id).join(items, items.c.hash == head, isouter=True)
    lost = lost.where(head.is_not(None) & (items.c.hash.is_(None) | (items.c.owner != table.c.owner)))
    for id in c.scalars(lost):
        yield f"{name} {id}: its {head.name.replace('_', ' ')} is no item of its owner"


def _outputs(c: Connection) -> Iterator[str]:
    """Responses whose output does not follow their input on one path."""
    inputs, outputs = items.alias(), items.alias()
    statement = (
        select(responses.c.id, inputs.c.hash, inputs.c.depth, outputs.c.hash, outputs.c.depth)
        .join(outputs, outputs.c.hash == responses.c.output_head)
        .join(inputs, inputs.c.hash == responses.c.input_head, isouter=True)
    )
    parent = select(items.c.parent)
    rows = c.execute(statement, execution_options=STREAMED)
    for id, first, depth, last, last_depth in rows:
        steps, at = last_depth - (-1 if depth is None else depth), last
        for _ in range(max(0, steps)):
            at = c.scalar(parent.where(items.c.hash == at))
        if steps < 0 or at != first:
            yield f"response {id}: its output does not follow its input"


def _bodies(c: Connection) -> Iterator[str]:
    for table, name, columns in (
        (conversations, "conversation", ("metadata",)),
        (responses, "response", ("body",)),
        (completions, "chat completion", ("body", "metadata")),
    ):
        statement = select(table.c.id, *(table.c[column] for column in columns))
        for row in c.execute(statement, execution_options=STREAMED):
            if not all(map(_is_object, row[1:])):
                yield f"{name} {row.id}: its stored JSON is invalid"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _events(c: Connection) -> Iterator[str]:
    """Describe responses whose events have a gap, and heads in the list of garbage that are no item."""
    count, end = func.sum(events.c.count), func.max(events.c.first + events.c.count)
    has_gap = select(events.c.response).group_by(events.c.response).having(count < end)
    for id in c.scalars(has_gap):
        yield f"response {id}: some of its events are missing"
    lost = select(loose.c.head).join(items, items.c.hash == loose.c.head, isouter=True)
    for head in c.scalars(lost.where(items.c.hash.is_(None))):
        yield f"head {head[:16]}, which was dropped, is no item"
