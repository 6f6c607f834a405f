"""When llama.cpp serves a model: because our engine does not read it, or the configuration says so."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from headrace.assembly import build_providers
from headrace.cli.models import fetch, pull
from headrace.config import Config, Loaded
from headrace.errors import ModelError, UnsupportedModel
from headrace.models.catalog import GGUFModel, Model
from tests.cli.process import headrace, serving
from tests.models.tiny import write_tiny

REQUEST = {"model": "other", "prompt": "a", "max_tokens": 3, "temperature": 0}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Of an architecture that our engine does not read."""
    return write_tiny(tmp_path / "other.gguf", "exaone")


def config(cache: Path, *backends: str) -> Config:
    return Config.model_validate({"paths": {"cache": cache}, "models": {"backends": backends}})


def test_llama_cpp_serves_what_the_engine_does_not_read(other: Path, tmp_path: Path) -> None:
    ours = write_tiny(tmp_path / "ours.gguf", "llama")
    members = {"HEADRACE_CACHE": str(tmp_path / "cache"), "HEADRACE_MAX_NUM_SEQS": "2"}
    arguments = (str(other), str(ours), "--model-backend", "ours=llamacpp", "--max-model-len", "300")
    with serving(*arguments, cwd=tmp_path, **members) as server:
        assert "model   other (exaone, F32, context 512, by llama.cpp)" in server.announcement
        assert "model   ours (llama, F32, context 512, by llama.cpp)" in server.announcement
        assert (
            "'exaone'; the engine reads llama, qwen2, qwen3, qwen3moe, "
            "smollm3, granite, phi3, gemma3: llama.cpp serves it" in server.log.read_text()
        )
        answer = server.post(dict(REQUEST))
        assert answer.json()["usage"]["completion_tokens"] == 3
        assert answer.headers["x-headrace-backend"] == "headrace"
        listed = server.http.get("/headrace/v1/models").json()["data"]
        assert [(entry["id"], entry["owned_by"]) for entry in listed if entry["kind"] != "embedding"] == [
            ("other", "headrace"),
            ("ours", "headrace"),
        ]


def test_choice_can_be_made_for_a_model(other: Path, default_model: Model, tmp_path: Path) -> None:
    assert isinstance(fetch(str(other), config(tmp_path)), GGUFModel)
    with pytest.raises(UnsupportedModel, match="exaone"):
        fetch(str(other), config(tmp_path, "other=engine"))
    ours = str(write_tiny(tmp_path / "ours.gguf", "llama"))
    assert isinstance(fetch(ours, config(tmp_path)), Model)
    chosen = fetch(ours, config(tmp_path, "ours=llamacpp"))
    assert isinstance(chosen, GGUFModel)
    assert (chosen.name, chosen.header.architecture, chosen.header.context_length) == ("ours", "llama", 512)
    assert chosen.header.cache_bytes == 2 * 2 * (32 + 32) * 2  # layers, heads, widths, float16


def test_alias_is_located_as_its_file(cache_config: Config, default_model: Model) -> None:
    found = fetch(default_model.name, cache_config)
    assert isinstance(found, GGUFModel)
    assert (found.gguf, found.name) == (default_model.gguf, default_model.name)
    assert found.header.quantization == default_model.quantization


@pytest.fixture
def cache_config(default_model: Model) -> Config:
    return config(default_model.folder.parents[1], f"{default_model.name}=llamacpp")


def test_without_the_extra_the_error_says_what_to_install(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # as if it were not there
    with pytest.raises(ModelError, match=r"'exaone'.*pip install -e .*\[llamacpp\]"):
        fetch(str(other), config(tmp_path))
    with pytest.raises(ModelError, match=r"pip install -e .*\[llamacpp\]"):
        fetch(str(other), config(tmp_path, "other=llamacpp"))


def test_provider_without_the_extra_does_not_start(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    providers = {"big": {"kind": "llamacpp", "path": str(other)}}
    (backend,) = build_providers(Config.model_validate({"providers": providers}))
    with pytest.raises(ModelError, match=r"pip install -e .*\[llamacpp\]"):
        asyncio.run(backend.start())


def test_folder_is_not_for_llama_cpp(default_model: Model, tmp_path: Path) -> None:
    name = default_model.folder.name.lower()
    with pytest.raises(ModelError, match=r"reads GGUF files"):
        fetch(str(default_model.folder), config(tmp_path, f"{name}=llamacpp"))


def test_pull_tells_what_it_is_for(other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pull(Namespace(reference=str(other)), Loaded(config(tmp_path), {})) == 0
    assert f"other is ready in {other}, for llama.cpp" in capsys.readouterr().out


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_it_is_a_provider_too(other: Path, tmp_path: Path) -> None:
    toml = f'[providers.big]\nkind = "llamacpp"\npath = "{other}"\n[models]\ndefault = ""\n'
    toml += '[providers.gone]\nkind = "llamacpp"\npath = "/gone.gguf"\n'
    file = write(tmp_path / "both.toml", toml)
    done = headrace("check-config", "--config", str(file), "--online", cwd=tmp_path)
    assert done.returncode == 1
    assert "big: answered; 1 model: other" in done.stdout
    assert "gone: failed: '/gone.gguf' does not exist" in done.stdout
    stopped = headrace("serve", "--port", "0", "--config", str(file), cwd=tmp_path)
    assert stopped.returncode == 2
    assert "'/gone.gguf' does not exist" in stopped.stderr
    alone = write(tmp_path / "one.toml", toml.partition("[providers.gone]")[0])
    with serving("--config", str(alone), cwd=tmp_path) as server:
        assert "remote  big (llamacpp" in server.announcement
        answer = server.post({**REQUEST, "model": "big:other"})
        assert answer.headers["x-headrace-backend"] == "big"
        assert answer.json()["model"] == "other"
        direct = server.http.post("/big/v1/completions", json=REQUEST)
        assert direct.json()["choices"][0]["text"] == answer.json()["choices"][0]["text"]
