"""The places where fewer texts can be generated than a schema allows. No text outside the schema is ever
among them. A request switches narrowings off by naming those that it allows (`schema_narrowing`); a schema
that needs another one is then refused, but for closed_objects, without which objects simply stay open.
"""

from __future__ import annotations

NARROWINGS = {
    "closed_objects": "Members that an object does not list, where it says nothing about others. A model "
    "that may invent members often does not stop.",
    "unique_items": "With `uniqueItems`: other orders of an enumeration of more than 4 values, and more than "
    "one item of other values.",
    "contains_first": "With `contains`: answers in which the required items do not come first.",
    "one_of": "With overlapping `oneOf`, `not` and `if`: all but the simplest ways to avoid a schema, such "
    "as omitting a member that it requires.",
    "combinations": "All but the first 64 combinations of many alternatives (`allOf` of `anyOf`, …).",
    "options": "Alternatives of `anyOf` or `oneOf` that cannot be enforced.",
    "member_names": "Names for which overlapping `patternProperties`, or `propertyNames`, cannot be "
    "enforced.",
    "member_count": "With `minProperties` above the number of required members: answers without the first "
    "optional ones; with `maxProperties`: answers with the last optional ones.",
}
ALL = frozenset(NARROWINGS)
