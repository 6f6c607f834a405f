"""A caller's schema as a document: its draft, the places of its subschemas, the targets of its references,
and validating values against parts of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag

from jsonschema import exceptions, validators
from referencing import Registry
from referencing.exceptions import NoSuchAnchor, PointerToNowhere, Unresolvable
from referencing.jsonschema import SchemaRegistry, specification_with

from headrace.text.structured.keywords import (
    Node,
    Schema,
    everywhere,
    invalid,
    modern,
    subschemas,
    unsupported,
)

if TYPE_CHECKING:  # the library has no public name for it
    from referencing._core import Resolver

    SchemaResolver = Resolver[Node]

DRAFTS = {
    validators.Draft4Validator: 4,
    validators.Draft6Validator: 6,
    validators.Draft7Validator: 7,
    validators.Draft201909Validator: 2019,
    validators.Draft202012Validator: 2020,
}
LATEST = validators.Draft202012Validator(validators.Draft202012Validator.META_SCHEMA)


def _newer_keywords(kind: Any) -> set[str]:
    """The keywords of later drafts, which a draft's metaschema does not check."""
    if DRAFTS[kind] >= 2019:
        return {"prefixItems"} if DRAFTS[kind] == 2019 else set()
    latest = {*validators.Draft202012Validator.VALIDATORS, "then", "else", "minContains", "maxContains"}
    return latest - set(kind.META_SCHEMA["properties"]) - {"$ref"}


def _uri(kind: Any) -> str:
    """The URI of a draft's metaschema."""
    return str(kind.META_SCHEMA.get("$id", kind.META_SCHEMA.get("id"))).rstrip("#")


METASCHEMAS: SchemaRegistry = (
    Registry()
    .with_resources(
        (_uri(kind), specification_with(_uri(kind)).create_resource(kind.META_SCHEMA)) for kind in DRAFTS
    )
    .crawl()
)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A subschema. Parts are compared by identity: there is one for each object of the document."""

    source: Node  # as in the document
    words: Node  # with the keywords of 2020-12
    path: str  # where it is, for errors
    resolver: SchemaResolver  # of its references
    is_made: bool = False  # created here, not a part of the document


Term = tuple[Part, bool]  # a subschema that must (True) or must not (False) be satisfied
State = tuple[Term, ...]  # terms that hold for one value together


class Document:
    """A schema with an index of its parts. `param`: the path of the whole, with which all other paths begin.
    Raises InvalidSchema if its draft's metaschema does not accept it, UnsupportedSchema for unknown drafts.
    """

    def __init__(self, root: Node, param: str) -> None:
        self.root, self.param = root, param
        self._kind, self._is_exact = _validator_class(root, param)
        self._draft = DRAFTS[self._kind]
        self._metaschema = self._kind(self._kind.META_SCHEMA)
        self._newer = _newer_keywords(self._kind)
        self._parts: dict[int, Part] = {}
        self._made: list[Node] = []  # keeps objects alive whose id() is a key above
        self._dynamic: list[str] = []  # names of anchors whose target depends on the referring schema
        self._validators: dict[tuple[Part, bool], Any] = {}
        self._check(root, param)
        self._resource = specification_with(_uri(self._kind)).create_resource
        whole = self._resource(root)
        resolver = METASCHEMAS.with_resource(whole.id() or "", whole).resolver()
        self._booleans = {node: Part(node, node, param, resolver) for node in (False, True)}
        self._collect(root, param, resolver)
        self.resolver = self.part(root).resolver

    def part(self, node: Node, near: Part | None = None) -> Part:
        """The part of a subschema. One that is not in the document gets the path of `near`."""
        if isinstance(node, bool):
            return self._booleans[node]
        if id(node) not in self._parts:
            near = near or self._booleans[True]
            self._parts[id(node)] = Part(node, self._modern(node), near.path, near.resolver, is_made=True)
            self._made.append(node)
        return self._parts[id(node)]

    def term(self, node: Node, near: Part | None = None, *, holds: bool = True) -> Term:
        """The requirement that a subschema holds, or does not. Double negations are resolved."""
        part = self.part(node, near)
        while isinstance(part.words, dict) and part.words.keys() == {"not"}:
            part, holds = self.part(part.words["not"], part), not holds
        return (part, holds) if isinstance(part.words, dict) else (self._booleans[part.words == holds], True)

    def target(self, keyword: str, near: Part) -> Part:
        """The target of the reference `keyword` in `near`. Raises InvalidSchema, UnsupportedSchema."""
        path, reference = f"{near.path}.{keyword}", near.words[keyword]
        if not isinstance(reference, str):
            raise invalid(path, f"{reference!r} is not a string")
        fragment = urldefrag(reference).fragment
        is_dynamic = self._dynamic.count(fragment) > 1 if keyword == "$dynamicRef" else bool(self._dynamic)
        if keyword != "$ref" and is_dynamic:
            raise unsupported(path, "there is more than one such anchor")
        try:
            resolved = near.resolver.lookup(reference)
        except NoSuchAnchor as exc:
            raise unsupported(path, f"there is no anchor {fragment!r}") from exc
        except (PointerToNowhere, ValueError, TypeError) as exc:
            raise invalid(self.param, f"$ref {reference!r} leads nowhere") from exc
        except Unresolvable as exc:
            raise unsupported(path, f"{reference!r} leads to another document") from exc
        node: Node = resolved.contents
        if not isinstance(node, dict | bool):
            raise invalid(self.param, f"$ref {reference!r} does not lead to a schema")
        if isinstance(node, dict) and id(node) not in self._parts:
            self._add(node, reference, resolved.resolver)
        return self.part(node, near)

    def _add(self, node: Schema, reference: str, resolver: SchemaResolver) -> None:
        """Index a schema that a reference found where its draft expects none, or in a metaschema."""
        uri, fragment = urldefrag(reference)
        path = ".".join([self.param, *unquote(fragment).replace("~1", "/").split("/")[1:]])
        if uri not in METASCHEMAS:
            self._check(node, path)
        self._collect(node, path, resolver)

    def satisfies(self, value: object, part: Part, *, formats: bool) -> bool:
        """Whether the value is valid under the subschema. `formats`: check formats too; pass True for schemas
        that the value must satisfy, False for those that it must not. Where validation fails, the result
        is the one that excludes the value: False with `formats`, else True.
        """
        if part.resolver is not self.resolver and "$ref" in str(part.source):
            return not formats  # the validator would resolve it from the root
        key = part, formats
        if key not in self._validators:
            checker = self._kind.FORMAT_CHECKER if formats else None
            self._validators[key] = self._kind(self.root, format_checker=checker).evolve(schema=part.source)
        try:
            return bool(self._validators[key].is_valid(value))
        except (Unresolvable, RecursionError, re.error):
            return not formats

    def satisfies_all(self, value: object, state: Iterable[Term]) -> bool:
        """Whether the value satisfies a state. Formats are checked in terms that must hold, and ignored in
        terms that must not.
        """
        return all(self.satisfies(value, part, formats=holds) == holds for part, holds in state)

    def _check(self, node: Node, path: str) -> None:
        """Validate a schema against the metaschema. Raises InvalidSchema."""
        error = exceptions.best_match(self._metaschema.iter_errors(node))
        if error is not None:
            raise invalid(".".join([path, *map(str, error.absolute_path)]), error.message)

    def _modern(self, node: Schema) -> Schema:
        newer = {name: node[name] for name in node.keys() & self._newer}
        if newer and not LATEST.is_valid(newer):  # the draft's metaschema did not check them
            node = {name: value for name, value in node.items() if name not in newer}
        return modern(node, self._draft, lone_refs=self._is_exact and self._draft < 2019)

    def _collect(self, node: Node, path: str, resolver: SchemaResolver) -> None:
        """Index all subschemas, without recursion."""
        left = [(node, path, resolver)]
        while left:
            node, path, resolver = left.pop()
            if not isinstance(node, dict) or id(node) in self._parts:
                continue
            if "$id" in node or "id" in node:
                resolver = resolver.in_subresource(self._resource(node))
            self._parts[id(node)] = Part(node, self._modern(node), path, resolver)
            self._dynamic += ["#"] * (node.get("$recursiveAnchor") is True and self._draft == 2019)
            self._dynamic += [node["$dynamicAnchor"]] if isinstance(node.get("$dynamicAnchor"), str) else []
            left += [(below, f"{path}.{step}", resolver) for step, below in subschemas(node)]


def _unnamed(schema: object) -> tuple[Any, bool]:
    """The validator class of a schema that names no draft. What only older drafts have (lists as `items`, as
    in draft 7, and `exclusiveMinimum: true`, as in draft 4 and OpenAPI 3.0) is read as they do, if nothing of
    later drafts is beside it.
    """
    nodes = [node for _, node in everywhere(schema, "")]
    limits = [node.get(name) for node in nodes for name in ("exclusiveMinimum", "exclusiveMaximum")]
    kind: Any = validators.Draft202012Validator
    if any(isinstance(limit, bool) for limit in limits):
        kind = validators.Draft4Validator
    elif any(isinstance(node.get("items"), list) for node in nodes):
        kind = validators.Draft7Validator
    is_latest = any(node.keys() & _newer_keywords(kind) for node in nodes)
    kind = validators.Draft202012Validator if is_latest else kind
    return kind, kind is validators.Draft202012Validator


def _validator_class(schema: object, param: str) -> tuple[Any, bool]:
    """The validator class of the draft that the schema names, in any spelling, else of the latest that has
    its keywords; and whether the spelling is exact. Validators read an inexact one as the latest draft, so
    the rules of both are enforced then.
    """
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return _unnamed(schema)
    if not isinstance(named, str):
        raise invalid(f"{param}.$schema", f"{named!r} is not a string")
    match = re.search(r"json-schema\.org/draft(?:-0?|/)([0-9-]+)(?:/|$)", named)
    if match is None:
        return validators.Draft202012Validator, False
    draft = {"2019-09": "2019", "2020-12": "2020"}.get(match[1], match[1])
    for kind, number in DRAFTS.items():
        if draft == str(number):
            return kind, named.rstrip("#") in METASCHEMAS
    raise unsupported(f"{param}.$schema", f"{named[:200]!r} is not a draft from 4 to 2020-12")
