"""`headrace steer`: what its words lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli import main
from headrace.cli.steer import sae_folder
from headrace.config import Config
from headrace.errors import ConfigError
from headrace.steering.report import printable
from tests.models.tiny import write_tiny


def test_an_sae_of_this_name_goes_before_a_folder_that_happens_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `docs`, in a checkout of this repository."""
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate({"paths": {"data": str(tmp_path / "data")}})
    trained = tmp_path / "data" / "steering" / "saes" / "docs"
    (tmp_path / "docs").mkdir()
    assert sae_folder("docs", config) == Path("docs")
    trained.mkdir(parents=True)
    assert sae_folder("docs", config) == trained
    assert sae_folder(str(tmp_path / "docs"), config) == tmp_path / "docs"
    with pytest.raises(ConfigError, match="no sparse autoencoder 'other'"):
        sae_folder("other", config)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" caf\u00e9", " caf\u00e9"),
        ("a\n\t", r"a\n\t"),
        (r"\xe2", r"\xe2"),
        ("\u200b", r"\u200b"),
        ("it's", "it's"),
    ],
)
def test_a_label_is_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_vector_and_an_sae_are_trained_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", "llama")
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text("\n".join(f"The river {n} is long and the boat is small." for n in range(60)))
    other.write_text("\n".join(f"A hill {n} was high, but no road led up." for n in range(60)))
    place = [
        "--layer",
        "0",
        "--model",
        str(model),
        "--data",
        str(tmp_path),
        "--cache",
        str(tmp_path / "cache"),
    ]
    vector = ["train-vector", "--positive", str(text), "--negative", str(other), "--name", "v", *place]
    sae = ["train-sae", "--text", str(text), "--name", "s", "--features", "32", "--k", "4", *place]
    assert main(["steer", *vector]) == main(["steer", *sae]) == 0
    assert "explained variance" in capsys.readouterr().out
    assert "Features" in (tmp_path / "steering" / "saes" / "s" / "report.html").read_text()
    assert main(["steer", "features", "s", "--token", " a", *place[2:]]) == 0
    assert "writes it" in capsys.readouterr().out
