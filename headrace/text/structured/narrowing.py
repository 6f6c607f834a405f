"""The places where fewer texts can be generated than a schema allows. No text outside the schema is ever
among them. A request switches narrowings off by naming those that it allows (`schema_narrowing`); a schema
that needs another one is then refused, but for closed_objects, without which objects simply stay open.
"""

from __future__ import annotations

NARROWINGS = {
    "closed_objects": "An object that lists its members and says nothing of others gets no others. Models "
    "that may invent members go on and on.",
    "unique_items": "`uniqueItems`: members of an enumeration come in order where they are more than 4; of "
    "other values there is at most one.",
    "contains_first": "`contains`: the items that must be contained come first.",
    "one_of": "`oneOf` whose options overlap, `not` and `if`: of the ways in which a value avoids a schema "
    "the simplest are generated, such as leaving out a member that it requires.",
    "combinations": "Combinations of many alternatives (`allOf` of `anyOf`, …): the first 64 are generated.",
    "options": "An alternative of `anyOf` or `oneOf` that cannot be enforced is left out.",
    "member_names": "Names that overlapping `patternProperties`, or `propertyNames`, describe in a way that "
    "cannot be enforced are not generated.",
    "member_count": "`minProperties` above the number of required members: the first optional ones become "
    "required; `maxProperties`: the last optional ones are left out.",
}
ALL = frozenset(NARROWINGS)
