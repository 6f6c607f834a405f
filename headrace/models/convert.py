"""Converts a GGUF file to the folder that the engine loads: graph, tokenizer, template, configuration.

It imports the engine's libraries, so it is itself imported only to convert.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import openvino as ov

from headrace.models import checkpoint, graph, published, tokenizer
from headrace.models.checkpoint_decoder import CheckpointDecoder
from headrace.models.gguf import GGUFFile
from headrace.models.model import CONFIG, GENERATION, GRAPH, TOKENIZER, Model, Progress
from headrace.models.references import Reference

STEPS = 3


def convert(path: Path, folder: Path, reference: Reference, progress: Progress) -> Model:
    """Write the model at `path` into the empty `folder` and describe it. Raises ModelError."""
    progress("converting", 0, STEPS)
    gguf = GGUFFile(path)
    tokenizer.build(gguf).save(str(folder / TOKENIZER), pretty=False)
    progress("converting", 1, STEPS)
    built = graph.build(gguf)
    progress("converting", 2, STEPS)
    ov.save_model(built, folder / GRAPH, compress_to_fp16=False)
    model = _describe(gguf, folder, reference)
    _write_configs(gguf, model)
    progress("converting", STEPS, STEPS)
    return model


def convert_checkpoint(source: Path, files: Sequence[Path], folder: Path, progress: Progress) -> None:
    """Write the graph of the folder `source`, whose safetensors are `files`, into the empty `folder`, beside
    copies of its other files. Raises ModelError.
    """
    progress("converting", 0, STEPS)
    decoder = CheckpointDecoder(source, files, published.read(source / CONFIG))
    built = graph.build(decoder)
    progress("converting", 1, STEPS)
    ov.save_model(built, folder / GRAPH, compress_to_fp16=False)
    progress("converting", 2, STEPS)
    for name in checkpoint.COPIED:
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, folder / name)
    progress("converting", STEPS, STEPS)


def _describe(gguf: GGUFFile, folder: Path, reference: Reference) -> Model:
    shape = gguf.hyperparameters
    return Model(
        name=reference.name,
        folder=folder,
        reference=reference.text,
        architecture=shape.architecture,
        quantization=gguf.quantization(),
        context_length=shape.context_length,
        vocabulary=shape.vocabulary,
        bos_token_id=_token(gguf, "bos"),
        eos_token_ids=_ends(gguf),
        add_bos=_adds_bos(gguf),
        chat_template=_template(gguf),
        sampling=reference.sampling,
        size_bytes=0,  # counted when the folder is complete
        created=int(time.time()),
        gguf=gguf.path,
    )


def _token(gguf: GGUFFile, role: str) -> int | None:
    return tokenizer.special_token(gguf.metadata, role, gguf.hyperparameters.vocabulary)


def _ends(gguf: GGUFFile) -> tuple[int, ...]:
    """The ids of the tokens that end an answer: those the file names, then others known by their text."""
    named = [_token(gguf, role) for role in ("eos", "eot", "eom")]
    tokens = gguf.metadata.texts("tokenizer.ggml.tokens")
    known = [index for index, text in enumerate(tokens) if text in tokenizer.END_OF_TURN]
    return tuple(dict.fromkeys(index for index in [*named, *known] if index is not None))


def _adds_bos(gguf: GGUFFile) -> bool:
    """Whether prompts begin with BOS. Raises UnsupportedModel if they do and the file names no such token."""
    adds = tokenizer.adds_bos(gguf.metadata)
    if adds and _token(gguf, "bos") is None:
        raise gguf.metadata.unsupported("begins each prompt with a token that it does not name")
    return adds


def _template(gguf: GGUFFile) -> str | None:
    return gguf.metadata.text("tokenizer.chat_template", "") or None


def _write_configs(gguf: GGUFFile, model: Model) -> None:
    shape = gguf.hyperparameters
    ends = list(model.eos_token_ids)
    _write_json(
        model.folder / CONFIG,
        {
            "model_type": shape.architecture,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.context_length,
            "rms_norm_eps": shape.rms_eps,
            "rope_theta": shape.rope_base,
            "bos_token_id": model.bos_token_id,
            "eos_token_id": ends,
        },
    )
    _write_json(
        model.folder / GENERATION,
        {"bos_token_id": model.bos_token_id, "eos_token_id": ends, **model.sampling},
    )


def _write_json(path: Path, members: dict[str, object]) -> None:
    path.write_text(json.dumps(members, indent=2) + "\n", encoding="utf-8")
