"""The hub's errors; its success needs the hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headrace.config import install_command

PREPARE = """
import sys
from pathlib import Path
if "without" in sys.argv:
    sys.modules["huggingface_hub"] = None
from headrace.errors import ModelError
from headrace.models.catalog import Cache, prepare
try:
    prepare("hf:org/repo", Cache(Path(sys.argv[1])))
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
    assert message(tmp_path).startswith("hf:org/repo cannot be fetched: ")


def test_the_missing_package_is_named(tmp_path: Path) -> None:
    assert f"huggingface_hub: {install_command('hub')}" in message(tmp_path, "without")
