"""Folders of safetensors weights, as Hugging Face publishes models: config.json, tokenizer.json and
*.safetensors, in one file or in several with an index.

Pickled weights (*.bin, *.pt, *.pth) are refused: reading them can run any code that is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from headrace.errors import ModelError
from headrace.models import published, sentences
from headrace.models.model import CONFIG, GENERATION, GRAPH, TEMPLATE, TOKENIZER, WEIGHTS, Model

INDEX = "model.safetensors.index.json"
READER = 4  # raise it when the graph that is made of a folder changes
COPIED = (  # beside a converted graph
    CONFIG, GENERATION, TOKENIZER, TEMPLATE, published.SPECIAL, published.NAMED, published.PROCESSORS,
    published.WITH_TOOLS,
)  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What a model needs of its repository. Code is fetched, too, but runs only with `models.trust_remote_code`.
# Folders with a number hold the further modules of an embedding model, as 1_Pooling.
FILES, OTHERS = ["*.safetensors", "*.json", "*.jinja", "*.py"], ["[!0-9]*/*", "*/*/*", "consolidated*"]
PICKLED = (
    "holds pickled weights ({file}), and reading a pickle can run any code in it: get the model's "
    "safetensors, or convert it where you trust it, with transformers' `save_pretrained`"
)
ADAPTER = "adapter_config.json"
ADAPTED = (
    "holds an adapter of {base}, and not that model: merge them, with peft's `merge_and_unload` and "
    "`save_pretrained`, and serve that folder"
)
# Quantizations that transformers cannot read. It knows the others by their `quant_method`.
QUANTIZED = "is quantized {maker}, which is not read: get the original weights, or a GGUF file"
MODELOPT = "hf_quant_config.json"
BITSANDBYTES = ("load_in_8bit", "load_in_4bit")  # older than the name
TWO_FACED, UNLIMITED = ("longrope", "su"), 2**31
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
USUAL_LENGTH = 8192  # the context of models that have no limit, as Mamba, or state none
# What transformers takes where config.json states none, as those of Gemma 3 that see images.
LENGTHS = {"gemma3": 131072, "gemma3_text": 131072}
EMBEDDING = "embed_tokens.weight"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has weights of this kind, pickled ones included, and is no IR folder."""
    if any((folder / name).is_file() for name in (GRAPH, WEIGHTS)):
        return False
    return bool(_weights(folder))


def describe(folder: Path, *, name: str, reference: str) -> Model:
    """Describe the model in a folder. Raises ModelError, which names a missing file and how to get it."""
    files = weight_files(folder)
    has_config = (folder / CONFIG).is_file()
    has_weights = not all(file.name.startswith("adapter_") for file in files)
    if (folder / ADAPTER).is_file() and not (has_config and has_weights):
        base = published.read(folder / ADAPTER).get("base_model_name_or_path")
        raise ModelError(f"{folder} " + ADAPTED.format(base=str(base)[:200]))
    if not has_config:
        raise ModelError(f"{folder} has no {CONFIG}: copy it from the original model")
    if not (folder / TOKENIZER).is_file():
        raise ModelError(
            f"{folder} has no {TOKENIZER}: copy it from the original model, or let transformers write it: "
            "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
        )
    from headrace.models import safetensors  # loads NumPy

    # Their headers: what is damaged is named before anything is loaded.
    tensors = {name: tensor for file in files for name, tensor in safetensors.tensors(file).items()}
    config = published.read(folder / CONFIG)
    layers = published.number(folder, config, *LAYERS, default=0)
    if layers > len(tensors):  # no library should make so many
        raise ModelError(
            f"{folder / CONFIG} says more layers, {layers}, than there are tensors: {len(tensors)}"
        )
    embeddings = [one.shape[0] for name, one in tensors.items() if name.endswith(EMBEDDING) and one.shape]
    model = published.describe(
        folder,
        name=name,
        reference=reference,
        quantization=_quantization(folder, config) or safetensors.usual_kind(tensors.values()),
        created=files[0].stat().st_mtime,
        usual_length=LENGTHS.get(str(config.get("model_type")), USUAL_LENGTH),
        usual_vocabulary=embeddings[0] if embeddings else None,
    )
    if sentences.embeds(folder):
        embedding = sentences.read(folder)
        return replace(model, context_length=embedding.max_tokens, embedding=embedding)
    return replace(model, context_length=min(model.context_length, _unstretched(folder)))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model. Raises ModelError if there are none, or a part is missing."""
    index = published.read(folder / INDEX).get("weight_map")
    if isinstance(index, dict) and index:
        files = [folder / name for name in sorted(set(map(str, index.values())))]
        missing = next((file.name for file in files if file.parent != folder or not file.is_file()), None)
        if missing is not None:
            raise ModelError(f"{folder} is not complete: {missing}, which {INDEX} names, is missing")
        return files
    files = [file for file in _weights(folder) if file.suffix == ".safetensors"]
    if not files:
        pickled = next((file.name for file in _weights(folder)), None)
        raise ModelError(f"{folder} " + (PICKLED.format(file=pickled) if pickled else "has no *.safetensors"))
    whole = folder / "model.safetensors"
    return [whole] if whole in files else files


def refuse_pickle(path: Path) -> None:
    """Raise ModelError with the reason if a file's name says that it is pickled weights, and it is no GGUF
    file.
    """
    if path.suffix in PICKLES and not is_gguf(path):
        raise ModelError(f"{path.parent} " + PICKLED.format(file=path.name))
    if path.suffix == ".safetensors":
        raise ModelError(f"{path} is one file of a model: give the folder, which has its {CONFIG}, too")


def is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _weights(folder: Path) -> list[Path]:
    """The files of weights in a folder, pickled ones last."""
    names = (".safetensors", *PICKLES)
    files = [file for file in folder.iterdir() if file.suffix in names and file.is_file()]
    return sorted(files, key=lambda file: (names.index(file.suffix), file.name))


def _unstretched(folder: Path) -> int:
    """Beyond how many tokens the model would rotate all its keys anew, those in the cache too (LongRoPE, Ding
    et al. 2024, has one set of factors for short sequences and one for long ones).
    """
    config = published.read(folder / CONFIG)
    stretched = config.get("rope_parameters", config.get("rope_scaling"))
    if not isinstance(stretched, dict) or stretched.get("rope_type", stretched.get("type")) not in TWO_FACED:
        return UNLIMITED
    name = "original_max_position_embeddings"
    original = stretched.get(name, config.get(name))
    return original if isinstance(original, int) else UNLIMITED


def _quantization(folder: Path, config: Mapping[str, object]) -> str | None:
    """How the weights are quantized, by what the configuration says; None: not. Raises ModelError."""
    quantized = config.get("quantization_config")
    if quantized is not None and not isinstance(quantized, dict):
        raise ModelError(f"{folder / CONFIG} has a quantization_config that is no object")
    members = quantized or {}
    if "quant_method" in members or any(members.get(name) for name in BITSANDBYTES):
        return str(members.get("quant_method", "bitsandbytes"))
    if "quantization" in config:
        raise ModelError(f"{folder} " + QUANTIZED.format(maker="by MLX"))
    if "quant_algo" in members or (folder / MODELOPT).is_file():
        raise ModelError(f"{folder} " + QUANTIZED.format(maker="by ModelOpt"))
    if members:
        raise ModelError(f"{folder} " + QUANTIZED.format(maker=f"in a way that {CONFIG} does not name"))
    return None
