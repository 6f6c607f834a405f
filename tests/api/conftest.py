"""The servers of tests with scripted providers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.relays import Relays, relays
from tests.serving import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[Relays]:
    """One server for a module, which may define another."""
    with relays() as found:
        yield found


@pytest.fixture
def relay(shared: Relays) -> Iterator[Relays]:
    """The module's server, whose provider has nothing to play, and which must be idle after the test."""
    shared.provider.forget()
    yield shared
    eventually(lambda: not shared.served.gateway.num_active)
