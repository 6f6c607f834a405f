"""The hub's errors, and what is in its own cache already; all else needs the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from headrace.config import install_command
from tests.models.checkpoints import write_safetensors

PREPARE = """
import sys
from pathlib import Path
if "without" in sys.argv:
    sys.modules["huggingface_hub"] = None
from headrace.errors import ModelError
from headrace.models.catalog import Cache, prepare
try:
    print(prepare("hf:org/repo", Cache(Path(sys.argv[1]))))
except ModelError as exc:
    print(exc.message)
"""


def message(folder: Path, how: str = "with") -> str:
    command = [sys.executable, "-c", PREPARE, str(folder), how]
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(folder),
        "PYTHONPATH": ":".join(sys.path),
    }
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_a_hub_that_is_out_of_reach(tmp_path: Path) -> None:
    assert message(tmp_path).startswith("hf:org/repo cannot be fetched from the hub: ")


def test_the_missing_package_is_named(tmp_path: Path) -> None:
    assert f"huggingface_hub: {install_command('hub')}" in message(tmp_path, "without")


def test_a_checkpoint_in_the_hubs_own_cache_needs_no_hub(tmp_path: Path) -> None:
    """As the hub's own programs lay it out: files under the hash of a commit, which a branch points to."""
    repository = tmp_path / "hub" / "models--org--repo"
    folder = repository / "snapshots" / ("0" * 40)
    write_folder(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    printed = message(tmp_path)
    assert "name='org/repo'" in printed
    assert repr(str(folder)) in printed


def test_a_checkpoint_that_is_not_complete_is_fetched(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--repo"
    folder = repository / "snapshots" / ("0" * 40)
    write_folder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert message(tmp_path).startswith("hf:org/repo cannot be fetched from the hub: ")


def write_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    config = {"model_type": "gemma", "vocab_size": 263, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", {"a": np.ones((2, 3), np.float32)})
