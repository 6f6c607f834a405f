"""Providers for the tests of this folder: one that shows what is written to it, those that are relayed to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.relays import relay, shared
from tests.backends.writing import Written, writing

__all__ = ["relay", "shared", "writing_server", "written"]


@pytest.fixture(scope="module")
def writing_server() -> Iterator[Written]:
    with writing() as made:
        yield made


@pytest.fixture
def written(writing_server: Written) -> Written:
    writing_server.provider.forget()
    writing_server.served.gateway._wishes._refused.clear()
    return writing_server
