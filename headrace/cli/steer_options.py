"""The arguments of `headrace steer`. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from headrace.cli.numbers import amount, count
from headrace.errors import ConfigError

Adder = Callable[[str, str], argparse.ArgumentParser]  # (name, what it does) → the command's parser

KEYS = (
    "paths.cache",
    "paths.data",
    "steering.root",
)  # of the configuration, that become flags of these commands
DESCRIPTION = (
    "train what steers a model, and look into it: control vectors from texts that differ in one respect, and "
    "sparse autoencoders, whose features are directions with a meaning"
)
WHOLE = re.compile(r"\s*[0-9]{1,9}\s*")  # a whole number
EPILOG = "A tutorial that ends with a steered answer after ten minutes: docs/steering.md."


def add_train_vector(add: Adder) -> None:
    command = add(
        "train-vector",
        "train a control vector from two files of texts, one text a line: the difference of the mean hidden "
        "states. Takes seconds; writes NAME.gguf, as llama.cpp reads it, and NAME.html with plots",
    )
    _file(command, "--positive", "texts that have what the vector shall add", required=True)
    _file(command, "--negative", "texts that lack it, otherwise alike", required=True)
    _layer(command, "layers after which it is added: 15, or 10-20, or 8,12,16; from 0")
    _name(command)
    command.add_argument(
        "--method", choices=("mean", "pca"), default="mean",
        help="mean: the difference of the means. pca: the first principal component of the differences of "
        "pairs, line by line. Default: mean, which rises more steadily with the dose.",
    )  # fmt: skip
    command.add_argument(
        "--states", choices=("all", "last"), default="all",
        help="which tokens' hidden states are averaged: all but the first, or the last one. Default: all.",
    )  # fmt: skip
    _model(command)


def add_train_sae(add: Adder) -> None:
    command = add(
        "train-sae",
        "train a sparse autoencoder (TopK) on one layer's hidden states. Takes minutes; writes a folder in "
        "SAELens' format, and in it report.html with what its features do",
    )
    command.add_argument(
        "--text", metavar="FILE", type=Path, nargs="+", default=[],
        help="text files; two empty lines separate documents. Default: the documentation in Python's own "
        "standard library.",
    )  # fmt: skip
    _layer(command, "the layer after which hidden states are read, from 0")
    _name(command)
    command.add_argument(
        "--features", metavar="N", type=count, default=2304, help="features to learn. Default: 2304."
    )
    command.add_argument(
        "--k", metavar="K", type=count, default=32, help="features active on each token. Default: 32."
    )
    command.add_argument(
        "--tokens", metavar="N", type=count, default=100_000,
        help="how much text to read, at most; a tenth of it only measures the result. Default: 100000.",
    )  # fmt: skip
    command.add_argument(
        "--context", metavar="N", type=count, default=128,
        help="tokens of text that the model sees at once. Default: 128.",
    )  # fmt: skip
    command.add_argument(
        "--epochs", metavar="X", type=amount, default=8.0,
        help="how often each hidden state is used. Default: 8.",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of everything that is random. Default: 0.")
    command.add_argument("--half", action="store_true", help="write float16: half the size.")
    _model(command)


def add_features(add: Adder) -> None:
    command = add(
        "features",
        "list the features of a sparse autoencoder that write a token (their decoder's direction, read by "
        "the model's head) and that read it (their encoder's direction, compared with its embedding); also "
        "writes a page with plots",
    )
    command.add_argument("sae", metavar="SAE", help="its name, or its folder")
    command.add_argument("--token", metavar="TEXT", required=True, help="as ' she': a blank in front counts")
    command.add_argument("--top", metavar="N", type=count, default=10, help="of each kind. Default: 10.")
    _model(command)


def layers_of(text: str) -> tuple[int, ...]:
    """The layers that `10-20` or `8,12` means. Raises ConfigError."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not WHOLE.fullmatch(first) or (dash and not WHOLE.fullmatch(last)):
            raise ConfigError(f"--layer {text}: write a layer as 15, a range as 10-20, or several as 8,12")
        layers += range(int(first), int(last if dash else first) + 1)
    return tuple(sorted(set(layers)))


def _file(command: argparse.ArgumentParser, flag: str, text: str, *, required: bool) -> None:
    command.add_argument(flag, metavar="FILE", type=Path, required=required, help=text)


def _layer(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--layer", metavar="L", required=True, help=text)


def _name(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--name", metavar="NAME", required=True, type=_identifier,
        help="what requests call it: letters, digits, `.`, `_`, `-`",
    )  # fmt: skip


def _model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", dest="models.default", metavar="REF", help="the model; default: the configured one"
    )


def _identifier(text: str) -> str:
    if (
        not text
        or len(text) > 64
        or not all(c.isascii() and (c.isalnum() or c in "._-") for c in text)
        or text[0] == "."
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: use letters, digits, `.`, `_` and `-`")
    return text
