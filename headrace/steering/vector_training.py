"""From two lists of texts to a control vector, with a report of what it does.

The vector is the direction from a model's hidden states on some texts to those on others. The default is the
difference of means (Marks and Tegmark 2023; Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation
Addition"). The first principal component of the pairs' differences (Zou et al. 2023, "Representation
Engineering") is the alternative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.steering import report
from headrace.steering.formats.control_vector import write_vector
from headrace.steering.quality import Curve, text_curve, typical_norm
from headrace.steering.site import Floats, Report, Site
from headrace.steering.types import Capture

DOSES = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # times the vector
HELD_OUT = 5  # every so many texts one is kept for the plots, if there are enough
ENOUGH = 10
LEAST_TOKENS = 3  # of a text
MOST_TEXTS, MOST_TOKENS = 10_000, 1024  # texts of a file, and tokens of one text, that are read
Method = Literal["mean", "pca"]
Tokens = Literal["all", "last"]
States = NDArray[np.float32]  # [tokens, width] of one text at one site


def direction(
    positive: Sequence[States],
    negative: Sequence[States],
    *,
    method: Method = "mean",
    tokens: Tokens = "all",
) -> NDArray[np.float32]:
    """The direction [width] from the negative texts to the positive ones, in the units of the hidden states:
    adding it once moves the mean of the one to the mean of the other.

    Each text counts once, however long it is. `tokens`: which of its hidden states are averaged. With `pca`
    text i of one side belongs to text i of the other. Raises ConfigError.
    """
    if not positive or not negative:
        raise ConfigError("a steering vector needs at least one positive and one negative text")
    above = np.stack([_summary(states, tokens) for states in positive])
    below = np.stack([_summary(states, tokens) for states in negative])
    difference = above.mean(0) - below.mean(0)
    if method == "pca":
        difference = _first_component(above, below, difference)
    if not np.isfinite(difference).all() or not difference.any():
        raise ConfigError("the positive and the negative texts do not differ at this layer")
    single: NDArray[np.float32] = difference.astype(np.float32)
    return single


def _summary(states: States, tokens: Tokens) -> NDArray[np.float64]:
    """One vector [width] for a text. Position 0 is left out: its hidden state is a large constant, to which
    later tokens attend when they need nothing (Xiao et al. 2023, "attention sinks").
    """
    rows = states[-1:] if tokens == "last" or len(states) == 1 else states[1:]
    summary: NDArray[np.float64] = rows.mean(0, dtype=np.float64)
    return summary


def _first_component(
    above: NDArray[np.float64], below: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The first principal component of the pairs' differences, with the sign and the norm of `mean`."""
    if len(above) != len(below):
        raise ConfigError(
            f"the method pca compares pairs, but there are {len(above)} positive and {len(below)} negative "
            "texts; use the method mean, or as many of each"
        )
    if len(above) < 2:
        raise ConfigError("the method pca needs at least two pairs")
    differences = above - below
    _, _, axes = np.linalg.svd(differences - differences.mean(0), full_matrices=False)
    component: NDArray[np.float64] = axes[0] * np.linalg.norm(mean)
    return component if component @ mean >= 0 else -component


def random_like(vector: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """A random direction with the norm of `vector`, to compare its effect with."""
    drawn = np.random.default_rng(seed).standard_normal(vector.shape)
    scaled: NDArray[np.float32] = (drawn * np.linalg.norm(vector) / np.linalg.norm(drawn)).astype(np.float32)
    return scaled


@dataclass(frozen=True, slots=True)
class TrainedVector:
    """A direction for each layer. `norms`: the median norm of the hidden states there."""

    directions: Mapping[int, Floats]
    norms: Mapping[int, float]
    layer: int  # the one whose effect was measured
    curves: tuple[Curve, ...] = field(default=())
    num_texts: tuple[int, int] = (0, 0)
    num_tokens: int = 0
    method: Method = "mean"

    def relative(self, layer: int) -> float:
        """The direction's length, in median norms of the hidden states."""
        return float(np.linalg.norm(self.directions[layer])) / self.norms[layer]

    def summary(self) -> list[str]:
        lines = [
            f"layer {layer}: length {np.linalg.norm(vector):.2f}, {self.relative(layer):.2f} of the median"
            for layer, vector in self.directions.items()
        ]
        margin = self.curves[2]
        verdict = "rises with every dose" if margin.rises else "does not rise with every dose"
        return [*lines, f"at layer {self.layer}, the margin of positive over negative texts {verdict}"]

    def save(self, path: Path, *, model: str, name: str) -> None:
        """Write the vector as GGUF, and the report beside it."""
        write_vector(path, self.directions, model=model, name=name)
        path.with_suffix(".html").write_text(self.page(model, name), encoding="utf-8")

    def page(self, model: str, name: str) -> str:
        lengths = {
            f"length at layer {layer}": f"{np.linalg.norm(vector):.2f}, {self.relative(layer):.3f} of the "
            "median hidden state's"
            for layer, vector in self.directions.items()
        }
        texts, margin = self.curves[:2], self.curves[2:]
        return report.page(
            f"Control vector {name}",
            report.facts(
                {
                    "model": model,
                    "method": self.method,
                    "texts": f"{self.num_texts[0]} positive, {self.num_texts[1]} negative",
                    "tokens": self.num_tokens,
                    **lengths,
                }
            ),
            report.paragraph(
                f"What adding the vector at layer {self.layer} does to texts of both kinds that were not "
                "used for training, where there were enough of them. A random direction of equal length "
                "is the comparison: what it changes is not about the meaning."
            ),
            report.plotted(
                report.doses("Log-probability of a token", DOSES, texts, ("times the vector", "nats")),
                report.doses("Positive minus negative texts", DOSES, margin, ("times the vector", "nats")),
            ),
        )


class VectorTraining:
    """Trains on one model. `report` shows the progress."""

    def __init__(
        self, capture: Capture, layers: Sequence[int], method: Method, states: Tokens, report: Report
    ) -> None:
        self._capture, self._layers = capture, tuple(layers)
        self._method, self._states, self._report = method, states, report

    def run(self, positive: Sequence[str], negative: Sequence[str]) -> TrainedVector:
        """Train and measure. Raises ConfigError for texts that are too few or do not differ."""
        above, below = self._tokens(positive), self._tokens(negative)
        (above, more), (below, less) = _split(above), _split(below)
        read = list(self._read([*above, *below]))
        first, second = read[: len(above)], read[len(above) :]
        directions = {
            layer: direction(
                [states[layer] for states in first],
                [states[layer] for states in second],
                method=self._method,
                tokens=self._states,
            )
            for layer in self._layers
        }
        norms = {layer: typical_norm([states[layer] for states in read]) for layer in self._layers}
        layer = self._layers[len(self._layers) // 2]
        curves = self._curves(layer, directions[layer], more or above, less or below)
        counts = (len(positive), len(negative))
        number = sum(map(len, (*above, *below, *more, *less)))
        return TrainedVector(directions, norms, layer, curves, counts, number, self._method)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokens = [self._capture.tokens(text)[:MOST_TOKENS] for text in texts[:MOST_TEXTS]]
        short = next(
            (text for text, ids in zip(texts, tokens, strict=False) if len(ids) < LEAST_TOKENS), None
        )
        if short is not None:
            raise ConfigError(f"the text {short[:50]!r} is too short: each needs {LEAST_TOKENS} tokens")
        return tokens

    def _read(self, texts: Sequence[list[int]]) -> Iterator[Mapping[int, Floats]]:
        for index, tokens in enumerate(texts):
            yield self._capture.states(tokens, self._layers)
            self._report("reading", index + 1, len(texts))

    def _curves(
        self, layer: int, direction: Floats, positive: Sequence[list[int]], negative: Sequence[list[int]]
    ) -> tuple[Curve, ...]:
        """The log-probabilities of both kinds of texts, their difference, and that of a random direction."""
        site, curves = Site(self._capture, layer), []
        sides = (("positive texts", positive), ("negative texts", negative))
        for vector in (direction, random_like(direction)):
            for name, texts in sides:
                curves.append(text_curve(site, name, texts, vector, DOSES))
                self._report("measuring", len(curves), 4)
        margins = [
            Curve(name, tuple(a - b for a, b in zip(curves[at].values, curves[at + 1].values, strict=True)))
            for name, at in (("vector", 0), ("random direction", 2))
        ]
        return (*curves[:2], *margins)


def _split(texts: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """The texts to train on, and those to measure with: none if there are few."""
    if len(texts) < ENOUGH:
        return texts, []
    measured = texts[HELD_OUT - 1 :: HELD_OUT]
    return [text for index, text in enumerate(texts) if index % HELD_OUT != HELD_OUT - 1], measured
