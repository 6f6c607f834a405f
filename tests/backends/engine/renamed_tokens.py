"""The default model with names of marks for special tokens that it has no use for, so that a bias can make it
write a mark.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headrace.models.catalog import Model

MARKS = {
    "<tool_call>": "<repo_name>",
    "</tool_call>": "<reponame>",
    "[TOOL_CALLS]": "<file_sep>",
    "[ARGS]": "<filename>",
    "<|python_tag|>": "<gh_stars>",
    "<think>": "<issue_start>",
    "</think>": "<issue_comment>",
}


def marked(model: Model, folder: Path, *, name: str, chat_template: str) -> Model:
    """Its weights stay where they are; `folder` gets the new tokenizer."""
    for path in model.folder.iterdir():
        (folder / path.name).symlink_to(path)
    text = (model.folder / "tokenizer.json").read_text(encoding="utf-8")
    for mark, unused in MARKS.items():
        assert f'"{unused}"' in text
        text = text.replace(f'"{unused}"', f'"{mark}"')
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return replace(model, name=name, folder=folder, chat_template=chat_template)
