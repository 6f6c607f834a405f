"""Describes folders of safetensors whose model embeds texts, or scores a document against a query, in the
files of sentence-transformers: modules.json, 1_Pooling/config.json, config_sentence_transformers.json.

Whatever in them changes the numbers is read, or the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.encoder_types import Activation, Embedding, Layer, Pooling
from headrace.errors import ModelError
from headrace.models import published
from headrace.models.model import CONFIG

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
TRANSFORMER = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlnet_config.json")
LAYER_WEIGHTS = "model.safetensors"
WITHOUT_HEAD = ("Model", "ForMaskedLM", "ForPreTraining")  # ends of the names of architectures
WITH_HEAD = ("LMHeadModel", "DoubleHeadsModel")
CLASSIFIER = "ForSequenceClassification"
ENCODER = "EncoderModel"  # that of a model with a decoder, by itself (sentence-t5)
# sentence-transformers' names; below, those of its versions up to 5, of which several may be true
POOLINGS: Mapping[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS: Mapping[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
}
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
# Architectures whose first position is that after their padding's id.
PADDED_POSITIONS = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet", "data2vec-text",
)  # fmt: skip
USUAL_TOKENS, MOST_TOKENS = 512, 2**20  # of a text; tokenizers without a limit state a far greater number

Json = Mapping[str, object]


def embeds(folder: Path) -> bool:
    """Whether the model in a folder of safetensors embeds or scores texts, and generates none. Raises
    ModelError.
    """
    kinds = [module.kind for module in _modules(folder)]
    if kinds and "LogitScore" not in kinds:  # that is a model which generates the answer yes
        return True
    name = _architecture(published.read(folder / CONFIG))
    return name.endswith((CLASSIFIER, *WITHOUT_HEAD)) and not name.endswith(WITH_HEAD)


def read(folder: Path) -> Embedding:
    """How the model in a folder embeds, or scores. Raises ModelError."""
    config = published.read(folder / CONFIG)
    text = config.get("text_config")
    config = {**text, **config} if isinstance(text, dict) else config
    return _Folder(folder, config).read()


@dataclass(frozen=True, slots=True)
class _Module:
    kind: str  # the last part of its class's name
    folder: str


def _modules(folder: Path) -> list[_Module]:
    """What a text goes through, in that order; [] if the folder does not say it. Raises ModelError."""
    entries = published.read_list(folder / MODULES)
    modules = [entry for entry in entries if isinstance(entry, dict)]
    return [_Module(_kind(str(entry.get("type"))), str(entry.get("path", ""))) for entry in modules]


def _kind(name: str) -> str:
    """The name of a class of sentence-transformers, whose versions have it in different modules. Classes of
    others keep their whole names: they may do anything else.
    """
    return name.rpartition(".")[2] if name.startswith("sentence_transformers.") else name


def _architecture(config: Json) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


class _Folder:
    def __init__(self, folder: Path, config: Json) -> None:
        self._folder, self._config = folder, config
        self._settings = published.read(folder / SETTINGS)
        files = (folder / name for name in TRANSFORMER)
        self._transformer = next((published.read(file) for file in files if file.is_file()), {})

    def read(self) -> Embedding:
        architecture = _architecture(self._config)
        if self._config.get("is_encoder_decoder") and not architecture.endswith(ENCODER):
            raise self._refused("has an encoder and a decoder")
        if architecture.endswith(CLASSIFIER):
            return Embedding(1, self._max_tokens(), "cls", score=self._score())
        modules = _modules(self._folder) or [_Module("Transformer", ""), _Module("Normalize", "")]
        kinds = [module.kind for module in modules]
        if kinds[0] != "Transformer" or modules[0].folder:
            raise self._refused(f"begins with a module {kinds[0]!r} in {modules[0].folder!r}")
        pooling, width = self._pooling(modules)
        layers = tuple(self._layer(module.folder) for module in modules if module.kind == "Dense")
        for layer in layers:
            if layer.inputs != width:
                raise self._refused(f"has a layer {layer.folder} for vectors of another width than {width}")
            width = layer.outputs
        cut = self._settings.get("truncate_dim") or None
        if cut is not None and (type(cut) is not int or cut < 0):
            raise self._refused(f"has truncate_dim = {str(cut)[:100]}, which is no width")
        return Embedding(
            width=width if cut is None else min(cut, width),
            max_tokens=self._max_tokens(),
            pooling=pooling,
            is_scaled="Normalize" in kinds,
            prompts=self._prompts(),
            default_prompt=self._default_prompt(),
            lowercases=self._transformer.get("do_lower_case") is True,
            layers=layers,
        )

    def _pooling(self, modules: list[_Module]) -> tuple[Pooling, int]:
        """How the states are pooled, and their width. Without a module for it: their mean, as
        sentence-transformers takes it.
        """
        width = self._number(self._config, *WIDTHS)
        pooling: Pooling = "mean"
        done: list[str] = []
        for module in modules[1:]:
            if module.kind == "Pooling":
                pooling = self._pooling_of(published.read(self._path(module.folder) / CONFIG))
            elif module.kind == "Normalize" and module is not modules[-1]:
                raise self._refused("scales its vectors before the last step")
            elif module.kind not in ("Dense", "Normalize", "Dropout"):
                raise self._refused(f"has a module {module.kind!r}")
            if module.kind == "Pooling" and "Dense" in done:
                raise self._refused("has a module 'Dense' before it pools")
            done.append(module.kind)
        return pooling, width

    def _pooling_of(self, config: Json) -> Pooling:
        modes = config.get("pooling_mode", [mode for flag, mode in FLAGS.items() if config.get(flag)])
        names = modes if isinstance(modes, list) else [modes]
        if len(names) > 1:
            raise self._refused(f"pools in {len(names)} ways at once")
        name = str(names[0]) if names else "mean"
        if name not in POOLINGS:
            raise self._refused(f"pools by {name[:100]!r}")
        if config.get("include_prompt") is False and name != "lasttoken" and any(self._prompts().values()):
            raise self._refused("leaves its prompts out when it pools")
        return POOLINGS[name]

    def _layer(self, layer: str) -> Layer:
        """Raises ModelError for one that does anything else."""
        folder = self._path(layer)
        config = published.read(folder / CONFIG)
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        if activation not in ACTIVATIONS or config.get("use_residual"):
            raise self._refused(f"has a layer {layer} with {activation[:100]!r}")
        for name, usual in (("module_input_name", "sentence_embedding"), ("module_output_name", None)):
            if config.get(name, usual) not in (None, "sentence_embedding"):
                raise self._refused(f"has a layer {layer} with {name} = {str(config[name])[:100]!r}")
        if not (folder / LAYER_WEIGHTS).is_file():
            raise ModelError(f"{folder} has no {LAYER_WEIGHTS}; pickled weights are not read")
        inputs, outputs = self._number(config, "in_features"), self._number(config, "out_features")
        return Layer(layer, inputs, outputs, ACTIVATIONS[activation])

    def _score(self) -> Activation:
        """What makes a score of a cross-encoder's number. Raises ModelError if it has several."""
        labels = self._config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else self._config.get("num_labels", 2)
        if count != 1:
            raise self._refused(f"classifies into {count} labels; a reranker has one")
        if self._settings.get("default_prompt_name"):
            raise self._refused("has a default prompt, as no reranker that the server knows")
        own = self._config.get("sentence_transformers")
        counts = self._settings.get("model_type") == "CrossEncoder" and (self._folder / MODULES).is_file()
        name = self._settings.get("activation_fn") if counts else None
        name = name or (isinstance(own, dict) and own.get("activation_fn"))
        name = name or self._config.get("sbert_ce_default_activation_function")
        name = name or "torch.nn.modules.activation.Sigmoid"
        if name not in ACTIVATIONS:
            raise self._refused(f"scores by {str(name)[:100]!r}")
        return ACTIVATIONS[str(name)]

    def _max_tokens(self) -> int:
        """The longest text: what the folder states, and at most what the model has positions for."""
        special = published.read(self._folder / published.SPECIAL)
        stated = self._transformer.get("max_seq_length") or special.get("model_max_length")
        limits = [stated, *self._positions()]
        numbers = (one for one in limits if isinstance(one, int | float) and not isinstance(one, bool))
        known = [limit for limit in numbers if 0 < limit <= MOST_TOKENS]
        return int(min(known, default=USUAL_TOKENS))

    def _positions(self) -> Iterator[int]:
        length = next((self._config[name] for name in published.LENGTHS if name in self._config), None)
        if type(length) is int:
            before = self._config.get("pad_token_id", 1)
            is_padded = self._config.get("model_type") in PADDED_POSITIONS and isinstance(before, int)
            yield length - int(str(before)) - 1 if is_padded else length

    def _prompts(self) -> dict[str, str]:
        prompts = self._settings.get("prompts")
        items = prompts.items() if isinstance(prompts, dict) else ()
        return {str(name): text for name, text in items if isinstance(text, str)}

    def _default_prompt(self) -> str:
        name = self._settings.get("default_prompt_name")
        if name is not None and name not in self._prompts():
            raise self._refused(f"has no prompt {str(name)[:100]!r}, which should be its default")
        return "" if name is None else str(name)

    def _path(self, name: str) -> Path:
        path = self._folder / name
        if path.parent != self._folder or not (path / CONFIG).is_file():
            raise ModelError(
                f"{self._folder} is not complete: {name}/{CONFIG}, which {MODULES} names, is missing"
            )
        return path

    def _number(self, config: Json, *names: str) -> int:
        number = next((value for name in names if type(value := config.get(name)) is int), None)
        if number is None or number <= 0:
            raise self._refused(f"does not say {names[0]}")
        return number

    def _refused(self, problem: str) -> ModelError:
        return ModelError(f"{self._folder} {problem}, which embeddings and reranking do not support")
