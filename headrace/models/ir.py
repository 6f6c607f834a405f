"""Describes a published OpenVINO IR folder (by optimum and others) from its configuration files."""

from __future__ import annotations

import json
from pathlib import Path

from headrace.errors import ModelError
from headrace.models.model import CONFIG, GENERATION, GRAPH, TOKENIZER, WEIGHTS, Model, read_template, size_of

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
NEEDED = {
    GRAPH: "run `optimum-cli export openvino --model ORG/REPO FOLDER`, or give a GGUF file instead",
    WEIGHTS: f"it belongs beside {GRAPH}: copy it from where that came from",
    TOKENIZER: "copy it from the original model, or let transformers' `save_pretrained` write it",
    CONFIG: "copy it from the original model",
}

Json = dict[str, object]


def describe(folder: Path, *, name: str, reference: str) -> Model:
    """Describe the model in a folder. Raises ModelError, which names a missing file and how to get it."""
    for file, remedy in NEEDED.items():
        if not (folder / file).is_file():
            raise ModelError(f"{folder} is not a complete IR folder: {file} is missing; {remedy}")
    config, generation = _read(folder / CONFIG), _read(folder / GENERATION)
    special = _read(folder / "tokenizer_config.json")
    bos = _ids(generation.get("bos_token_id", config.get("bos_token_id")))
    return Model(
        name=name,
        folder=folder,
        reference=reference,
        architecture=str(config.get("model_type", "unknown")),
        quantization=_quantization(folder),
        context_length=_number(folder, config, "max_position_embeddings"),
        vocabulary=_number(folder, config, "vocab_size"),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
        add_bos=_adds_bos(folder, special),
        chat_template=read_template(folder) or _template(special.get("chat_template")),
        sampling=_sampling(generation),
        size_bytes=size_of(folder),
        created=int((folder / GRAPH).stat().st_mtime),
        gguf=None,
    )


def _read(path: Path) -> Json:
    """The object in a JSON file; {} if there is no such file. Raises ModelError."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object")
    return found


def _number(folder: Path, config: Json, key: str) -> int:
    text = config.get("text_config")  # models of several modalities nest it
    found = config.get(key, text.get(key) if isinstance(text, dict) else None)
    if not isinstance(found, int):
        raise ModelError(f"{folder / CONFIG} does not say {key}")
    return found


def _ids(found: object) -> tuple[int, ...]:
    many = found if isinstance(found, list) else [found]
    return tuple(value for value in many if isinstance(value, int))


def _sampling(generation: Json) -> dict[str, float | int]:
    found = {key: generation.get(key) for key in SAMPLING}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _template(found: object) -> str | None:
    """A template, or the one called default among several."""
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _adds_bos(folder: Path, special: Json) -> bool:
    """Whether prompts begin with BOS: by tokenizer_config.json, else by the tokenizer's post-processor."""
    add_bos = special.get("add_bos_token")
    if isinstance(add_bos, bool):
        return add_bos
    step = _read(folder / TOKENIZER).get("post_processor")
    steps = step.get("processors", [step]) if isinstance(step, dict) else []
    return any("SpecialToken" in step["single"][0] for step in steps if step.get("single"))


def _quantization(folder: Path) -> str | None:
    found = _read(folder / "openvino_config.json").get("quantization_config")
    bits = found.get("bits") if isinstance(found, dict) else None
    return f"INT{bits}" if isinstance(bits, int) else None
