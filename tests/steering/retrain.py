"""Trains the vector and the SAE of the tests anew, by our own commands, into a folder:

    python -m tests.steering.retrain FOLDER

`make test-steering` then runs test_behaviour.py with them: STEERING_DATA=FOLDER.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from headrace.cli import main as headrace
from tests.pages import blocks

SAE = ["--features", "1152", "--tokens", "20000", "--half"]


def main(folder: Path) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = next(block for block in blocks("steering.md", "sh", "").split("\n\n\n") if "happy.txt" in block)
    subprocess.run(["bash", "-c", script[: script.index(".venv/bin/headrace")]], cwd=folder, check=True)
    lists = ["--positive", str(folder / "happy.txt"), "--negative", str(folder / "sad.txt")]
    place = ["--layer", "15", "--data", str(folder)]
    begin = time.perf_counter()
    for words in (
        ["train-vector", *lists, "--name", "happy", *place],
        ["train-sae", "--name", "docs", *SAE, *place],
        ["features", "docs", "--token", " she", "--top", "3", "--data", str(folder)],
    ):
        print("headrace steer", *words, flush=True)
        if headrace(["steer", *words]):
            return 1
    print(f"{time.perf_counter() - begin:.0f} seconds")
    shutil.copy(folder / "steering" / "vectors" / "happy.gguf", folder)
    shutil.copytree(folder / "steering" / "saes" / "docs", folder / "docs")
    return subprocess.run(
        [sys.executable, "-m", "tests.steering.choose"], env={**os.environ, "STEERING_DATA": str(folder)}
    ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
