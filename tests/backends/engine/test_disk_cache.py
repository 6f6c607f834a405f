"""The prefix cache on disk, through the whole server: a restart finds the prompts, for their owners only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.config import Config
from headrace.models.catalog import Model
from tests.serving import Served, serving

ONE, TWO = "key-one", "key-two"
STORY = "The mill stood where the river turned, and its wheel had not moved since the flood. " * 12


def started(model: Model, folder: Path, **engine: object) -> AbstractContextManager[Served]:
    config = Config.model_validate(
        {
            "paths": {"cache": folder},
            "server": {"api_keys": (ONE, TWO)},
            "engine": {"kv_cache_bytes": "64MiB", **engine},
        }
    )
    return serving(create_app(config, build_backends(config, [model])))


def answer(server: Served, key: str = ONE) -> tuple[str, int]:
    """The text, and how many tokens of the prompt were cached."""
    body = {"model": "small", "prompt": STORY, "seed": 7, "temperature": 1, "max_tokens": 12}
    response = server.post("/v1/completions", body, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200, response.text
    got = response.json()
    return got["choices"][0]["text"], got["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture(scope="module")
def filled(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The cache folder that a server has left, and its answer."""
    folder = tmp_path_factory.mktemp("cache")
    with started(small_model, folder) as server:
        text, cached = answer(server)
    assert cached == 0
    return folder, text


def test_the_same_key_finds_its_prompt_after_a_restart(small_model: Model, filled: tuple[Path, str]) -> None:
    folder, text = filled
    with started(small_model, folder) as server:
        first, again = answer(server), answer(server)
    assert first[0] == again[0] == text
    assert again[1] >= first[1] >= 192


def test_another_key_does_not_find_it(small_model: Model, filled: tuple[Path, str]) -> None:
    folder, text = filled
    with started(small_model, folder) as server:
        assert answer(server, TWO) == (text, 0)


@pytest.mark.parametrize("engine", [{"precision": "f32"}, {"num_threads": 1}, {"disk_cache_bytes": 0}])
def test_another_configuration_does_not_find_it(
    small_model: Model, filled: tuple[Path, str], engine: dict[str, object]
) -> None:
    with started(small_model, filled[0], **engine) as server:
        assert answer(server)[1] == 0
