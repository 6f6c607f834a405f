"""The default model, prepared once in the user's own cache, for the tests in this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare


@pytest.fixture(scope="session")
def cache() -> Cache:
    named = os.environ.get("HEADRACE_CACHE")
    return Cache(Path(named) if named else user_cache_path("headrace"))


@pytest.fixture(scope="session")
def default_model(cache: Cache) -> Model:
    return prepare(DEFAULT_MODEL, cache)
