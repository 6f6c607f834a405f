"""Folders of small random models that embed texts, or score pairs, as sentence-transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "a",
    "the",
    "wheel",
    "mill",
    "stone",
    "grain",
    "flour",
    "water",
    "river",
    "bread",
    "law",
    "sun",
    "light",
    "plant",
    "turns",
    "grinds",
    "makes",
    "passes",
    "what",
    "how",
    "does",
    "who",
    "is",
    "in",
    "on",
    "of",
    "and",
    "query",
    "document",
    ":",
    ",",
    ".",
    "?",
]
VOCABULARY = [
    *SPECIAL,
    *WORDS,
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]
SMALL = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 130, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
DECODER = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
TYPE = "sentence_transformers.models."
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL),
    "distilbert": ("DistilBert", {**SMALL, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}),
    "xlm-roberta": ("XLMRoberta", {**SMALL, "pad_token_id": 1}),
    "mpnet": ("MPNet", {**SMALL, "pad_token_id": 1}),
    "modernbert": (
        "ModernBert",
        {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3,
         "bos_token_id": 2, "eos_token_id": 3},
    ),
    "nomic": ("NomicBert", SMALL),
    "qwen3": ("Qwen3", DECODER),
    "t5": ("T5", {**SMALL, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    # These see padding, each in another way.
    "convbert": ("ConvBert", {**SMALL, "embedding_size": 32}),
    "fnet": ("FNet", SMALL),
    "nystromformer": ("Nystromformer", {**SMALL, "num_landmarks": 8, "segment_means_seq_len": 8}),
    "gemma": (
        "Gemma3Text",
        {**DECODER, "use_bidirectional_attention": True, "sliding_window": 8, "query_pre_attn_scalar": 8},
    ),
}  # fmt: skip


def model_of(kind: str, ending: str) -> Any:
    """A random model: `ending` is Model, EncoderModel, or ForSequenceClassification with one label."""
    name, members = CONFIGS[kind]
    torch.manual_seed(7)
    labels = {"num_labels": 1} if ending == "ForSequenceClassification" else {}
    config = getattr(transformers, f"{name}Config")(**members, **labels)
    model = getattr(transformers, name + ending)(config)
    return model.eval()


def write_tokenizer(folder: Path, kind: str, pad: int) -> None:
    """A tokenizer of a few words, with BERT's marks. Only BERT itself is told the types of tokens."""
    words = list(VOCABULARY)
    if pad == 1:
        words[0], words[1] = words[1], words[0]
    library = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(SPECIAL)
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    library.save(str(folder / "tokenizer.json"))
    members = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        "model_input_names": ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"],
    }  # fmt: skip
    _write(folder / "tokenizer_config.json", members)


def write_bare(folder: Path, kind: str, ending: str = "Model") -> Path:
    """A model and its tokenizer, and nothing of sentence-transformers."""
    model = model_of(kind, ending)
    model.save_pretrained(folder)
    write_tokenizer(folder, kind, model.config.pad_token_id)
    return folder


def write_embedder(
    folder: Path,
    kind: str,
    *,
    pooling: str = "mean_tokens",
    is_scaled: bool = True,
    dense: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
) -> Path:
    """`dense`: the activations of linear layers, as torch names them. `settings`: prompts."""
    write_bare(folder, kind, "EncoderModel" if kind == "t5" else "Model")
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (folder / "1_Pooling").mkdir()
    flags = {"pooling_mode_mean_tokens": False, f"pooling_mode_{pooling}": True}
    flags["include_prompt"] = pooling != "lasttoken"  # the last token is that of the text either way
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})
    for number, activation in enumerate(dense, 2):
        modules.append(("Dense", f"{number}_Dense"))
        _write_dense(folder / f"{number}_Dense", activation)
    if is_scaled:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
        (folder / f"{len(modules) - 1}_Normalize").mkdir()
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": TYPE + kind}
        for index, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    _write(folder / "config_sentence_transformers.json", settings or {})
    return folder


def _write_dense(folder: Path, activation: str) -> None:
    folder.mkdir()
    members = {"in_features": 32, "out_features": 32, "bias": True, "activation_function": activation}
    _write(folder / "config.json", members)
    tensors = {"linear.weight": torch.randn(32, 32) * 0.2, "linear.bias": torch.randn(32) * 0.2}
    save_file(tensors, folder / "model.safetensors")


def _write(path: Path, members: dict[str, Any]) -> None:
    path.write_text(json.dumps(members))
