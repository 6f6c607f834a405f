"""Describes a local model, whether it is loaded or not, from its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set

from headrace.backend_types import CAPABILITIES
from headrace.features import Feature
from headrace.models.model import CONFIG, GGUFModel, Model
from headrace.text import reasoning
from headrace.types import Capability, ModelCard

# member of config.json → GGUF's name
SHAPE = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
    "rope_theta": "rope.freq_base",
}


def card_of(model: Model | GGUFModel, features: Set[Feature]) -> ModelCard:
    """Describe a model that is on this machine. `features`: those of the backend that serves it."""
    if isinstance(model, Model):
        return ModelCard(
            _capabilities(features, model.chat_template),
            architecture=model.architecture,
            quantization=model.quantization,
            size_bytes=model.size_bytes,
            template=model.chat_template,
            format="openvino",
            shape=_shape(model),
        )
    header = model.header
    return ModelCard(
        _capabilities(features, header.chat_template),
        architecture=header.architecture,
        quantization=header.quantization,
        size_bytes=model.gguf.stat().st_size if model.gguf.exists() else None,
        template=header.chat_template,
        format="gguf",
    )


def _capabilities(features: Set[Feature], template: str | None) -> frozenset[Capability]:
    capabilities: set[Capability] = {name for feature, name in CAPABILITIES.items() if feature in features}
    if template is None:
        capabilities.discard("tools")  # without a template there are no conversations
    elif reasoning.detect(template) is not None:
        capabilities.add("thinking")
    return frozenset(capabilities)


def _shape(model: Model) -> Mapping[str, int | float]:
    """The numbers in the model's config.json; none if it cannot be read."""
    try:
        config = json.loads((model.folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    members = {name: config.get(member) for member, name in SHAPE.items()} if isinstance(config, dict) else {}
    return {name: value for name, value in members.items() if isinstance(value, int | float)}
