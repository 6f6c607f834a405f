"""`headrace steer`: what its words lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.steer import sae_folder
from headrace.config import Config
from headrace.errors import ConfigError
from headrace.steering.report import printable


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
