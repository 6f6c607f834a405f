"""Writes strings for llguidance: patterns, formats and lengths."""

from __future__ import annotations

from headrace.text.structured import patterns
from headrace.text.structured.faults import unsupported
from headrace.text.structured.formats import FORMATS, LIBRARY_FORMATS
from headrace.text.structured.keywords import Schema
from headrace.text.structured.literals import MAX_LENGTH, sizes
from headrace.text.structured.record import Record

MAX_PATTERN, MAX_PATTERNS = 4_000, 50_000  # characters of one and of all: compiling takes quadratic time


class Texts:
    """Writes the strings of one schema."""

    def __init__(self) -> None:
        self._num_characters = 0  # of patterns

    def schema(self, record: Record, others: list[str]) -> Schema:
        """The node of a record's strings. `others`: excluded strings. Raises UnsupportedSchema."""
        result: Schema = {"type": "string", **sizes(record, "minLength", "maxLength", MAX_LENGTH)}
        found = list(record.expressions)
        for pattern, path in record.patterns:
            found += self.translated(pattern, path)
        for name, path in record.formats:
            if name in FORMATS:
                found += FORMATS[name]
            elif name in LIBRARY_FORMATS:
                own = LIBRARY_FORMATS[name]
                if result.setdefault("format", own) != own:
                    raise unsupported(path, f"both {own!r} and {result['format']!r}")
        if others:
            found.append(other_than(others, record.path))
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
        for one in found:
            reason = patterns.problem(one)
            if reason:
                raise unsupported(path, f"{pattern[:100]!r}: {reason}")
        return found

    def name_pattern(self, names: Record, path: str) -> str:
        """An expression for names; "": all. Raises UnsupportedSchema."""
        schema = self.schema(names, [value for value in names.excluded if isinstance(value, str)])
        if "format" in schema or "allOf" in schema:
            raise unsupported(path, "names that must satisfy several conditions")
        bounds = schema.get("minLength", 0), schema.get("maxLength")
        if bounds == (0, None):
            return str(schema.get("pattern", ""))
        if "pattern" in schema:
            raise unsupported(path, "a pattern and a length")
        return f"^(?s:.){{{bounds[0]},{'' if bounds[1] is None else min(bounds[1], 1000)}}}$"


def other_than(others: list[str], path: str) -> str:
    """An expression for all texts other than these. Raises UnsupportedSchema."""
    try:
        return patterns.other_than(others)
    except patterns.Untranslatable as exc:
        raise unsupported(path, str(exc)) from exc
