"""The way of a streamed chat stays short: how many functions of the package it enters, in how many files."""

from __future__ import annotations

from tests.flow import entered

MAX_FUNCTIONS, MAX_FILES = 90, 20


def test_a_streamed_chat_enters_few_functions_in_few_files() -> None:
    functions = entered()
    listed = "\n".join(f"{file}: {name}" for file, name in sorted(functions))
    assert len(functions) <= MAX_FUNCTIONS, listed
    assert len({file for file, _ in functions}) <= MAX_FILES, listed
