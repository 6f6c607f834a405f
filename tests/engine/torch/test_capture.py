"""Hidden states of models that PyTorch runs are those of transformers; vectors are trained with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headrace.cli import main
from headrace.engine.torch.capture import TorchHiddenStates, load_states
from headrace.engine.torch.decoder import Decoder
from headrace.engine.torch.options import TorchOptions
from headrace.models.catalog import Cache, prepare
from tests.conftest import serving_model
from tests.engine.architectures import random_model
from tests.engine.torch.folders import write_folder

TOKENS = [5, 17, 200, 3, 9, 42]
POSITIVE, NEGATIVE = ["the a of the a", "a the of a the"], ["of of of a of", "of a of of of"]


def num_hooks(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


# These list what leaves each block, but not what enters the first: one place earlier than all others.
WITHOUT_EMBEDDINGS = ("mamba", "mamba2", "rwkv")


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bloom", *WITHOUT_EMBEDDINGS])
def test_states_are_those_of_transformers(name: str) -> None:
    model = random_model(name)
    states = TorchHiddenStates(Decoder(model), lambda text: [])
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([TOKENS]), output_hidden_states=True, use_cache=False)
    hooks = num_hooks(model)
    has_embeddings = name not in WITHOUT_EMBEDDINGS
    found = states.states(TOKENS, (-1, 0) if has_embeddings else (0, 1))
    for layer, values in found.items():
        theirs = output.hidden_states[layer + has_embeddings][0]
        np.testing.assert_allclose(values, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(states.logits(TOKENS), output.logits[0], rtol=1e-4, atol=1e-5)
    same = states.logits(TOKENS, {0: found[0]})
    np.testing.assert_allclose(same, output.logits[0], rtol=1e-4, atol=1e-5)
    assert np.abs(states.logits(TOKENS, {0: found[0][::-1]}) - same).max() > 1e-4
    assert num_hooks(model) == hooks, "none is left"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(random_model("llama"), tmp_path_factory.mktemp("folders") / "tiny")


def test_a_vector_is_trained_by_a_server_and_steers(folder: Path, tmp_path: Path) -> None:
    model = prepare(str(folder), Cache(tmp_path))
    with serving_model(model, precision="f32", kv_cache_bytes="16MiB") as served:
        body = {"id": "new", "positive": POSITIVE, "negative": NEGATIVE, "layers": [0]}
        trained = served.post("/v1/vectors/train", body)
        assert trained.status_code == 200, trained.text
        asked = {"model": "tiny", "prompt": "the a", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        op = {"vector": "new", "mode": "add", "value": 1}
        steered = served.post("/v1/completions", {**asked, "steering": {"ops": [op], "receipt": True}})
        assert steered.json()["choices"][0]["steering"]["tokens_steered"] > 0, steered.text
        library = served.backend.library("tiny")
        assert library is not None
        vector = library.vector("new")[0]
    states = load_states(folder, lambda text: [], TorchOptions(), exact=True)
    assert (states.num_layers, states.width) == (random_model("llama").config.num_hidden_layers, len(vector))


def test_a_vector_is_trained_by_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, texts in (("positive", POSITIVE), ("negative", NEGATIVE)):
        (tmp_path / name).write_text("\n".join(texts))
    (tmp_path / "headrace.toml").write_text(
        f'[models]\ndefault = "{folder}"\nbackends = ["tiny=torch"]\n'
        f'[paths]\ndata = "{tmp_path}/data"\ncache = "{tmp_path}/cache"\n'
    )
    files = [f"--{name}={tmp_path / name}" for name in ("positive", "negative")]
    config = f"--config={tmp_path}/headrace.toml"
    assert main(["steer", "train-vector", *files, "--layer=1", "--name=new", config]) == 0
    assert "the margin of positive over negative texts" in capsys.readouterr().out
    assert (tmp_path / "data" / "steering" / "vectors" / "new.gguf").is_file()
