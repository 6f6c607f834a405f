"""Folders of random models, as their publishers write them: weights, configuration, tokenizer, template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from headrace.models import tokenizer
from headrace.models.gguf import GGUFFile
from tests.engine.architectures import VOCABULARY
from tests.models.tiny import CHATML, write_tiny


def write_folder(model: Any, folder: Path, shard: str = "5GB") -> Path:
    """`shard`: the largest size of one file of weights."""
    model.save_pretrained(folder, max_shard_size=shard)
    gguf = write_tiny(folder / "tiny.gguf")
    tokenizer.build(GGUFFile(gguf)).save(str(folder / "tokenizer.json"))
    gguf.unlink()
    config = json.loads((folder / "config.json").read_text())
    assert config.get("text_config", config)["vocab_size"] == VOCABULARY
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    return folder


def generated(model: Any, prompt: list[int], max_tokens: int) -> list[int]:
    """What the model's own `generate` writes, greedily, without end tokens."""
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=max_tokens,
            pad_token_id=0,
        )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens
