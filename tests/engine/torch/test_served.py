"""Folders of safetensors over HTTP: they answer what transformers' own `generate` writes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.config import Config
from headrace.errors import ModelError
from headrace.models.catalog import Cache, Model, prepare
from headrace.text.tokenizer import Tokenizer
from tests.conftest import serving_model
from tests.engine.architectures import random_model
from tests.engine.torch.folders import generated, write_folder
from tests.serving import SLOW_S, Served, serving

FEW = ("llama", "gemma2", "gpt_oss", "deepseek_v3", "gpt2", "qwen3_moe", "mamba", "mamba2", "bloom")
SLOW = ("mamba", "mamba2", "bloom")
PROMPTS = [[5 + (7 * i + 31 * j) % 250 for i in range(3 + 9 * j)] for j in range(6)]
MAX_TOKENS = 20


@pytest.fixture(scope="module", params=FEW)
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Model]:
    name: str = request.param
    folder = write_folder(random_model(name), tmp_path_factory.mktemp("folders") / f"tiny-{name}")
    return name, prepare(str(folder), Cache(folder.parent / "cache"))


@pytest.fixture(scope="module")
def served(named: tuple[str, Model]) -> Iterator[Served]:
    with serving_model(named[1], precision="f32", kv_cache_bytes="16MiB", generation_config="none") as served:
        yield served


def answer(served: Served, prompt: list[int]) -> str:
    body = {
        "model": served.backend.models()[0].id, "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0,
        "ignore_eos": True,
    }  # fmt: skip
    response = served.post("/v1/completions", body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


def wanted(model: Any, folder: Path, prompt: list[int]) -> str:
    """The text of what `generate` writes."""
    tokenizer = Tokenizer(folder)
    tokens = generated(model, prompt, MAX_TOKENS)
    return b"".join(map(tokenizer.token_bytes, tokens)).decode(errors="replace")


def test_greedy_answers_are_those_of_generate(named: tuple[str, Model], served: Served) -> None:
    model = random_model(named[0])
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: answer(served, prompt), PROMPTS))
    assert answers == [wanted(model, named[1].folder, prompt) for prompt in PROMPTS]


def test_the_list_of_models_says_what_computes_it(named: tuple[str, Model], served: Served) -> None:
    entry = served.get(f"/v1/models/tiny-{named[0]}").json()
    assert entry["runner"] == ("torch, one sequence at a time" if named[0] in SLOW else "torch")


def test_a_chat(named: tuple[str, Model], served: Served) -> None:
    message = {"role": "user", "content": "the a"}
    body = {"model": f"tiny-{named[0]}", "messages": [message], "max_tokens": 5, "ignore_eos": True}
    response = served.post("/v1/chat/completions", body).json()
    assert response["usage"]["completion_tokens"] == 5


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = random_model("llama")
    folder = write_folder(model, tmp_path / "sharded", shard="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    with serving_model(prepare(str(folder), Cache(tmp_path)), precision="f32") as served:
        assert answer(served, PROMPTS[1]) == wanted(model, folder, PROMPTS[1])


SEEING: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "vision_config": {"depth": 1, "num_heads": 2, "out_hidden_size": 64}, "image_token_id": 7,
        "video_token_id": 8,
    },
    # Only its language model takes another attention.
    "got_ocr2": {
        "vision_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32},
        "image_token_index": 7,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SEEING)
def test_a_model_that_sees_images_writes_text_without_any(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    seeing = {"hidden_size": 32, "intermediate_size": 48, **SEEING[name]["vision_config"]}
    members = {**SEEING[name], "vision_config": seeing, "text_config": sizes}
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **members)).float().eval()
    folder = write_folder(model, tmp_path / "seeing")
    with serving_model(prepare(str(folder), Cache(tmp_path)), precision="f32") as served:
        assert answer(served, PROMPTS[3]) == wanted(model, folder, PROMPTS[3])
        assert served.get("/v1/models/seeing").json()["runner"] == "torch"


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
open({mark!r}, "w").close()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_folder_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    model = random_model("llama")
    folder, mark = write_folder(model, tmp_path / "own"), tmp_path / "mark"
    (folder / "modeling_own.py").write_text(CODE.format(mark=str(mark)))
    members = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(members | {"model_type": "own", "auto_map": names}))
    described = prepare(str(folder), Cache(tmp_path))
    engine = {"engine": {"precision": "f32", "kv_cache_bytes": "16MiB", "disk_cache_bytes": 0}}
    backend = build_backends(Config.model_validate(engine), [described])[0]
    with pytest.raises(ModelError, match="--trust-remote-code runs that code"):
        asyncio.run(backend.start())
    assert not mark.exists()
    config = Config.model_validate({**engine, "models": {"trust_remote_code": True}})
    with serving(create_app(config, build_backends(config, [described])), silence_s=SLOW_S) as served:
        assert answer(served, PROMPTS[1]) == wanted(model, folder, PROMPTS[1])
    assert mark.exists()


PEAK = """
import resource, sys
from pathlib import Path
import torch
from headrace.engine.torch import weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights.read_model(Path(sys.argv[1]), torch.float32, torch.device("cpu"), trusts_code=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_loading_needs_hardly_more_than_the_weights(default_checkpoint: Model) -> None:
    command = [sys.executable, "-c", PEAK, str(default_checkpoint.folder)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    size = (default_checkpoint.folder / "model.safetensors").stat().st_size
    assert int(printed) * 1024 < 1.15 * size


assert torch.get_default_dtype() == torch.float32
