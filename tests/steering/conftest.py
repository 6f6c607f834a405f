"""The tiny model of the engine's tests, and a steerable server over the default one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.models.catalog import Model
from tests.engine.conftest import tiny as tiny
from tests.serving import Served
from tests.steering.serving import copied, load, steerable


@pytest.fixture(scope="module")
def steered(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = copied(tmp_path_factory.mktemp("steering") / "root")
    with steerable(default_model, root) as served:
        load(served)
        yield served
