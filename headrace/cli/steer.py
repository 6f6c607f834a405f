"""`headrace steer`: trains control vectors and sparse autoencoders, and shows what their features do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.models import fetch
from headrace.cli.terminal import ProgressBar
from headrace.config import Config, Loaded
from headrace.errors import ConfigError
from headrace.models.model import Model

if TYPE_CHECKING:
    import argparse

    from headrace.steering.types import Capture

VECTORS, SAES, REPORTS = "vectors", "saes", "reports"  # folders below the root


def root_of(config: Config) -> Path:
    """The folder of trained vectors and SAEs."""
    return config.steering.folder(config.paths.data)


def train_vector(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from headrace.cli.steer_options import layers_of
    from headrace.steering.corpus import file_lines
    from headrace.steering.vector_training import VectorTraining

    positive, negative = file_lines(arguments.positive), file_lines(arguments.negative)
    layers = layers_of(arguments.layer)
    with closing(ProgressBar(is_bytes=False)) as bar, _opened(loaded.config, layers) as (model, capture):
        training = VectorTraining(capture, layers, arguments.method, arguments.states, bar)
        trained = training.run(positive, negative)
        path = root_of(loaded.config) / VECTORS / f"{arguments.name}.gguf"
        trained.save(path, model=model.name, name=arguments.name)
    for line in trained.summary():
        print(line)
    print(f"written to {path}, and with plots to {path.with_suffix('.html')}")
    return 0


def train_sae(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from headrace.cli.steer_options import layers_of
    from headrace.steering.sae_training import SAETraining
    from headrace.steering.train_sae import SAESettings

    layers = layers_of(arguments.layer)
    if len(layers) != 1:
        raise ConfigError("--layer: a sparse autoencoder is trained on one layer")
    settings = SAESettings(arguments.features, arguments.k, arguments.epochs, seed=arguments.seed)
    with closing(ProgressBar(is_bytes=False)) as bar, _opened(loaded.config, layers) as (model, capture):
        training = SAETraining(capture, layers[0], settings, _decoder(model), bar)
        trained = training.run(
            arguments.text,
            tokens=arguments.tokens,
            length=min(arguments.context, model.context_length),
            prefix=(model.bos_token_id,) if model.add_bos and model.bos_token_id is not None else (),
        )
        folder = root_of(loaded.config) / SAES / arguments.name
        trained.save(folder, model=model.name, name=arguments.name, half=arguments.half)
    for line in trained.summary():
        print(line)
    print(f"written to {folder}, and with plots to {folder / 'report.html'}")
    return 0


def features(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Print the features that write and read a token."""
    from headrace.steering import report
    from headrace.steering.token_features import load_sae, token_features

    folder = sae_folder(arguments.sae, loaded.config)
    sae = load_sae(folder)
    with closing(ProgressBar(is_bytes=False)) as bar, _opened(loaded.config, ()) as (model, capture):
        if sae.info.width != capture.width:
            raise ConfigError(
                f"{folder} is for hidden states of {sae.info.width} numbers; {model.name} has {capture.width}"
            )
        of_token = token_features(capture, sae.encoder, sae.decoder, arguments.token, arguments.top, bar)
        decode = _decoder(model)
    print(f"token {of_token.token}: '{report.printable(decode([of_token.token]))}'")
    for title, scores in (("writes it", of_token.writers), ("reads it", of_token.readers)):
        print(f"{'feature':>8}  {title:>9}  its tokens")
        for score in scores:
            print(f"{score.feature:>8}  {score.score:>9.2f}  {sae.info.labels.get(score.feature, '')}")
    path = root_of(loaded.config) / REPORTS / f"{folder.name}-token-{of_token.token}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(of_token.page(folder.name, decode([of_token.token]), sae.info.labels), encoding="utf-8")
    print(f"with plots: {path}")
    return 0


def sae_folder(name: str, config: Config) -> Path:
    """The folder of an SAE: of this name below the root, or else a path. Raises ConfigError."""
    for folder in (root_of(config) / SAES / name, Path(name)):
        if folder.exists():
            return folder
    raise ConfigError(
        f"there is no sparse autoencoder {name!r}: no such file, and none in {root_of(config) / SAES}"
    )


def _decoder(model: Model) -> Callable[[Sequence[int]], str]:
    from headrace.text.tokenizer import Tokenizer

    return Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos).shown


@contextmanager
def _opened(config: Config, layers: Sequence[int]) -> Iterator[tuple[Model, Capture]]:
    """The configured model, open for reading its hidden states. Raises ModelError, ConfigError."""
    from headrace.assembly import torch_options
    from headrace.backends.engine.capture import open_capture

    model = fetch(config.models.default, config)
    if not isinstance(model, Model):
        raise ConfigError(f"{model.name} is served by llama.cpp, whose hidden states cannot be read")
    capture = open_capture(model, torch=torch_options(config))
    for layer in layers:
        if layer >= capture.num_layers:
            raise ConfigError(f"--layer {layer}: {model.name} has the layers 0 to {capture.num_layers - 1}")
    yield model, capture
