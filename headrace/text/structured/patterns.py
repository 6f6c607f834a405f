r"""Translates regular expressions of JSON Schema (ECMA 262, searched for anywhere in a text) to llguidance's
dialect.

Validators differ: Python's `\s` includes U+0085, ECMA's U+FEFF. The translation matches only what matches in
both.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from llguidance import LLMatcher

from headrace.errors import bounded
from headrace.text.structured.formats import literal

MAX_WORD = 60  # characters of an excluded text: each is a nested group

_SPACES = r"\t\n\x0b\x0c\r \xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"  # both
_ANY_SPACES = _SPACES + r"\x1c-\x1f\x85\x{feff}"  # either
_LETTERS = r"\p{L}\p{M}\p{N}\p{Pc}"
# shorthand → (the characters that it has in both dialects, those that it has in either)
_SHORTHANDS = {
    r"\d": (r"0-9", r"\p{Nd}"),
    r"\w": (r"A-Za-z0-9_", _LETTERS),
    r"\s": (_SPACES, _ANY_SPACES),
    r"\D": (r"[^\p{Nd}]", r"[^0-9]"),
    r"\W": (f"[^{_LETTERS}]", r"[^A-Za-z0-9_]"),
    r"\S": (f"[^{_ANY_SPACES}]", f"[^{_SPACES}]"),
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_ANYTHING = "(?s:.)"
_MANY = r"\\[dwsDWS]|\\[pP]\{[^{}]*\}"
_HEX = "[0-9a-fA-F]"
_PAIR = rf"\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"  # of surrogates
_ONE = rf"{_PAIR}|\\u\{{{_HEX}{{1,6}}\}}|\\u{_HEX}{{4}}|\\x{_HEX}{{2}}|\\c[A-Za-z]|\\.|."
_TOKEN = re.compile(
    rf"(?P<many>{_MANY})|(?P<class>\[(?:\\.|[^\]\\])*\])|(?P<count>\{{\d+(?:,\d*)?\}}|[*+?])"
    rf"|(?P<look>\(\?<?[=!])|(?P<open>\((?!\?)|\(\?:|\(\?P?<[A-Za-z_$][\w$]*>)|(?P<unknown>\(\?.{{0,2}}|\[|\{{,)"
    rf"|(?P<close>\))|(?P<or>\|)|(?P<edge>[\^$])|(?P<dot>\.)|(?P<one>{_ONE})",
    re.DOTALL,
)
_HALF = rf"\\u[dD][89a-fA-F]{_HEX}{{2}}"
_HALVES = re.compile(f"{_HALF}(?:-{_HALF})?")
_IN_CLASS = re.compile(rf"(?P<many>{_MANY})|(?P<first>{_ONE})(?:-(?P<last>{_MANY}|{_ONE}))?", re.DOTALL)


class Untranslatable(ValueError):
    """The expression cannot be written in llguidance's dialect."""


class Token(NamedTuple):
    """A piece of an expression. `kind`: the group of _TOKEN; `depth`: of the groups around it."""

    kind: str
    text: str
    depth: int


@lru_cache(maxsize=1024)
def problem(pattern: str) -> str:
    """Why llguidance refuses an expression in its own dialect; empty if it accepts it."""
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    return readable(LLMatcher.validate_grammar(grammar))


def readable(message: str) -> str:
    """llguidance's error message without its dumps of the state and the expression."""
    message = message.split("\n<state>")[0].strip()
    match = re.search(r"error: (.+)", message.split("regex parse error:")[-1])
    text = match[1] if match and "regex parse" in message else message.split("\n")[0]
    return bounded(text, 300)


def other_than(words: Iterable[str]) -> str:
    """An expression for all texts other than these. Raises Untranslatable."""
    return f"^{outside(trie(words), whole=True)}$"


def sized(pattern: str, least: int, most: int | None) -> str | None:
    """An expression for the texts of an expression (both in llguidance's dialect) that have at least and at
    most so many characters; None if none is known.
    """
    if least and _has_none(pattern, maxLength=least - 1):
        least = 0
    if most is not None and _has_none(pattern, minLength=most + 1):
        most = None
    if least == 0 and most is None:
        return pattern
    match = re.fullmatch(r"\^(.+)([*+])\$", pattern, re.DOTALL)
    if match is None:
        return None
    piece, tokens = match[1], tokens_of(match[1])
    if len(tokens) == 1 and tokens[0].kind == "class":
        return f"^{piece}{{{max(least, int(match[2] == '+'))},{'' if most is None else most}}}$"
    is_group = tokens[0].kind == "open" and closing(tokens) is tokens[-1]
    is_nonempty = is_group and least == 1 and most is None and _has_none(f"^{piece}$", maxLength=0)
    return f"^{piece}+$" if is_nonempty else None


def _has_none(pattern: str, **sizes: int) -> bool:
    """Whether certainly no text of these sizes matches."""
    schema = {"type": "string", "pattern": pattern, **sizes}
    return "nsatisfiable" in LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))


def avoiding(pattern: str) -> str | None:
    """An expression that matches only texts without the pattern, though not all of them; None if none is
    known.
    """
    try:
        branches = branches_of(tokens_of(pattern))
        if len(branches) == 1 and (prefix := _prefix(branches[0])):
            return f"^{outside(trie([prefix]), whole=False)}$"
        needed = [_needed(branch) for branch in branches]
    except Untranslatable:
        return None
    return None if None in needed else f"^[^{''.join(filter(None, needed))}]*$"


def tokens_of(pattern: str) -> list[Token]:
    tokens, depth = [], 0
    for match in _TOKEN.finditer(pattern):
        kind = str(match.lastgroup)
        depth -= kind == "close"
        tokens.append(Token(kind, match[0], depth))
        depth += kind in ("open", "look")
    return tokens


def branches_of(tokens: list[Token]) -> list[list[Token]]:
    """The alternatives at the top level."""
    branches: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind == "or" and token.depth == 0:
            branches.append([])
        else:
            branches[-1].append(token)
    return branches


def _prefix(branch: list[Token]) -> str:
    """The text with which every match begins."""
    if not branch or branch[0].text != "^":
        return ""
    size = next((i for i, token in enumerate(branch[1:]) if token.kind != "one"), len(branch) - 1)
    size -= size + 1 < len(branch) and branch[size + 1].kind == "count"
    return text_of(branch[1 : size + 1])


def _needed(branch: list[Token]) -> str | None:
    """Characters, as in a class, of which every match contains one, preferably rare ones; None: unknown."""
    classes: list[tuple[bool, str]] = []
    for token, after in itertools.pairwise([*branch, Token("", "", 0)]):
        if token.depth or after.text.startswith(("*", "?", "{0")):
            continue
        if token.kind == "one":
            one = code_of(token.text)
            classes.append((chr(one).isalnum(), written(one)))
        elif token.text in (r"\d", r"\w", r"\s"):
            classes.append((True, _SHORTHANDS[token.text][1]))
        elif token.kind == "class" and token.text[1] != "^" and not re.search(_MANY, token.text):
            classes.append((True, class_of(token.text)))
    return min(classes)[1] if classes else None


def closing(tokens: list[Token]) -> Token | None:
    """The end of the group that the first token opens."""
    return next((token for token in tokens if token.kind == "close" and token.depth == tokens[0].depth), None)


def text_of(tokens: list[Token]) -> str:
    """The only text that these tokens match. Raises Untranslatable."""
    if not tokens or any(token.kind != "one" for token in tokens):
        raise Untranslatable("look-around is not supported")
    return "".join(chr(code_of(token.text)) for token in tokens)


Trie = dict[str, "Trie"]


def trie(words: Iterable[str]) -> Trie:
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


def outside(node: Trie, *, whole: bool) -> str:
    """An expression for texts that are not in the trie (`whole`), or that begin with none of its words."""
    ends = "" in node
    if ends and not whole:
        return "[^\\x00-\\x{10ffff}]"  # nothing
    following = [one for one in node if one]
    if not following:
        return f"{_ANYTHING}+" if ends else f"{_ANYTHING}*"
    others = "".join(written(ord(one)) for one in following)
    longer = [one for one in following if whole or "" not in node[one]]
    branches = [written(ord(one)) + outside(node[one], whole=whole) for one in longer]
    return f"(?:{'|'.join([f'[^{others}]{_ANYTHING}*', *branches])})" + ("" if ends else "?")


def expression_of(tokens: list[Token]) -> str:
    return "".join(map(piece, tokens))


def piece(token: Token) -> str:
    kind, text, _ = token
    if kind == "many":
        return f"[{_SHORTHANDS[text][0]}]" if text in _SHORTHANDS else text
    if kind == "class":
        return class_of(text)
    if kind in ("look", "unknown"):
        raise Untranslatable(_reason(text))
    if kind == "one":
        return written(code_of(text))
    return {"open": "(?:", "dot": _DOT}.get(kind, text)


def _reason(text: str) -> str:
    if text == "[":
        return "the expression ends too early"
    if text == "{,":
        return "{,n} means different things to different validators"
    if text.startswith("(?") and text[-1] in "=!":
        return "look-around, including look-ahead and look-behind, is not supported"
    return f"the group {text} is not supported"


def class_of(text: str) -> str:
    """Translate a class of characters. Raises Untranslatable."""
    is_negated = text.startswith("[^")
    matches: Iterable[re.Match[str]] = _IN_CLASS.finditer(text[1 + is_negated : -1])
    if not is_negated:
        matches = (match for match in matches if not _HALVES.fullmatch(match[0]))  # no text has half a pair
    items = [_item(match, is_negated=is_negated) for match in matches]
    if not items:
        raise Untranslatable("[] and [^] mean different things to different validators")
    return f"[{'^' if is_negated else ''}{''.join(items)}]"


def _item(match: re.Match[str], *, is_negated: bool) -> str:
    """Translate a character, a range or a shorthand in a class."""
    many, first, last = match["many"], match["first"], match["last"]
    if many:
        return _SHORTHANDS[many][is_negated] if many in _SHORTHANDS else many
    if last is None:
        return written(code_of(first, in_class=True))
    if re.fullmatch(_MANY, last):
        raise Untranslatable("a range to a class of characters")
    return f"{written(code_of(first, in_class=True))}-{written(code_of(last, in_class=True))}"


def code_of(text: str, *, in_class: bool = False) -> int:
    """The code of the character that a token stands for. Raises Untranslatable."""
    if len(text) == 1:
        if text == "\\":
            raise Untranslatable("the expression ends too early")
        return ord(text)
    one = text[1]
    if one in "ux" and len(text) > 2:
        high, *low = (int(digits, 16) for digits in re.findall(f"{_HEX}+", text[2:].replace("u", "-")))
        return 0x10000 + ((high - 0xD800) << 10) + low[0] - 0xDC00 if low else high
    if one in _CONTROLS:
        return _CONTROLS[one]
    if one == "b" and in_class:
        return 8
    if one == "c" and len(text) == 3:
        return ord(text[2]) % 32
    if one in "bB":
        raise Untranslatable("word boundaries are not supported")
    if one.isdecimal() or one == "k":
        raise Untranslatable("backreferences are not supported")
    if one.isalpha() and one.isascii():
        raise Untranslatable(f"the escape \\{one} is not supported")
    return ord(one)


def written(code: int) -> str:
    """The expression for one character. Raises Untranslatable."""
    if 0xD800 <= code <= 0xDFFF:
        raise Untranslatable("half of a surrogate pair")
    return literal(chr(code))
