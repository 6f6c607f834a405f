"""Writes arrays for llguidance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from headrace.text.structured.alternative import Alternative, once
from headrace.text.structured.document import State
from headrace.text.structured.keywords import Node, Schema, unsupported
from headrace.text.structured.solver import Solver
from headrace.text.structured.values import MAX_SIZES, one_of, sizes

MAX_ITEMS = MAX_SIZES["array"]
MAX_ORDERED = 4  # unique values: up to this many, all orders are written out
MAX_BLOCKS = 8  # unique items: more values are divided into so many blocks, one for each place


class Arrays:
    """Writes the arrays of one schema. `reference`: state → node."""

    def __init__(self, solver: Solver, reference: Callable[[State], Node]) -> None:
        self._solver, self._reference = solver, reference

    def nodes(self, one: Alternative) -> list[Schema]:
        """The nodes of an alternative's arrays; an empty list: there are none. Raises UnsupportedSchema."""
        places, absent = self._contained(one)
        count = max([len(places), *(len(prefix) for prefix in one.every("prefixItems"))])
        result: Schema = {"type": "array", **sizes(one, "array")}
        if places:
            result["minItems"] = max(len(places), result.get("minItems", 0))
        if result.get("maxItems", MAX_ITEMS) < result.get("minItems", 0):
            return []
        places += [absent] * (count - len(places))
        prefix = [once((*one.item(index), *place)) for index, place in enumerate(places)]
        rest = once((*one.item(count), *absent))
        if True in one.every("uniqueItems") and result.get("maxItems", 2) > 1:
            return self._unique(one, result, prefix, rest)
        if prefix:
            result["prefixItems"] = list(map(self._reference, prefix))
        return [result | {"items": self._reference(rest)}]

    def _contained(self, one: Alternative) -> tuple[list[State], State]:
        """What `contains` demands of each of the first items, and of all others. Raises UnsupportedSchema."""
        places: list[State] = []
        absent: State = ()
        having = one.having.get("contains", ())
        for part in having:
            node, most = part.words["contains"], part.words.get("maxContains", math.inf)
            least = int(part.words.get("minContains", 1))
            if least or most < math.inf:
                self._solver.need("contains_first", part.path, "'contains' is enforced at the first places")
            if most < math.inf and len(having) > 1:
                raise unsupported(f"{part.path}.maxContains", "not beside another 'contains'")
            present = one.document.term(node if least <= most else False, part)
            places += [(present,)] * min(least, MAX_ITEMS + 1)
            if most < math.inf:
                absent = (one.document.term(node, part, holds=False),)
        if len(places) > MAX_ITEMS:
            raise unsupported(f"{one.path}.minContains", f"more than {MAX_ITEMS} is not supported")
        return places, absent

    def _unique(self, one: Alternative, result: Schema, prefix: Sequence[State], rest: State) -> list[Schema]:
        """Arrays of unique items."""
        values = self._solver.values(rest) if not prefix else None
        least, most = result.get("minItems", 0), result.get("maxItems", MAX_ITEMS)
        if values is not None and len(values) <= MAX_ORDERED:
            lengths = range(least, min(most, len(values)) + 1)
            lists = [list(some) for length in lengths for some in itertools.permutations(values, length)]
            return [one_of(lists, one.path)] if lists else []
        path = one.located("uniqueItems")[-1][1]
        self._solver.need("unique_items", path, "items that differ are not tracked")
        if values is not None:
            return self._in_blocks(values, result, one.path)
        if least > 1:
            raise unsupported(path, "more than one item of values that are not listed")
        return [{**result, "maxItems": 1, "items": self._reference(prefix[0] if prefix else rest)}]

    def _in_blocks(self, values: list[object], result: Schema, path: str) -> list[Schema]:
        """Arrays whose first item is from the first block of the values, and so on."""
        least = result.get("minItems", 0)
        blocks = min(result.get("maxItems", MAX_ITEMS), len(values), max(least, MAX_BLOCKS))
        if least > blocks:
            return []
        cuts = [len(values) * index // blocks for index in range(blocks + 1)]
        prefix = [one_of(values[start:end], path) for start, end in itertools.pairwise(cuts)]
        return [{**result, "prefixItems": prefix, "items": False, "maxItems": blocks}]
