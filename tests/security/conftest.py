from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.process import Serving
from tests.security.raw import gateway


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """As it is served by default: on loopback, without keys."""
    with gateway(tmp_path_factory.mktemp("server")) as served:
        yield served
