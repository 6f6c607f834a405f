r"""Translates regular expressions of JSON Schema (ECMA 262, searched for anywhere in a text) to llguidance's
dialect.

Validators differ: Python's `\s` includes U+0085, ECMA's U+FEFF. The translation matches only what matches in
both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from llguidance import LLMatcher

from headrace.errors import bounded
from headrace.text.literals import literal

MAX_WORD = 60  # characters of an excluded text: each is a nested group

_SPACES = r"\t\n\x0b\x0c\r \xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"  # both
_ANY_SPACES = _SPACES + r"\x1c-\x1f\x85\x{feff}"  # either
_LETTERS = r"\p{L}\p{M}\p{N}\p{Pc}"
# shorthand → (the characters that it has in both dialects, those that it has in either)
_SHORTHANDS = {
    "d": (r"0-9", r"\p{Nd}"),
    "w": (r"A-Za-z0-9_", _LETTERS),
    "s": (_SPACES, _ANY_SPACES),
    "D": (r"[^\p{Nd}]", r"[^0-9]"),
    "W": (f"[^{_LETTERS}]", r"[^A-Za-z0-9_]"),
    "S": (f"[^{_ANY_SPACES}]", f"[^{_SPACES}]"),
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_QUANTIFIER = re.compile(r"\{\d+(?:,\d*)?\}")
_PROPERTY = re.compile(r"[pP]\{[^{}]*\}")
_HEX = re.compile(r"u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|c([A-Za-z])")
_ANYTHING = "(?s:.)"


class Untranslatable(ValueError):
    """The expression cannot be written in llguidance's dialect."""


def translated(pattern: str) -> list[str]:
    """Expressions that must all be found in a text. Raises Untranslatable."""
    ahead, rest = _lookaheads(pattern)
    return [*ahead, *([] if ahead and rest == "^" else [_Reader(rest).expression()])]


@lru_cache(maxsize=1024)
def problem(pattern: str) -> str:
    """Why llguidance refuses an expression in its own dialect; empty if it accepts it."""
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    return readable(LLMatcher.validate_grammar(grammar))


def readable(message: str) -> str:
    """llguidance's error message without its dumps of the state and the expression."""
    message = message.split("\n<state>")[0].strip()
    found = re.search(r"error: (.+)", message.split("regex parse error:")[-1])
    text = found[1] if found and "regex parse" in message else message.split("\n")[0]
    return bounded(text, 300)


def other_than(words: Iterable[str]) -> str:
    """An expression for all texts other than these. Raises Untranslatable."""
    return f"^{_outside(_trie(words), whole=True)}$"


def avoiding(pattern: str) -> str | None:
    """An expression for texts, but not all, in which the pattern is not found; None if none is known."""
    try:
        prefix = re.match(r"\^((?:[A-Za-z0-9 _/:@#-]|\\[^A-Za-z0-9])+)(?![*?{+])", pattern)
        if prefix and len(_branches(pattern)) == 1:
            return f"^{_outside(_trie([_text(prefix[1])]), whole=False)}$"
        needed = [_needed(branch) for branch in _branches(pattern)]
    except Untranslatable:
        return None
    return None if None in needed else f"^[^{''.join(filter(None, needed))}]*$"


def _needed(branch: str) -> str | None:
    """Characters, as in a class, of which every match contains one, preferably rare ones; None: unknown."""
    found: list[tuple[bool, str]] = []
    level = 0
    atom = re.compile(r"\\[^A-Za-z0-9]|\\[dws]|\[[^^\]\\][^\]\\]*\]|[^\\]|\\.", re.DOTALL)
    for one in atom.finditer(branch):
        text, after = one[0], branch[one.end() : one.end() + 2]
        level += (text == "(") - (text == ")")
        if (
            level
            or after[:1] in ("*", "?")
            or after == "{0"
            or text in ("^", "$", ".", "(", ")", "+", "{", "}")
        ):
            continue
        if len(text) == 1 or text[1:] in ("d", "w", "s"):
            item = _SHORTHANDS[text[1:]][1] if len(text) > 1 else _written(ord(text))
            found.append((text.isalnum() or len(text) > 1, item))
        elif text.startswith("["):
            found.append((True, _Reader(text).expression()))
        elif not text[1].isalnum():
            found.append((False, _written(ord(text[1]))))
    return min(found)[1] if found else None


def _branches(pattern: str) -> list[str]:
    """The alternatives at the top level."""
    found, level, start = [], 0, 0
    for index, (one, inside) in enumerate(_outline(pattern)):
        level += (one == "(") - (one == ")") if not inside else 0
        if one == "|" and not inside and level == 0:
            found.append(pattern[start:index])
            start = index + 1
    return [*found, pattern[start:]]


def _lookaheads(pattern: str) -> tuple[list[str], str]:
    """Splits `^(?=A)(?!B)C` into expressions for A and not B, and `^C`."""
    found: list[str] = []
    if not pattern.startswith(("^(?=", "^(?!")) or len(_branches(pattern)) > 1:
        return [], pattern
    rest = pattern[1:]
    while rest.startswith(("(?=", "(?!")):
        end = _closing(rest)
        inner = rest[3:end]
        found += [_ahead(inner)] if rest[2] == "=" else _not_ahead(inner)
        rest = rest[end + 1 :]
    return found, "^" + rest


def _ahead(inner: str) -> str:
    return f"^(?:{_Reader(inner).expression()})"


def _not_ahead(inner: str) -> Iterator[str]:
    """Negative look-ahead of literal texts, as in `a|b$` and `(a|b)$`, and of `.*a` with one character."""
    contained = re.fullmatch(r"\.\*\\?(\W|[A-Za-z0-9])\\?\1?", inner)
    if contained:
        yield _without(contained[1], twice=inner.count(contained[1]) > 1)
        return
    grouped = re.fullmatch(r"\((?:\?:)?([^()]*)\)(\$?)", inner)
    branches = [one + grouped[2] for one in grouped[1].split("|")] if grouped else _branches(inner)
    ends = [one.endswith("$") and not one.endswith("\\$") for one in branches]
    for whole in (False, True):
        found = [one for one, ending in zip(branches, ends, strict=True) if ending is whole]
        if found:
            texts = [_text(one.removeprefix("^").removesuffix("$" if whole else ".*")) for one in found]
            yield f"^{_outside(_trie(texts), whole=whole)}$"


def _without(one: str, *, twice: bool) -> str:
    other = f"[^{_written(ord(one))}]"
    return f"^{other}*(?:{_written(ord(one))}{other}+)*{_written(ord(one))}?$" if twice else f"^{other}*$"


def _text(word: str) -> str:
    """The only text that an expression matches. Raises Untranslatable."""
    text = re.sub(r"\\([^A-Za-z0-9])", r"\1", word)
    if re.search(r"[.*+?^$()\[\]{}|]|\\[A-Za-z0-9]", re.sub(r"\\[^A-Za-z0-9]", "", word)) or not text:
        raise Untranslatable("look-around is not supported")
    return text


Trie = dict[str, "Trie"]


def _trie(words: Iterable[str]) -> Trie:
    """A prefix tree of the words; the key "" marks the end of a word."""
    root: Trie = {}
    for word in words:
        if len(word) > MAX_WORD:
            raise Untranslatable(f"a text longer than {MAX_WORD} characters is excluded")
        node = root
        for one in word:
            node = node.setdefault(one, {})
        node[""] = {}
    return root


def _outside(node: Trie, *, whole: bool) -> str:
    """An expression for texts that are not in the trie (`whole`), or that begin with none of its words."""
    ends = "" in node
    if ends and not whole:
        return "[^\\x00-\\x{10ffff}]"  # nothing
    following = [one for one in node if one]
    if not following:
        return f"{_ANYTHING}+" if ends else f"{_ANYTHING}*"
    others = "".join(_written(ord(one)) for one in following)
    branches = [f"[^{others}]{_ANYTHING}*"]
    for one in following:
        below = node[one]
        if not ("" in below and not whole):
            branches.append(_written(ord(one)) + _outside(below, whole=whole))
    return f"(?:{'|'.join(branches)})" + ("" if ends else "?")


def _closing(pattern: str) -> int:
    """The index of the bracket that closes the first one. Raises Untranslatable."""
    level = 0
    for index, (one, inside) in enumerate(_outline(pattern)):
        level += (one == "(") - (one == ")") if not inside else 0
        if level == 0:
            return index
    raise Untranslatable("unclosed group")


def _outline(pattern: str) -> Iterator[tuple[str, bool]]:
    """Yield each character, and whether it is escaped or inside a class."""
    escaped = inside = False
    for one in pattern:
        yield one, escaped or inside
        if escaped or one == "\\":
            escaped = not escaped
        elif one == "[":
            inside = True
        elif one == "]":
            inside = False


def _written(code: int) -> str:
    """The expression for one character. Raises Untranslatable."""
    if 0xD800 <= code <= 0xDFFF:
        raise Untranslatable("half of a surrogate pair")
    return literal(chr(code))


class _Reader:
    """Translates an expression from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0

    def expression(self) -> str:
        pieces = []
        while self._at < len(self._pattern):
            pieces.append(self._piece())
        return "".join(pieces)

    def _piece(self) -> str:
        one = self._take()
        if one == "\\":
            kind, value = self._escape()
            return f"[{_SHORTHANDS[value][0]}]" if kind == "class" else value
        if one == "[":
            return self._class()
        if one == ".":
            return _DOT
        if one == "{":
            found = _QUANTIFIER.match(self._pattern, self._at - 1)
            if found:
                self._at = found.end()
                return found[0]
            if self._pattern.startswith(",", self._at):
                raise Untranslatable("{,n} means different things to different validators")
            return r"\{"
        if one in "}]":
            return "\\" + one
        if one == "(" and self._pattern.startswith("?", self._at):
            return self._group()
        return one if one in "^$()|*+?" else _written(ord(one))

    def _group(self) -> str:
        if self._pattern.startswith(("?=", "?!", "?<=", "?<!"), self._at):
            raise Untranslatable("look-around, including look-ahead and look-behind, is not supported")
        named = re.compile(r"\?P?<[A-Za-z_$][\w$]*>|\?:").match(self._pattern, self._at)
        if named is None:
            raise Untranslatable(f"the group ({self._pattern[self._at : self._at + 3]} is not supported")
        self._at = named.end()
        return "(?:"

    def _take(self) -> str:
        if self._at >= len(self._pattern):
            raise Untranslatable("the expression ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _escape(self, *, in_class: bool = False) -> tuple[str, str]:
        """Read an escape after its backslash: ("class", letter), ("property", text) or ("one", character)."""
        hexadecimal = _HEX.match(self._pattern, self._at)
        if hexadecimal:
            self._at = hexadecimal.end()
            if hexadecimal[4]:
                return "one", _written(ord(hexadecimal[4]) % 32)
            digits = hexadecimal[1] or hexadecimal[2] or hexadecimal[3]
            return "one", _written(self._code(int(digits, 16)))
        named = _PROPERTY.match(self._pattern, self._at)
        if named:
            self._at = named.end()
            return "property", "\\" + named[0]
        one = self._take()
        if one in _SHORTHANDS:
            return "class", one
        if one in _CONTROLS:
            return "one", _written(_CONTROLS[one])
        if one == "b" and in_class:
            return "one", _written(8)
        if one == "b" or one == "B":
            raise Untranslatable("word boundaries are not supported")
        if one.isdecimal() or one == "k":
            raise Untranslatable("backreferences are not supported")
        if one.isalpha() and one.isascii():
            raise Untranslatable(f"the escape \\{one} is not supported")
        return "one", _written(ord(one))

    def _code(self, code: int) -> int:
        """The code of a character; reads the second half of a surrogate pair."""
        low = re.compile(r"\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE).match(self._pattern, self._at)
        if 0xD800 <= code < 0xDC00 and low:
            self._at = low.end()
            return 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        return code

    def _class(self) -> str:
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        if self._pattern.startswith("]", self._at):
            raise Untranslatable("[] and [^] mean different things to different validators")
        items: list[str] = []
        while (item := self._item(negated=negated)) is not None:
            items.append(item)
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def _item(self, *, negated: bool) -> str | None:
        """Read a character, a range or a shorthand in a class; None at its end."""
        one = self._take()
        if one == "]":
            return None
        first = self._member(one)
        if first in _SHORTHANDS and one == "\\":
            return _SHORTHANDS[first][negated]
        ranges = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
        if not ranges or first.startswith(("\\p", "\\P")):
            return first
        self._at += 1
        next_one = self._take()
        last = self._member(next_one)
        if next_one == "\\" and (last in _SHORTHANDS or last.startswith(("\\p", "\\P"))):
            raise Untranslatable("a range to a class of characters")
        return f"{first}-{last}"

    def _member(self, one: str) -> str:
        return self._escape(in_class=True)[1] if one == "\\" else _written(ord(one))
