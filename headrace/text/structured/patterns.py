r"""Translates regular expressions of JSON Schema (ECMA 262, searched for anywhere in a text) to llguidance's
dialect.

Validators differ: Python's `\s` includes U+0085, ECMA's U+FEFF. The translation matches only what matches in
both.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
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
_IN_CLASS = re.compile(rf"(?P<many>{_MANY})|(?P<first>{_ONE})(?:-(?P<last>{_MANY}|{_ONE}))?", re.DOTALL)


class Untranslatable(ValueError):
    """The expression cannot be written in llguidance's dialect."""


class Token(NamedTuple):
    """A piece of an expression. `kind`: the group of _TOKEN; `depth`: of the groups around it."""

    kind: str
    text: str
    depth: int


def translated(pattern: str) -> list[str]:
    """Translate a pattern with lookaheads to expressions without: a text matches the pattern if each of them
    is found in it. Raises Untranslatable.
    """
    ahead, rest = _lookaheads(_tokens(pattern))
    is_done = ahead and [token.text for token in rest] == ["^"]
    return [*ahead, *([] if is_done else [_expression(rest)])]


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
    return f"^{_outside(_trie(words), whole=True)}$"


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
    piece, tokens = match[1], _tokens(match[1])
    if len(tokens) == 1 and tokens[0].kind == "class":
        return f"^{piece}{{{max(least, int(match[2] == '+'))},{'' if most is None else most}}}$"
    is_group = tokens[0].kind == "open" and _closing(tokens) is tokens[-1]
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
        branches = _branches(_tokens(pattern))
        if len(branches) == 1 and (prefix := _prefix(branches[0])):
            return f"^{_outside(_trie([prefix]), whole=False)}$"
        needed = [_needed(branch) for branch in branches]
    except Untranslatable:
        return None
    return None if None in needed else f"^[^{''.join(filter(None, needed))}]*$"


def _tokens(pattern: str) -> list[Token]:
    tokens, depth = [], 0
    for match in _TOKEN.finditer(pattern):
        kind = str(match.lastgroup)
        depth -= kind == "close"
        tokens.append(Token(kind, match[0], depth))
        depth += kind in ("open", "look")
    return tokens


def _branches(tokens: list[Token]) -> list[list[Token]]:
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
    return _text(branch[1 : size + 1])


def _needed(branch: list[Token]) -> str | None:
    """Characters, as in a class, of which every match contains one, preferably rare ones; None: unknown."""
    classes: list[tuple[bool, str]] = []
    for token, after in itertools.pairwise([*branch, Token("", "", 0)]):
        if token.depth or after.text.startswith(("*", "?", "{0")):
            continue
        if token.kind == "one":
            one = _code(token.text)
            classes.append((chr(one).isalnum(), _written(one)))
        elif token.text in (r"\d", r"\w", r"\s"):
            classes.append((True, _SHORTHANDS[token.text][1]))
        elif token.kind == "class" and token.text[1] != "^" and not re.search(_MANY, token.text):
            classes.append((True, _class(token.text)))
    return min(classes)[1] if classes else None


def _lookaheads(tokens: list[Token]) -> tuple[list[str], list[Token]]:
    """Splits `^(?=A)(?!B)C` into expressions for A and not B, and `^C`."""
    expressions: list[str] = []
    if [token.text for token in tokens[:1]] != ["^"] or len(_branches(tokens)) > 1:
        return [], tokens
    while len(tokens) > 1 and tokens[1].text in ("(?=", "(?!"):
        end = next((i for i, t in enumerate(tokens) if t.kind == "close" and t.depth == 0), None)
        if end is None:
            raise Untranslatable("unclosed group")
        inner = [token._replace(depth=token.depth - 1) for token in tokens[2:end]]
        expressions += [f"^(?:{_expression(inner)})"] if tokens[1].text == "(?=" else _not_ahead(inner)
        tokens = [tokens[0], *tokens[end + 1 :]]
    return expressions, tokens


def _not_ahead(inner: list[Token]) -> Iterator[str]:
    """Negative look-ahead of literal texts, as in `a|b$` and `(a|b)$`, and of `.*a` with one character."""
    if [token.text for token in inner[:2]] == [".", "*"] and len({token.text for token in inner[2:]}) == 1:
        yield _without(_text(inner[2:]))
        return
    is_last = inner[-1:] and inner[-1].text == "$"
    last = inner[-1:] if is_last else []
    group = inner[: -len(last)] if is_last else inner
    if len(group) > 2 and group[0].kind == "open" and group[-1] is _closing(group):
        inside = [token._replace(depth=token.depth - 1) for token in group[1:-1]]
        branches = [[*branch, *last] for branch in _branches(inside)]
    else:
        branches = _branches(inner)
    whole = [branch for branch in branches if branch and branch[-1].text == "$"]
    starts = [branch for branch in branches if branch not in whole]
    if starts:
        yield f"^{_outside(_trie(map(_start, starts)), whole=False)}$"
    if whole:
        yield f"^{_outside(_trie(_start(branch[:-1]) for branch in whole), whole=True)}$"


def _closing(tokens: list[Token]) -> Token | None:
    """The end of the group that the first token opens."""
    return next((token for token in tokens if token.kind == "close" and token.depth == tokens[0].depth), None)


def _start(branch: list[Token]) -> str:
    """The only text that a branch such as `^a` or `a.*` matches at its start. Raises Untranslatable."""
    begin = 1 if branch and branch[0].text == "^" else 0
    end = -2 if [token.text for token in branch[-2:]] == [".", "*"] else None
    return _text(branch[begin:end])


def _without(text: str) -> str:
    """An expression for texts without a character; without two of it in a row, if the text has two."""
    one = _written(ord(text[0]))
    if len(text) > 2:
        raise Untranslatable("look-around is not supported")
    return f"^[^{one}]*(?:{one}[^{one}]+)*{one}?$" if len(text) > 1 else f"^[^{one}]*$"


def _text(tokens: list[Token]) -> str:
    """The only text that these tokens match. Raises Untranslatable."""
    if not tokens or any(token.kind != "one" for token in tokens):
        raise Untranslatable("look-around is not supported")
    return "".join(chr(_code(token.text)) for token in tokens)


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
    longer = [one for one in following if whole or "" not in node[one]]
    branches = [_written(ord(one)) + _outside(node[one], whole=whole) for one in longer]
    return f"(?:{'|'.join([f'[^{others}]{_ANYTHING}*', *branches])})" + ("" if ends else "?")


def _expression(tokens: list[Token]) -> str:
    return "".join(map(_piece, tokens))


def _piece(token: Token) -> str:
    kind, text, _ = token
    if kind == "many":
        return f"[{_SHORTHANDS[text][0]}]" if text in _SHORTHANDS else text
    if kind == "class":
        return _class(text)
    if kind in ("look", "unknown"):
        raise Untranslatable(_reason(text))
    if kind == "one":
        return _written(_code(text))
    return {"open": "(?:", "dot": _DOT}.get(kind, text)


def _reason(text: str) -> str:
    if text == "[":
        return "the expression ends too early"
    if text == "{,":
        return "{,n} means different things to different validators"
    if text.startswith("(?") and text[-1] in "=!":
        return "look-around, including look-ahead and look-behind, is not supported"
    return f"the group {text} is not supported"


def _class(text: str) -> str:
    """Translate a class of characters. Raises Untranslatable."""
    is_negated = text.startswith("[^")
    items = [_item(match, is_negated=is_negated) for match in _IN_CLASS.finditer(text[1 + is_negated : -1])]
    if not items:
        raise Untranslatable("[] and [^] mean different things to different validators")
    return f"[{'^' if is_negated else ''}{''.join(items)}]"


def _item(match: re.Match[str], *, is_negated: bool) -> str:
    """Translate a character, a range or a shorthand in a class."""
    many, first, last = match["many"], match["first"], match["last"]
    if many:
        return _SHORTHANDS[many][is_negated] if many in _SHORTHANDS else many
    if last is None:
        return _written(_code(first, in_class=True))
    if re.fullmatch(_MANY, last):
        raise Untranslatable("a range to a class of characters")
    return f"{_written(_code(first, in_class=True))}-{_written(_code(last, in_class=True))}"


def _code(text: str, *, in_class: bool = False) -> int:
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


def _written(code: int) -> str:
    """The expression for one character. Raises Untranslatable."""
    if 0xD800 <= code <= 0xDFFF:
        raise Untranslatable("half of a surrogate pair")
    return literal(chr(code))
