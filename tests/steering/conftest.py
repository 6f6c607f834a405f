"""The tiny model of the engine's tests."""

from __future__ import annotations

from tests.engine.conftest import tiny as tiny
