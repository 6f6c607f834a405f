"""A caller's schema as a document: its draft, the places of its subschemas, the targets of its references,
and validating values against parts of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from jsonschema import exceptions, validators
from referencing.exceptions import Unresolvable

from headrace.text.structured.faults import invalid, unsupported
from headrace.text.structured.keywords import Node, Schema, modern, subschemas

DRAFTS = {
    validators.Draft4Validator: 4,
    validators.Draft6Validator: 6,
    validators.Draft7Validator: 7,
    validators.Draft201909Validator: 2019,
    validators.Draft202012Validator: 2020,
}
METASCHEMAS = {
    str(kind.META_SCHEMA.get("$id", kind.META_SCHEMA.get("id"))).rstrip("#"): kind.META_SCHEMA
    for kind in DRAFTS
}


@dataclass(frozen=True, slots=True)
class Part:
    """A subschema."""

    source: Node  # as in the document
    words: Node  # with the keywords of 2020-12
    path: str  # where it is, for errors
    base: str  # the URI to which its references are relative
    is_made: bool = False  # created here, not a part of the document


class Document:
    """A schema with an index of its parts. `param`: the path of the whole, with which all other paths begin.
    Raises InvalidSchema if its draft's metaschema does not accept it, UnsupportedSchema for unknown drafts.
    """

    def __init__(self, root: Node, param: str) -> None:
        self.root, self.param = root, param
        self._kind, self._is_exact = _validator_class(root, param)
        self.draft = DRAFTS[self._kind]
        self._metaschema = self._kind(self._kind.META_SCHEMA)
        self._parts: dict[int, Part] = {}
        self._resources: dict[str, Node] = {}
        self._anchors: dict[tuple[str, str], Node] = {}
        self._dynamic: list[str] = []  # names of anchors whose target depends on the referring schema
        self._kept: list[Node] = []  # keeps objects alive whose id() is a key above
        self._validators: dict[tuple[int, bool], Any] = {}
        self._checked: set[int] = set()
        self.check(root, param)
        self._collect(root, param, "")
        self._base = self._parts[id(root)].base if isinstance(root, dict) else ""

    def check(self, node: Node, path: str) -> None:
        """Validate a schema against the metaschema. Raises InvalidSchema."""
        error = exceptions.best_match(self._metaschema.iter_errors(node))
        if error is not None:
            raise invalid(".".join([path, *map(str, error.absolute_path)]), error.message)
        self._checked.update(id(part) for part in _all(node))

    def part(self, node: Node, near: Part | None = None) -> Part:
        """The part of a subschema. One that is not in the document gets the path and base of `near`."""
        found = self._parts.get(id(node))
        if found is None or isinstance(node, bool):
            path, base = (near.path, near.base) if near else (self.param, "")
            words = self._modern(node) if isinstance(node, dict) else node
            found = Part(node, words, path, base, is_made=True)
            if isinstance(node, dict):
                self._kept.append(node)
                self._parts[id(node)] = found
        return found

    def target(self, keyword: str, near: Part) -> Part:
        """The target of the reference `keyword` in `near`. Raises InvalidSchema, UnsupportedSchema."""
        path, reference = f"{near.path}.{keyword}", near.words[keyword]
        if keyword == "$recursiveRef" and self._dynamic:
            raise unsupported(path, "not beside $recursiveAnchor")
        if not isinstance(reference, str):
            raise invalid(path, f"{reference!r} is not a string")
        uri, fragment = urldefrag(urljoin(near.base, reference))
        resource = self._resource(uri)
        if resource is None:
            raise unsupported(path, f"{reference!r} leads to another document")
        if fragment and not fragment.startswith("/"):
            if keyword == "$dynamicRef" and self._dynamic.count(fragment) > 1:
                raise unsupported(path, "there is more than one such anchor")
            if (uri, fragment) not in self._anchors:
                raise unsupported(path, f"there is no anchor {fragment!r}")
            return self.part(self._anchors[uri, fragment])
        return self._pointed(resource, uri, unquote(fragment), near)

    def satisfies(self, value: object, part: Part, *, formats: bool) -> bool:
        """Whether the value is valid under the subschema. `formats`: check formats too; pass True for schemas
        that the value must satisfy, False for those that it must not. Where validation fails, the result
        is the one that excludes the value: False with `formats`, else True.
        """
        if part.base != self._base and "$ref" in str(part.source):
            return not formats
        key = id(part.source), formats
        if key not in self._validators:
            checker = self._kind.FORMAT_CHECKER if formats else None
            whole = self._kind(self.root, format_checker=checker)
            self._validators[key] = whole.evolve(schema=part.source)
            self._kept.append(part.source)
        try:
            return bool(self._validators[key].is_valid(value))
        except (Unresolvable, RecursionError, re.error):
            return not formats

    def _modern(self, node: Schema) -> Schema:
        return modern(node, self.draft, lone_refs=self._is_exact and self.draft < 2019)

    def _pointed(self, resource: Node, uri: str, pointer: str, near: Part) -> Part:
        node, path, base = resource, self.param, uri
        for segment in pointer.split("/")[1:]:
            name = segment.replace("~1", "/").replace("~0", "~")
            path += "." + name
            if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            elif isinstance(node, dict) and name in node:
                node = node[name]
            else:
                raise invalid(self.param, f"$ref '#{pointer}' leads nowhere")
            if id(node) in self._parts:
                base = self._parts[id(node)].base
        if not isinstance(node, dict | bool):
            raise invalid(self.param, f"$ref '#{pointer}' does not lead to a schema")
        if isinstance(node, dict) and id(node) not in self._checked:
            self.check(node, path)  # a place where the metaschema does not expect a schema
            self._collect(node, path, base)
        return self.part(node, near)

    def _resource(self, uri: str) -> Node | None:
        known = METASCHEMAS.get(uri.rstrip("#"))
        if uri not in self._resources and known is not None:
            self._resources[uri] = known
            self._collect(known, self.param, uri)
        return self._resources.get(uri)

    def _collect(self, node: Node, path: str, base: str) -> None:
        """Index all subschemas, identifiers and anchors, without recursion."""
        if not base:
            self._resources.setdefault("", node)
        left = [(node, path, base)]
        while left:
            node, path, base = left.pop()
            if not isinstance(node, dict) or id(node) in self._parts:
                continue
            base = self._identified(node, base)
            self._parts[id(node)] = Part(node, self._modern(node), path, base)
            left += [(below, f"{path}.{step}", base) for step, below in subschemas(node)]

    def _identified(self, node: Schema, base: str) -> str:
        """Index the schema's own identifiers. Returns the base URI of its references."""
        if "$ref" in node and self.draft < 2019:
            return base
        own = node.get("id" if self.draft == 4 else "$id")
        if isinstance(own, str):
            uri, fragment = urldefrag(urljoin(base, own))
            if fragment:
                self._anchors[uri, fragment] = node
            base = uri
            self._resources.setdefault(base, node)
        self._dynamic += ["#"] * (node.get("$recursiveAnchor") is True and self.draft == 2019)
        self._dynamic += [node["$dynamicAnchor"]] if isinstance(node.get("$dynamicAnchor"), str) else []
        for anchor in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(anchor), str):
                self._anchors.setdefault((base, node[anchor]), node)
        return base


def _all(node: Node) -> Iterator[Node]:
    left = [node]
    while left:
        node = left.pop()
        yield node
        left += [below for _, below in subschemas(node)]


def _validator_class(schema: object, param: str) -> tuple[Any, bool]:
    """The validator class of the draft that the schema names, in any spelling, else of 2020-12; and whether
    the spelling is exact. Validators read an inexact one as the latest draft, so the rules of both are
    enforced then.
    """
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return validators.Draft202012Validator, True
    if not isinstance(named, str):
        raise invalid(f"{param}.$schema", f"{named!r} is not a string")
    found = re.search(r"json-schema\.org/draft(?:-0?|/)([0-9-]+)(?:/|$)", named)
    if found is None:
        return validators.Draft202012Validator, False
    years = {"2019-09": 2019, "2020-12": 2020}
    draft = years.get(found[1], int(found[1]) if found[1].isdecimal() else 0)
    for kind, number in DRAFTS.items():
        if draft == number:
            return kind, named.rstrip("#") in METASCHEMAS
    raise unsupported(f"{param}.$schema", f"{named!r} is not a draft from 4 to 2020-12")
