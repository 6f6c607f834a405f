"""Counts that show whether the code stays small: lines, functions, and where answers are raced and wrapped.

`python -m tests.sizes --docstrings 50` prints that many docstrings, drawn at random, to be read aloud.
"""

from __future__ import annotations

import argparse
import ast
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import headrace

ROOT = Path(headrace.__file__).parent
LONGEST = 8  # of files and of functions are listed


def sources() -> dict[str, str]:
    """The text of each file of the package, by its path below it."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def containing(files: dict[str, str], text: str) -> list[str]:
    """The files in which `text` stands."""
    return [path for path, source in files.items() if text in source]


def sizes() -> None:
    files = sources()
    lines = {path: source.count("\n") for path, source in files.items()}
    for path in sorted(lines, key=lines.__getitem__, reverse=True)[:LONGEST]:
        print(f"{lines[path]:6} {path}")
    print(f"{sum(lines.values()):6} lines in {len(lines)} files, median {median(lines.values()):.0f}")
    lengths = {
        f"{path}: {node.name}": length(node)
        for path, source in files.items()
        for node in functions(ast.parse(source))
    }
    for name in sorted(lengths, key=lengths.__getitem__, reverse=True)[:LONGEST]:
        print(f"{lengths[name]:6} {name}")
    print(f"{len(lengths):6} functions, median {median(lengths.values()):.0f} lines, longest above")
    for text in ("FIRST_COMPLETED", "generation.events =", "generation.exits ="):
        found = containing(files, text)
        print(f"{len(found):6} files with {text!r} {' '.join(found)}")


def docstrings(count: int, seed: int) -> None:
    """Prints `count` docstrings of classes and functions, with where they stand."""
    found = [
        (path, node.name, " ".join(doc.split()))
        for path, source in sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (doc := ast.get_docstring(node)) is not None
    ]
    for number, (path, name, doc) in enumerate(random.Random(seed).sample(found, count), 1):
        print(f"{number:3} {path}: {name}\n    {doc}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docstrings", type=int, metavar="N", help="print N docstrings instead")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.docstrings:
        docstrings(options.docstrings, options.seed)
    else:
        sizes()


if __name__ == "__main__":
    main()
