"""Texts to train on: files, or what every Python brings along."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from headrace.errors import ConfigError

LEAST_DOCSTRING = 200  # characters: shorter ones are mostly signatures
LEAST_WINDOW = 16  # tokens: shorter pieces of text have too little context
SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"})

Encode = Callable[[str], list[int]]


def library_texts() -> Iterator[str]:
    """Python's own documentation: its help topics, and the docstrings of its standard library."""
    from pydoc_data.topics import topics

    yield from topics.values()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(root).parts):
            yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    """The longer docstrings of a module, without importing it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # deliberately broken files, other encodings
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and len(text := ast.get_docstring(node) or "") >= LEAST_DOCSTRING:
            yield text


def file_texts(paths: Sequence[Path]) -> Iterator[str]:
    """The documents of text files, which two empty lines separate. Raises ConfigError."""
    for path in paths:
        yield from (part for part in _text(path).split("\n\n\n") if part.strip())


def file_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises ConfigError if there is none."""
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{path} has no text; write one text a line")
    return lines


def _text(path: Path) -> str:
    """A file's text, without a byte order mark. Raises ConfigError for one in another encoding: what is
    trained on its letters would look as good, and be of no use.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path} is not in UTF-8: its byte {exc.start} is {exc.object[exc.start]:#04x}"
        ) from exc


def windows(
    texts: Iterator[str],
    encode: Encode,
    *,
    length: int,
    tokens: int,
    prefix: Sequence[int] = (),
    seed: int = 0,
) -> list[list[int]]:
    """Cut texts into windows of at most `length` tokens, and choose some of them at random, until they have
    `tokens`. `prefix`: tokens before each. Raises ConfigError if there is too little text.
    """
    room = length - len(prefix)
    pieces: list[list[int]] = []
    for text in texts:
        ids = encode(text)
        pieces += [ids[first : first + room] for first in range(0, len(ids), room)]
    pieces = [piece for piece in pieces if len(piece) >= LEAST_WINDOW]
    order = np.random.default_rng(seed).permutation(len(pieces))
    chosen: list[list[int]] = []
    count = 0
    for index in order.tolist():
        if count >= tokens:
            break
        chosen.append([*prefix, *pieces[index]])
        count += len(pieces[index])
    if len(chosen) < 2:
        raise ConfigError(f"the texts have {count} usable tokens, which is too little")
    return chosen
