"""Replaces look-around in a regular expression: `^(?=A)(?!B)C` becomes one expression for each condition.
A text that matches all of them matches the pattern in each dialect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.text.structured.patterns import (
    MAX_WORD,
    Token,
    Untranslatable,
    branches_of,
    class_of,
    closing,
    code_of,
    expression_of,
    outside,
    piece,
    text_of,
    tokens_of,
    trie,
    written,
)

UNSUPPORTED = "look-around, including look-ahead and look-behind, is not supported"
_ANY = "(?s:.)"


def translated(pattern: str) -> list[str]:
    """Translate a pattern to expressions without look-around: a text matches the pattern if each of them is
    found in it. Raises Untranslatable.
    """
    conditions, rest = _conditions(tokens_of(pattern))
    is_done = conditions and _texts(rest) == ["^"]
    return [*conditions, *([] if is_done else [expression_of(rest)])]


def _texts(tokens: list[Token]) -> list[str]:
    return [token.text for token in tokens]


def _conditions(tokens: list[Token]) -> tuple[list[str], list[Token]]:
    """The expressions for look-around outside of groups, and the other tokens. Raises Untranslatable."""
    found: list[str] = []
    while len(branches_of(tokens)) == 1:
        start = next((i for i, one in enumerate(tokens) if (one.kind, one.depth) == ("look", 0)), None)
        if start is None:
            break
        end = next((i for i, one in enumerate(tokens) if one is closing(tokens[start:])), None)
        if end is None:
            raise Untranslatable("unclosed group")
        inner = [token._replace(depth=token.depth - 1) for token in tokens[start + 1 : end]]
        before, after = tokens[:start], tokens[end + 1 :]
        if after and after[0].kind == "count":
            raise Untranslatable(UNSUPPORTED)
        found += _condition(_texts(before), tokens[start].text, inner, _texts(after))
        tokens = [*before, *after]
    return found, tokens


def _condition(before: list[str], look: str, inner: list[Token], after: list[str]) -> list[str]:
    """The expressions for one look-around between these pieces of the pattern. Raises Untranslatable."""
    if before == ["^"] and look == "(?=":
        return [f"^(?:{expression_of(_without_start(inner))})"]
    if look == "(?!" and _texts(inner[:2]) == [".", "*"] and len(branches_of(inner)) == 1:
        return [_without(inner[2:])]
    if before == ["^"] and look == "(?!":
        return list(_not_ahead(inner))
    if after == ["$"] and look == "(?<!":
        return [_not_last(_characters(branch)) for branch in branches_of(inner)]
    raise Untranslatable(UNSUPPORTED)


def _not_ahead(inner: list[Token]) -> Iterator[str]:
    """Negative look-ahead at the beginning, as in `a|b$`, `(a|b)$`, `[a-z]{2}` and `\\s*$`."""
    is_last = _texts(inner[-1:]) == ["$"]
    last = inner[-1:] if is_last else []
    group = inner[: -len(last)] if is_last else inner
    if len(group) > 2 and group[0].kind == "open" and group[-1] is closing(group):
        inside = [token._replace(depth=token.depth - 1) for token in group[1:-1]]
        branches = [[*branch, *last] for branch in branches_of(inside)]
    else:
        branches = branches_of(inner)
    words: dict[bool, list[str]] = {False: [], True: []}
    for branch in branches:
        is_whole = _texts(branch[-1:]) == ["$"]
        start = _start(branch[:-1] if is_whole else branch)
        if start and all(token.kind == "one" for token in start):
            words[is_whole].append(text_of(start))
        else:
            yield _not_first(start, is_whole=is_whole)
    for is_whole, texts in words.items():
        if texts:
            yield f"^{outside(trie(texts), whole=is_whole)}$"


def _without_start(branch: list[Token]) -> list[Token]:
    return branch[1:] if _texts(branch[:1]) == ["^"] else branch


def _start(branch: list[Token]) -> list[Token]:
    """What a branch such as `^a` or `a.*` says about the beginning of a text."""
    branch = _without_start(branch)
    return branch[:-2] if _texts(branch[-2:]) == [".", "*"] else branch


def _not_first(start: list[Token], *, is_whole: bool) -> str:
    """An expression for the texts that do not begin with such characters; `is_whole`: or have more."""
    if is_whole and len(start) == 2 and start[1].text in ("*", "+"):  # other than all of one kind
        (kind,) = _characters(start[:1])
        return f"^(?:{_ANY}*{_other(kind)}{_ANY}*){'?' if start[1].text == '+' else ''}$"
    kinds = _characters(start)
    ways = [f"{_ANY}{{{at}}}{_other(kind)}{_ANY}*" for at, kind in enumerate(kinds)]
    ways.append(f"{_ANY}{{0,{len(kinds) - 1}}}")
    if is_whole:  # a line break at the end is no more to some validators
        ways.append(rf"{_ANY}{{{len(kinds)}}}(?:[^\n]|\n{_ANY}){_ANY}*")
    return f"^(?:{'|'.join(ways)})$"


def _not_last(kinds: list[Token]) -> str:
    """An expression for the texts that do not end with such characters."""
    ways = [f"{_ANY}*{_other(kind)}{_ANY}{{{len(kinds) - at}}}" for at, kind in enumerate(kinds, 1)]
    return f"^(?:{_ANY}{{0,{len(kinds) - 1}}}|{'|'.join(ways)})$"


def _without(tokens: list[Token]) -> str:
    """An expression for texts without a character, or without these two in a row."""
    kinds = _characters(tokens)
    if len(kinds) == 1:
        return f"^{_other(kinds[0])}*$"
    if len(kinds) > 2:
        raise Untranslatable(UNSUPPORTED)
    one, two = map(written, map(ord, text_of(kinds)))
    if one == two:
        return f"^[^{one}]*(?:{one}[^{one}]+)*{one}?$"
    return f"^(?:[^{one}]|{one}+[^{one}{two}])*{one}*$"


def _characters(tokens: list[Token]) -> list[Token]:
    """A token for each character, of a piece that matches texts of one length. Raises Untranslatable."""
    found: list[Token] = []
    for token in tokens:
        times = re.fullmatch(r"\{(\d{1,2})\}", token.text)
        if token.kind in ("one", "class", "many", "dot"):
            found.append(token)
        elif found and times and 0 < int(times[1]) <= MAX_WORD:
            found += [found[-1]] * (int(times[1]) - 1)
        else:
            raise Untranslatable(UNSUPPORTED)
    if not 0 < len(found) <= MAX_WORD:
        raise Untranslatable(UNSUPPORTED)
    return found


def _other(kind: Token) -> str:
    """An expression for the characters that a token matches in no dialect."""
    text = kind.text
    if kind.kind == "many":
        return piece(kind._replace(text=text[0] + text[1].swapcase() + text[2:]))
    if kind.kind == "class":
        return class_of(f"[{text[2:]}" if text[1] == "^" else f"[^{text[1:]}")
    return r"\n" if kind.kind == "dot" else f"[^{written(code_of(text))}]"
