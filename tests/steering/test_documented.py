"""docs/steering.md and examples/steering.py do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headrace.cli import main
from headrace.models.catalog import Model
from tests.pages import blocks, run_python
from tests.serving import Served
from tests.steering.serving import DATA

ROOT = Path(__file__).parents[2]


def test_the_requests_of_the_tutorial(steered: Served) -> None:
    names = run_python("steering.md", steered.url)
    assert len(names["answers"].choices) == 3
    assert names["steered"].choices[0].steering["ops"][0]["mode"] == "clamp"


def test_the_example_runs(steered: Served) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "steering.py"), steered.url],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "cheerful:" in ran.stdout


def test_the_vector_of_the_tutorial_is_trained_as_it_says(
    default_model: Model, tmp_path: Path, capsys: object
) -> None:
    """With the command of the page: the direction is that of the tests' data, and rises with every dose."""
    from headrace.steering.formats.control_vector import read_vector

    script = next(block for block in blocks("steering.md", "sh", "").split("\n\n\n") if "happy.txt" in block)
    lists = script[: script.index(".venv/bin/headrace")]
    subprocess.run(["bash", "-c", lists], cwd=tmp_path, check=True)
    words = ["steer", "train-vector", "--positive", str(tmp_path / "happy.txt"),
             "--negative", str(tmp_path / "sad.txt"), "--layer", "15", "--name", "happy",
             "--data", str(tmp_path)]  # fmt: skip
    assert main(words) == 0
    made, model = read_vector(tmp_path / "steering" / "vectors" / "happy.gguf")
    kept, _ = read_vector(DATA / "happy.gguf")
    assert model == default_model.name
    cosine = made[15] @ kept[15] / (made[15] @ made[15]) ** 0.5 / (kept[15] @ kept[15]) ** 0.5
    assert cosine > 0.98
    page = (tmp_path / "steering" / "vectors" / "happy.html").read_text()
    assert page.count("<svg") == 2
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
