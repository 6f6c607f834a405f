"""Writes strings for llguidance: patterns, formats and lengths."""

from __future__ import annotations

from headrace.text.structured import patterns
from headrace.text.structured.alternative import EXPRESSION, Alternative
from headrace.text.structured.faults import unsupported
from headrace.text.structured.formats import FORMATS, LIBRARY_FORMATS
from headrace.text.structured.keywords import Schema
from headrace.text.structured.values import sizes

MAX_PATTERN, MAX_PATTERNS = 4_000, 50_000  # characters of one and of all: compiling takes quadratic time
MAX_TOGETHER = 12  # expressions for one string: looking for a text of all takes exponential time


class Strings:
    """Writes the strings of one schema."""

    def __init__(self) -> None:
        self._num_characters = 0  # of patterns

    def node(self, one: Alternative, excluded: list[str]) -> Schema:
        """The node of an alternative's strings. Raises UnsupportedSchema."""
        result: Schema = {"type": "string", **sizes(one, "string")}
        found = one.every(EXPRESSION)
        for pattern, path in dict(reversed(one.located("pattern"))).items():
            found += self.translated(pattern, path)
        for name, path in one.located("format"):
            found += FORMATS.get(name, ())
            own = LIBRARY_FORMATS.get(name)
            if own and result.setdefault("format", own) != own:
                raise unsupported(path, f"both {own!r} and {result['format']!r}")
        if excluded:
            found.append(other_than(excluded, one.path))
        found = list(dict.fromkeys(found))
        if len(found) > MAX_TOGETHER:
            raise unsupported(one.path, f"more than {MAX_TOGETHER} expressions for one string")
        if found:
            result["pattern"] = found[0]
        if len(found) > 1:
            result["allOf"] = [{"pattern": pattern} for pattern in found[1:]]
        return result

    def translated(self, pattern: str, path: str) -> list[str]:
        """Translate a pattern to expressions that must all be found. Raises UnsupportedSchema."""
        self._num_characters += len(pattern)
        if len(pattern) > MAX_PATTERN or self._num_characters > MAX_PATTERNS:
            limits = f"{MAX_PATTERN} characters, or {MAX_PATTERNS} together with others"
            raise unsupported(path, f"an expression longer than {limits}")
        try:
            found = patterns.translated(pattern)
        except patterns.Untranslatable as exc:
            raise unsupported(path, f"{pattern[:100]!r}: {exc}") from exc
        for reason in filter(None, map(patterns.problem, found)):
            raise unsupported(path, f"{pattern[:100]!r}: {reason}")
        return found

    def name_pattern(self, names: Alternative, path: str) -> str:
        """An expression for names; "": all. Raises UnsupportedSchema."""
        node = self.node(names, names.excluded("string"))
        if "format" in node or "allOf" in node:
            raise unsupported(path, "names that must satisfy several conditions")
        least, most = node.get("minLength", 0), node.get("maxLength")
        if (least, most) == (0, None):
            return str(node.get("pattern", ""))
        if "pattern" not in node:
            return f"^(?s:.){{{least},{'' if most is None else min(most, 1000)}}}$"
        found = patterns.sized(node["pattern"], least, most)
        if found is None:
            raise unsupported(path, "a pattern and a length")
        return found


def other_than(others: list[str], path: str) -> str:
    """An expression for all texts other than these. Raises UnsupportedSchema."""
    try:
        return patterns.other_than(others)
    except patterns.Untranslatable as exc:
        raise unsupported(path, str(exc)) from exc
