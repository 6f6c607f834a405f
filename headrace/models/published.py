"""Describes a model from the configuration files that its publisher put beside the weights."""

from __future__ import annotations

import json
import time
from pathlib import Path

from headrace.encoder_types import Embedding
from headrace.errors import ModelError
from headrace.models.model import (
    CONFIG,
    GENERATION,
    GRAPH,
    ONNX,
    TOKENIZER,
    WEIGHTS,
    Model,
    read_template,
    size_of,
)
from headrace.models.references import Reference

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
SPECIAL = "tokenizer_config.json"
NAMED = "special_tokens_map.json"  # where older versions of transformers wrote the tokens that have a name
WITH_TOOLS = "additional_chat_templates/tool_use.jinja"  # where transformers 5 writes a second template
PROCESSORS = "chat_template.json"  # where models that see images had their template before 2025
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
# What the configurations of different architectures call the longest sequence.
LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)

Json = dict[str, object]

NEEDED = {
    GRAPH: "run `optimum-cli export openvino --model ORG/REPO FOLDER`; nor has it any *.safetensors",
    WEIGHTS: f"it belongs beside {GRAPH}: copy it from where that came from",
    TOKENIZER: "copy it from the original model, or let transformers' `save_pretrained` write it",
    CONFIG: "copy it from the original model",
}


def describe(
    folder: Path,
    *,
    name: str,
    reference: str,
    quantization: str | None,
    created: float,
    usual_length: int | None = None,
    usual_vocabulary: int | None = None,
) -> Model:
    """Describe the model in a folder with the files CONFIG and TOKENIZER. `usual_length`: the context of a
    model that states none; `usual_vocabulary`: the tokens of one that does not state these. Raises
    ModelError.
    """
    config, generation = read(folder / CONFIG), read(folder / GENERATION)
    special = read(folder / SPECIAL)
    vocabulary = number(folder, config, "vocab_size", default=usual_vocabulary)
    bos = _ids(generation.get("bos_token_id", _value(config, "bos_token_id")), vocabulary)
    ends = _ids(generation.get("eos_token_id", _value(config, "eos_token_id")), vocabulary)
    return Model(
        name=name,
        folder=folder,
        reference=reference,
        architecture=str(config.get("model_type", "unknown")),
        quantization=quantization,
        context_length=number(folder, config, *LENGTHS, default=usual_length),
        vocabulary=vocabulary,
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=tuple(dict.fromkeys((*ends, *_ids(_named_end(folder, special), vocabulary)))),
        add_bos=_adds_bos(folder, special),
        chat_template=_template({"default": read_template(folder), "tool_use": _text(folder / WITH_TOOLS)})
        or _template(special.get("chat_template"))
        or _template(_of_processor(folder)),
        sampling=_sampling(generation or config),  # older folders have it there
        size_bytes=size_of(folder),
        created=int(created),
        gguf=None,
    )


def read(path: Path) -> Json:
    """The object in a JSON file; {} if there is no such file, or nothing in it. Raises ModelError."""
    content = _parsed(path, {})
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return content


def read_list(path: Path) -> list[object]:
    """The list in a JSON file; [] if there is no such file, or nothing in it. Raises ModelError."""
    content = _parsed(path, [])
    if not isinstance(content, list):
        raise ModelError(f"{path} holds no JSON list")
    return content


def _parsed(path: Path, default: object) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
        return json.loads(text) if text.strip() else default
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{path} cannot be read: {exc}") from exc


def _value(config: Json, key: str) -> object:
    """A member of the configuration, or of its `text_config`, where models of several modalities have it."""
    text = config.get("text_config")
    return config.get(key, text.get(key) if isinstance(text, dict) else None)


def number(folder: Path, config: Json, *keys: str, default: int | None = None) -> int:
    """The first of these members that is a number above 0. Raises ModelError if there is none, and no
    default.
    """
    values = (_value(config, key) for key in keys)
    first = next((value for value in values if type(value) is int and value > 0), default)
    if first is None:
        raise ModelError(f"{folder / CONFIG} does not say {keys[0]}")
    return first


def _ids(ids: object, vocabulary: int) -> tuple[int, ...]:
    """The ids of tokens that there are. Some configurations write -1 for none."""
    many = ids if isinstance(ids, list) else [ids]
    return tuple(value for value in many if type(value) is int and 0 <= value < vocabulary)


def _named_end(folder: Path, special: Json) -> list[object]:
    """The ids of the tokenizer's own end tokens. A fine-tuned chat model may name its end of turn only here,
    in one of two files.
    """
    named = [members.get("eos_token") for members in (special, read(folder / NAMED))]
    texts = [one.get("content") if isinstance(one, dict) else one for one in named]
    added = read(folder / TOKENIZER).get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return [token.get("id") for token in tokens if token.get("content") and token["content"] in texts]


def _sampling(generation: Json) -> dict[str, float | int]:
    settings = {key: generation.get(key) for key in SAMPLING}
    return {key: value for key, value in settings.items() if isinstance(value, int | float)}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _of_processor(folder: Path) -> object:
    """The template for which older models had a file; some have nothing but its text in it."""
    content = _parsed(folder / PROCESSORS, {})
    return content.get("chat_template") if isinstance(content, dict) else content


def _template(template: object) -> str | None:
    """A template, or that called default among several, and where tools are offered the one called tool_use,
    as transformers chooses.
    """
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        with_tools, template = template.get("tool_use"), template.get("default")
        if isinstance(template, str) and isinstance(with_tools, str):
            return _either(with_tools, template)
    return template if isinstance(template, str) else None


def _either(with_tools: str, without: str) -> str:
    """One template that is the first where tools are offered. The empty expressions keep Jinja from dropping
    blanks at the ends of the two; a last newline it drops of each, as of any template.
    """
    empty = "{{ '' }}"
    first, second = (empty + text.removesuffix("\n") + empty for text in (with_tools, without))
    return "{% if tools %}" + first + "{% else %}" + second + "{% endif %}"


def _adds_bos(folder: Path, special: Json) -> bool:
    """Whether prompts begin with BOS: by tokenizer_config.json, else by the tokenizer's post-processor. The
    classes that are for tokenizers of any kind never read the former.
    """
    add_bos = special.get("add_bos_token")
    if isinstance(add_bos, bool) and special.get("tokenizer_class") not in GENERIC:
        return add_bos
    step = read(folder / TOKENIZER).get("post_processor")
    steps = step.get("processors", [step]) if isinstance(step, dict) else []
    return any("SpecialToken" in step["single"][0] for step in steps if step.get("single"))


def describe_ir(folder: Path, *, name: str, reference: str) -> Model:
    """Describe the model in a folder. Raises ModelError, which names a missing file and how to get it."""
    for file, remedy in NEEDED.items():
        if not (folder / file).is_file():
            raise ModelError(f"{folder} is not a complete IR folder: {file} is missing; {remedy}")
    return describe(
        folder,
        name=name,
        reference=reference,
        quantization=_quantization(folder),
        created=(folder / GRAPH).stat().st_mtime,
    )


def _quantization(folder: Path) -> str | None:
    settings = read(folder / "openvino_config.json").get("quantization_config")
    bits = settings.get("bits") if isinstance(settings, dict) else None
    return f"INT{bits}" if isinstance(bits, int) else None


def describe_encoder(folder: Path, reference: Reference, embedding: Embedding) -> Model:
    """Describe the encoder in a folder. Raises ModelError if a file is missing or its tokenizer is none."""
    for name in (ONNX, TOKENIZER):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a complete embedding model: {name} is missing")
    return Model(
        name=reference.name,
        folder=folder,
        reference=reference.text,
        architecture="bert",
        quantization="INT8",
        context_length=embedding.max_tokens,
        vocabulary=_vocabulary(folder / TOKENIZER),
        bos_token_id=None,
        eos_token_ids=(),
        add_bos=False,
        chat_template=None,
        sampling={},
        size_bytes=0,  # counted when the folder is complete
        created=int(time.time()),
        gguf=None,
        embedding=embedding,
    )


def _vocabulary(path: Path) -> int:
    """The number of entries in a tokenizer's vocabulary. Raises ModelError."""
    try:
        return len(json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{path} is not a tokenizer: {str(exc)[:200]}") from exc
