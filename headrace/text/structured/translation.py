"""From a caller's JSON schema to one that `llguidance` enforces to the letter, or a refusal that names the
keyword and where it stands.

The result is draft 2020-12 whatever the source was, holds no annotations and only local references, and may
be stricter than the source (never looser) where floating point or a parser's reading would make a text
invalid: each such place says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher

from headrace.errors import BadRequest
from headrace.text.structured.disjoint import KINDS, Disjoint
from headrace.text.structured.endless import PREFIX
from headrace.text.structured.formats import FORMATS, KNOWN_FORMATS, LIBRARY_FORMATS

Node = Any  # a JSON schema: an object or a boolean
Schema = dict[str, Any]

MAX_SCHEMAS = 2_000  # subschemas: a thousand properties compile in 0.1 s
MAX_ITEMS, MAX_LENGTH = 1_000, 1_000_000  # an upper bound beyond is lowered to this, a lower one refused
MAX_PATTERN, MAX_PATTERNS = 4_000, 50_000  # characters of one, and of all: the library takes the square of it
MAX_EXACT = 2**53  # beyond it neighbouring whole numbers are one float
MAX_FRACTION = 1e9  # with DIGITS behind the point still within the 15 digits that a float keeps
DIGITS = 1e-6
MAX_MULTIPLE = 2**16
FRACTIONS = (0.5, 0.25, 0.125)  # floats that are exact, whose multiples a validator finds to be multiples

IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref")
OBJECT_KEYWORDS = (
    "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
)  # fmt: skip
REFUSED = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains",
    "minContains", "maxContains", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef",
    "$vocabulary", "extends", "disallow", "divisibleBy",
)  # fmt: skip
ANNOTATIONS = {
    "title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly",
}  # fmt: skip

# in ECMA 262 these are plain characters of a class, in the library's dialect they are operators
_CLASS_OPERATOR = re.compile(r"\[\^?(?:[^\]\\]|\\.)*?(?:&&|--|~~|\[)")
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


class InvalidSchema(BadRequest):
    """It is no JSON schema, or nothing satisfies it."""

    code = "invalid_schema"


class UnsupportedSchema(BadRequest):
    """It says something that cannot be enforced."""

    code = "unsupported_schema"


class Translation:
    """`definitions` has the translation of each schema that is referred to, the whole one as ROOT; `places`
    each subschema's path and translation, the innermost first. `validate` holds a schema against the
    metaschema. Raises InvalidSchema, UnsupportedSchema.
    """

    ROOT = "0"

    def __init__(self, root: Node, param: str, draft: int, validate: Callable[[Node, str], None]) -> None:
        self._root, self._param, self._draft, self._validate = root, param, draft, validate
        self._names = {"#": self.ROOT}
        self._disjoint = Disjoint(self._target, lone_refs=draft < 2019)
        self._multiples: set[float] = set()
        self._pattern_text = 0  # characters
        self._merges: str | None = None  # where object schemas meet and must be merged
        self._patterned: str | None = None  # where patternProperties stand
        self.places: list[tuple[str, Schema]] = []
        self.definitions: dict[str, Node] = {}
        self._all()

    def _all(self) -> None:
        done = 0
        while done < len(self._names):
            reference = list(self._names)[done]
            target, path = self._target(reference), ".".join([self._param, *_segments(reference)])
            self._validate(target, path)  # the metaschema knows not every place where a schema may stand
            self.definitions[self._names[reference]] = self._node(target, path)
            done += 1
        if self._merges and self._patterned:
            # the library does not apply one side's additionalProperties to the other's patterns
            raise _unsupported(self._patterned, "cannot be combined with allOf, anyOf or $ref of objects")
        if self._merges and _overflows(self._multiples):
            raise _unsupported(self._merges, "multipleOf: the combined step is too large")

    def _target(self, reference: str) -> Node:
        """Raises InvalidSchema."""
        node = self._root
        if not isinstance(reference, str):
            raise _invalid(self._param, f"$ref {reference!r} is not a string")
        for segment in _segments(reference):
            if isinstance(node, list) and segment.isdecimal() and int(segment) < len(node):
                node = node[int(segment)]
            elif isinstance(node, dict) and segment in node:
                node = node[segment]
            else:
                raise _invalid(self._param, f"$ref {reference!r} leads nowhere")
        if not isinstance(node, dict | bool):
            raise _invalid(self._param, f"$ref {reference!r} does not lead to a schema")
        return node

    def _node(self, schema: Node, path: str) -> Node:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise _invalid(path, "is not a schema")
        if len(self.places) >= MAX_SCHEMAS:
            raise _unsupported(self._param, f"has more than {MAX_SCHEMAS} subschemas")
        if self._draft < 2019 and "$ref" in schema:
            schema = {"$ref": schema["$ref"]}  # what stands beside it does not count in these drafts
        self._refuse(schema, path)
        plain = self._plain(schema, path)
        keywords = list(schema)
        at = keywords.index("properties") if "properties" in keywords else -1
        in_place = {name: self._in_place(name, schema, path) for name in keywords if name in IN_PLACE}
        if (
            sum(len(parts) if name == "allOf" else 1 for name, parts in in_place.items())
            + any(name in schema for name in OBJECT_KEYWORDS)
            > 1
        ):
            self._merges = self._merges or path
        parts = plain.pop("allOf", []) + in_place.get("allOf", [])
        if "oneOf" in in_place:
            parts.append({"anyOf": in_place.pop("oneOf")})
        if parts:
            in_place["allOf"] = parts
        # the order of a text's members is that of the source: whichever comes first, own or inherited
        first = {name: parts for name, parts in in_place.items() if name in keywords[: max(at, 0)]}
        translated = {**first, **plain, **in_place}
        self.places.append((path, translated))
        return translated

    def _refuse(self, schema: Schema, path: str) -> None:
        for name in REFUSED:
            if name in schema:
                raise _unsupported(f"{path}.{name}", f"the keyword {name!r} is not supported")
        other = {"const"} if self._draft == 4 else set()
        other |= {"prefixItems"} if self._draft < 2020 else {"additionalItems"}
        for name in sorted(other & set(schema)):
            raise _unsupported(f"{path}.{name}", f"the keyword {name!r} is not one of this draft")
        for name in ("$id", "id"):
            if isinstance(schema.get(name), str) and path != self._param:
                raise _unsupported(f"{path}.{name}", "a subschema cannot have an identifier of its own")
        if not _any_name(schema.get("propertyNames", True)):
            raise _unsupported(f"{path}.propertyNames", "the keyword 'propertyNames' is not supported")

    def _plain(self, schema: Schema, path: str) -> Schema:
        """All keywords but those of IN_PLACE."""
        types = schema.get("type", sorted(KINDS))
        kinds = list(types) if isinstance(types, list) else [types]
        result: Schema = {}
        if "multipleOf" in schema and isinstance(_whole(schema["multipleOf"]), int):
            kinds = ["integer" if kind == "number" else kind for kind in kinds]
            kinds = list(dict.fromkeys(kinds))  # 3.0 is a multiple of 3, but 1e22 + 0.5 as a float, too
        if "type" in schema or set(kinds) != KINDS:
            result["type"] = kinds[0] if len(kinds) == 1 else kinds
        if {"number", "integer"} & set(kinds):
            result |= self._numbers(schema, path, whole="number" not in kinds)
        if "string" in kinds:
            result |= self._strings(schema, path)
        if "array" in kinds:
            result |= self._arrays(schema, path)
        if "object" in kinds:
            result |= self._objects(schema, path)
        for name in ("const", "enum"):
            if name in schema:
                _check_values(schema[name], f"{path}.{name}")
                result[name] = schema[name]
        return result

    def _numbers(self, schema: Schema, path: str, *, whole: bool) -> Schema:
        result: Schema = {name: _whole(schema[name]) for name in ("minimum", "maximum") if name in schema}
        for name, side in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if schema.get(name) is True and side in result:  # as in draft 4
                result[name] = result.pop(side)
            elif name in schema and not isinstance(schema[name], bool):
                result[name] = _whole(schema[name])
        for name, value in result.items():
            if not abs(value) <= MAX_EXACT:
                raise _unsupported(f"{path}.{name}", f"{value!r} is beyond ±2^53, where floats are not exact")
        if "multipleOf" in schema:
            result["multipleOf"] = _multiple(schema["multipleOf"], f"{path}.multipleOf")
        exclusive = [name for name in result if name.startswith("exclusive")]
        for name in exclusive if not whole else ():
            # 0.00…01 is more than 0, but may be read as 0.0: so many digits, and no more
            if abs(result[name]) > MAX_FRACTION:
                raise _unsupported(f"{path}.{name}", f"{result[name]!r} is beyond ±{MAX_FRACTION:.0e}")
            result.setdefault("multipleOf", DIGITS)
        if "multipleOf" in result:
            self._multiples.add(result["multipleOf"])
        return result

    def _strings(self, schema: Schema, path: str) -> Schema:
        result = _bounds(schema, path, "minLength", "maxLength", MAX_LENGTH)
        patterns = []
        if "pattern" in schema:
            self._check_pattern(schema["pattern"], f"{path}.pattern")
            patterns.append(schema["pattern"])
        name = schema.get("format")
        if name in FORMATS:
            patterns += FORMATS[name]
        elif name in LIBRARY_FORMATS:
            result["format"] = name
            if name == "hostname":
                result["maxLength"] = min(253, result.get("maxLength", 253))
        elif name is not None:
            known = ", ".join(KNOWN_FORMATS)
            raise _unsupported(f"{path}.format", f"the format {name!r} is not one of {known}")
        if patterns:
            result["pattern"] = patterns[0]
        if len(patterns) > 1:
            result["allOf"] = [{"pattern": pattern} for pattern in patterns[1:]]
        return result

    def _arrays(self, schema: Schema, path: str) -> Schema:
        result = _bounds(schema, path, "minItems", "maxItems", MAX_ITEMS)
        items, prefix, where = schema.get("items"), schema.get("prefixItems", []), "prefixItems"
        if isinstance(items, list):  # up to draft 2019-09
            items, prefix, where = schema.get("additionalItems"), items, "items"
        if prefix:
            result["prefixItems"] = [
                self._node(part, f"{path}.{where}.{index}") for index, part in enumerate(prefix)
            ]
        if items is not None:
            result["items"] = self._node(
                items, f"{path}.{'additionalItems' if where == 'items' else 'items'}"
            )
        if schema.get("uniqueItems") and result.get("maxItems", 2) > 1:
            raise _unsupported(f"{path}.uniqueItems", "the keyword 'uniqueItems' is not supported")
        return result

    def _objects(self, schema: Schema, path: str) -> Schema:
        result: Schema = {}
        for name in ("properties", "patternProperties"):
            if schema.get(name):
                result[name] = {
                    key: self._node(part, f"{path}.{name}.{key}") for key, part in schema[name].items()
                }
        for pattern in result.get("patternProperties", ()):
            self._patterned = f"{path}.patternProperties"
            self._check_pattern(pattern, f"{path}.patternProperties.{pattern}")
        if "additionalProperties" in schema:
            result["additionalProperties"] = self._node(
                schema["additionalProperties"], f"{path}.additionalProperties"
            )
        for key in (*result.get("properties", ()), *schema.get("required", ())):
            _check_values(key, path)
        if schema.get("required"):
            result["required"] = schema["required"]
        return result | _size(schema, result, path)

    def _in_place(self, name: str, schema: Schema, path: str) -> Any:
        value, path = schema[name], f"{path}.{name}"
        if name == "$ref":
            if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
                raise _unsupported(path, f"{value!r} is not a pointer into this schema (#/…)")
            self._target(value)
            return PREFIX + self._names.setdefault(value, str(len(self._names)))
        if name == "oneOf":
            self._exclude_each_other(value, path)
        return [self._node(part, f"{path}.{index}") for index, part in enumerate(value)]

    def _check_pattern(self, pattern: str, path: str) -> None:
        self._pattern_text += len(pattern)
        if len(pattern) > MAX_PATTERN or self._pattern_text > MAX_PATTERNS:
            limits = f"{MAX_PATTERN} characters, or {MAX_PATTERNS} together with others"
            raise _unsupported(path, f"an expression longer than {limits}")
        if _CLASS_OPERATOR.search(pattern):
            raise _unsupported(path, "'[', '&&', '--' or '~~' inside a character class; escape them")
        reason = _pattern_error(pattern)
        if reason:
            raise _unsupported(path, f"{pattern[:100]!r}: {reason}")

    def _exclude_each_other(self, options: list[Node], path: str) -> None:
        for j, other in enumerate(options):
            for i, one in enumerate(options[:j]):
                if not self._disjoint.holds(one, other):
                    raise _unsupported(
                        path, f"a value may satisfy both option {i} and option {j}; use 'anyOf'"
                    )


def _invalid(path: str, reason: str) -> InvalidSchema:
    return InvalidSchema(f"{path}: {reason}", param=path)


def _unsupported(path: str, reason: str) -> UnsupportedSchema:
    return UnsupportedSchema(f"{path}: {reason}", param=path)


def _segments(reference: str) -> list[str]:
    parts = unquote(reference.removeprefix("#")).split("/")[1:]
    return [part.replace("~1", "/").replace("~0", "~") for part in parts]


def _any_name(names: Node) -> bool:
    """Whether a schema for names says no more than that they are strings, as some generators write it."""
    if not isinstance(names, dict):
        return names is True
    return set(names) <= ANNOTATIONS | {"type"} and names.get("type", "string") == "string"


def _whole(value: float) -> float:
    """5.0 as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _multiple(value: float, path: str) -> float:
    value = _whole(value)
    if value in FRACTIONS or (isinstance(value, int) and 0 < value < MAX_MULTIPLE):
        return value
    raise _unsupported(path, f"{value!r} is neither a whole number below 65536 nor 0.5, 0.25 or 0.125")


def _overflows(multiples: set[float]) -> bool:
    """Whether a common multiple leaves 32 bits, in which the library computes it."""
    scale = 10**6 if DIGITS in multiples else 10**3 if multiples & set(FRACTIONS) else 1
    scaled = [round(multiple * scale) for multiple in multiples]
    return len(scaled) > 1 and math.lcm(*scaled) * max(scaled) >= 2**32


def _bounds(schema: Schema, path: str, least: str, most: str, limit: int) -> Schema:
    result: Schema = {}
    if schema.get(least):
        if schema[least] > limit:
            raise _unsupported(f"{path}.{least}", f"more than {limit} is not supported")
        result[least] = int(schema[least])
    if most in schema:
        result[most] = int(min(schema[most], limit))
    return result


def _size(schema: Schema, result: Schema, path: str) -> Schema:
    """minProperties and maxProperties, unless the other keywords imply them."""
    size = _bounds(schema, path, "minProperties", "maxProperties", MAX_ITEMS)
    if size.get("minProperties", 0) <= len(set(result.get("required", ()))):
        size.pop("minProperties", None)
    elif size["minProperties"] > 1:
        # the library does not see that a name occurs twice, and a reader counts it once
        raise _unsupported(f"{path}.minProperties", "more than 1 and more than are required is not supported")
    closed = result.get("additionalProperties") is False and "patternProperties" not in result
    if closed and size.get("maxProperties", 0) >= len(result.get("properties", ())):
        size.pop("maxProperties", None)
    return size


def _check_values(value: object, path: str) -> None:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _check_values(item, path)
    elif isinstance(value, str) and _CONTROL.search(value):
        raise _unsupported(path, f"{value!r} has a control character that has no short escape in JSON")
    elif isinstance(value, int) and abs(value) > MAX_EXACT:
        raise _unsupported(path, f"{value!r} is beyond ±2^53, where floats are not exact")


@lru_cache(maxsize=1024)
def _pattern_error(pattern: str) -> str:
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    return readable(LLMatcher.validate_grammar(grammar))


def readable(message: str) -> str:
    """What the library says, without its dump of the state and of the expression."""
    message = message.split("\n<state>")[0].strip()
    found = (
        re.search(r"error: (.+)", message.split("regex parse error:")[-1])
        if "regex parse" in message
        else None
    )
    text = found[1] if found else message.split("\n")[0]
    return text if len(text) <= 300 else text[:300] + "…"
