"""Writes arrays for llguidance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from headrace.text.structured.faults import unsupported
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.literals import MAX_ITEMS, one_of, sizes
from headrace.text.structured.record import Record, Shape, State, once
from headrace.text.structured.solver import Solver

MAX_ORDERED = 4  # unique values: up to this many, all orders are written out
MAX_BLOCKS = 8  # unique items: more values are divided into so many blocks, one for each place


class Lists:
    """Writes the arrays of one schema. `reference`: state → node."""

    def __init__(self, solver: Solver, reference: Callable[[State], Node]) -> None:
        self._solver, self._reference = solver, reference

    def schemas(self, record: Record) -> list[Schema]:
        """The alternatives; an empty list: no array satisfies the record. Raises UnsupportedSchema."""
        result: Schema = {"type": "array", **sizes(record, "minItems", "maxItems", MAX_ITEMS)}
        places: list[State] = []  # `contains` for each of the first places
        for contained in record.contained:
            places += [(contained.term,)] * contained.least
            if contained.least or contained.most is not None:
                self._solver.need("contains_first", record.path, "'contains' is enforced at the first places")
        if len(places) > MAX_ITEMS:
            raise unsupported(f"{record.path}.minContains", f"more than {MAX_ITEMS} is not supported")
        absent = [(c.term[0], not c.term[1]) for c in record.contained if c.most is not None]
        if absent and len(record.contained) > 1:
            raise unsupported(f"{record.path}.maxContains", "not beside another 'contains'")
        if any(
            contained.most is not None and contained.most < contained.least for contained in record.contained
        ):
            return []
        count = max([len(places), *(len(shape.prefix) for shape in record.arrays)])
        states = [_item(record.arrays, index) for index in range(count)]
        extra: list[State] = [*places, *[tuple(absent)] * (count - len(places))]
        states = [(*state, *more) for state, more in zip(states, extra, strict=True)]
        rest = (*_item(record.arrays, count), *absent)
        if places:
            result["minItems"] = max(len(places), result.get("minItems", 0))
        if result.get("maxItems", MAX_ITEMS) < result.get("minItems", 0):
            return []
        if record.is_unique and result.get("maxItems", 2) > 1:
            return self._unique(record, result, states, rest)
        if states:
            result["prefixItems"] = [self._reference(once(state)) for state in states]
        if rest or states or record.arrays:
            result["items"] = self._reference(once(rest))
        else:
            result["items"] = self._reference(())
        return [result]

    def _unique(self, record: Record, result: Schema, states: Sequence[State], rest: State) -> list[Schema]:
        """Arrays of unique items."""
        values = self._solver.literals(rest) if not states else None
        least, most = result.get("minItems", 0), result.get("maxItems", MAX_ITEMS)
        if values is not None and len(values) <= MAX_ORDERED:
            lengths = range(least, min(most, len(values)) + 1)
            found = [list(some) for length in lengths for some in itertools.permutations(values, length)]
            return [one_of(found, record.path)] if found else []
        self._solver.need("unique_items", f"{record.path}.uniqueItems", "items that differ are not tracked")
        if values is not None:
            blocks = min(most, len(values), max(least, MAX_BLOCKS))
            if least > blocks:
                return []
            cuts = [len(values) * index // blocks for index in range(blocks + 1)]
            parts = [values[start:end] for start, end in itertools.pairwise(cuts)]
            prefix: list[Node] = [one_of(part, record.path) for part in parts]
            return [{**result, "prefixItems": prefix, "items": False, "maxItems": blocks}]
        if least > 1:
            raise unsupported(
                f"{record.path}.uniqueItems", "more than one item of values that are not listed"
            )
        first = states[0] if states else rest
        return [{**result, "maxItems": 1, "items": self._reference(once(first))}]


def _item(shapes: Sequence[Shape], index: int) -> State:
    """The state of the item at an index."""
    terms = (shape.prefix[index] if index < len(shape.prefix) else shape.rest for shape in shapes)
    return tuple(term for term in terms if term is not None)
