"""From texts to a sparse autoencoder, with a report of how good it is and what its features do. Features for
the report are chosen, named, and measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.steering import report
from headrace.steering.corpus import file_texts, library_texts, windows
from headrace.steering.formats.saelens import save_sae
from headrace.steering.library import FEATURES
from headrace.steering.quality import CrossEntropy, Curve, Quality, cross_entropy, measure, token_curve
from headrace.steering.report import printable
from headrace.steering.site import Lens, Report, Site
from headrace.steering.train_sae import SAE, SAESettings, train, usable
from headrace.steering.types import Capture
from headrace.steering.vector_training import random_like

Decode = Callable[[Sequence[int]], str]

RARE, FREQUENT = 2e-4, 0.05  # shares of tokens, between which a feature is likely to mean something
SHOWN = 40  # features in the report
NAMES = 3  # tokens in a feature's label
DOSES = (0.0, 0.1, 0.2, 0.3)  # times the median norm
PROMPTS = (
    "I looked at the page and", "The next part of the text is about", "When they came home, it was",
    "This function returns", "In the middle of the night", "It is well known that",
)  # fmt: skip
Floats = NDArray[np.float32]
Contexts = Sequence[tuple[str, str, str]]

HELD_OUT = 0.1  # of the windows, only to measure
COMPARED = 20  # windows whose cross-entropy is measured
PLOTTED = 5  # features whose effect is plotted
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Found:
    """What was read out of the features. `shown`: those in the report."""

    labels: list[str]
    shown: list[int]
    effects: list[Effect]
    contexts: dict[int, Contexts]


@dataclass(frozen=True, slots=True)
class TrainedSAE:
    """A sparse autoencoder with what was measured of it."""

    sae: SAE
    layer: int
    quality: Quality  # on held-out text
    usage: Quality  # on all text
    loss: CrossEntropy
    median_norm: float  # of the hidden states
    found: Found
    num_tokens: int
    num_left_out: int
    prepend_bos: bool
    source: str

    def summary(self) -> list[str]:
        quality, loss = self.quality, self.loss
        return [
            f"explained variance {quality.explained_variance:.3f} on {quality.num_tokens} held-out tokens",
            f"L0 {quality.l0:.1f}, dead features {self.usage.num_dead} of {self.sae.num_features}",
            f"cross-entropy {loss.plain:.3f} nats, with the reconstruction {loss.spliced:.3f}, with the mean "
            f"{loss.ablated:.3f}: {100 * loss.recovered:.1f} % recovered",
        ]

    def save(self, folder: Path, *, model: str, name: str, half: bool) -> None:
        """Write weights, what is known of the features, and the report."""
        notes = {"dataset": self.source, "training_tokens": self.num_tokens}
        save_sae(
            self.sae,
            folder,
            model=model,
            layer=self.layer,
            prepend_bos=self.prepend_bos,
            half=half,
            notes=notes,
        )
        known = {
            "median_norm": self.median_norm,
            "explained_variance": self.quality.explained_variance,
            "labels": self.found.labels,
            "largest": [round(float(value), 4) for value in self.usage.largest],
            "density": [round(float(value), 6) for value in self.usage.density],
        }
        (folder / FEATURES).write_text(json.dumps(known) + "\n", encoding="utf-8")
        (folder / REPORT).write_text(self.page(model, name), encoding="utf-8")

    def page(self, model: str, name: str) -> str:
        facts = {
            "model": model,
            "site": f"resid_post[{self.layer}], median norm {self.median_norm:.1f}",
            "text": self.source,
            "hidden states": f"{self.num_tokens}, of which {self.num_left_out} of huge norm were left out",
            "features": f"{self.sae.num_features}, of which {self.sae.k} are active on a token",
            **report.quality_facts(self.quality, self.loss),
            "dead features, on all text": f"{self.usage.num_dead} of {self.sae.num_features}",
        }
        axes = ("times the median norm", "nats")
        return report.page(
            f"Sparse autoencoder {name}",
            report.facts(facts),
            report.plotted(report.losses(self.sae.losses), report.densities(self.usage)),
            report.heading("Behaviour against dose"),
            report.paragraph(
                "The log-probability of the tokens that a feature writes, after prompts that do not speak of "
                "them, when its direction is added; and when a random direction of equal length is."
            ),
            report.plotted(*(
                report.doses(f"{effect.feature}: {self.found.labels[effect.feature]}", DOSES,
                    effect.curves, axes)
                for effect in self.found.effects
            )),
            report.heading("Features"),
            report.feature_table([self._row(feature) for feature in self.found.shown]),
        )  # fmt: skip

    def _row(self, feature: int) -> tuple[int, str, float, float, Contexts]:
        usage = self.usage
        density, largest = float(usage.density[feature]), float(usage.largest[feature])
        return feature, self.found.labels[feature], density, largest, self.found.contexts[feature]


class SAETraining:
    """Trains at one layer of one model. `decode` turns tokens into text, `report` shows the progress."""

    def __init__(
        self, capture: Capture, layer: int, settings: SAESettings, decode: Decode, report: Report
    ) -> None:
        self._site, self._settings, self._decode, self._report = (
            Site(capture, layer),
            settings,
            decode,
            report,
        )

    def run(
        self, paths: Sequence[Path], *, tokens: int, length: int, prefix: Sequence[int] = ()
    ) -> TrainedSAE:
        """Train on files, or on Python's documentation if there are none. `tokens`: of text, at most;
        `length`: of a window; `prefix`: tokens before each. Raises ConfigError.
        """
        texts = file_texts(paths) if paths else library_texts()
        encode, seed = self._site.capture.tokens, self._settings.seed
        chosen = windows(texts, encode, length=length, tokens=tokens, prefix=prefix, seed=seed)
        num_held = max(1, round(HELD_OUT * len(chosen)))
        states, rows = self._read(chosen)
        num_states, fit = len(states), usable(states)
        states, rows = states[fit], rows[fit]
        is_held = rows[:, 0] < num_held
        sae = train(states[~is_held], self._settings, self._report)
        quality, usage = measure(sae, states[is_held], self._report), measure(sae, states, self._report)
        mean, norm = states[~is_held].mean(0), float(np.median(np.linalg.norm(states, axis=1)))
        loss = cross_entropy(self._site, sae, chosen[:num_held][:COMPARED], mean, self._report)
        contexts = self._find(sae, usage, chosen, rows, norm)
        source = ", ".join(path.name for path in paths) or "the documentation of Python's standard library"
        return TrainedSAE(
            sae, self._site.layer, quality, usage, loss, norm, contexts, num_states, int((~fit).sum()),
            bool(prefix), source,
        )  # fmt: skip

    def _read(self, texts: Sequence[list[int]]) -> tuple[Floats, NDArray[np.int64]]:
        """The hidden states [tokens, width] of all positions but the first of each text, and where each is:
        [tokens, 2] text and position.
        """
        states, rows = [], []
        for index, tokens in enumerate(texts):
            states.append(self._site.states(tokens)[1:])
            positions = np.arange(1, len(tokens), dtype=np.int64)
            rows.append(np.stack([np.full_like(positions, index), positions], axis=1))
            self._report("reading", index + 1, len(texts))
        return np.concatenate(states), np.concatenate(rows)

    def _find(
        self, sae: SAE, usage: Quality, texts: Sequence[list[int]], rows: NDArray[np.int64], norm: float
    ) -> Found:
        """Name the features, choose some for the report, and measure what a few of them do."""
        lens = Lens.read(self._site.capture, sae.w_dec, report=self._report)
        shown = choose(lens, usage)
        prompts = [self._site.capture.tokens(prompt) for prompt in PROMPTS]
        effects = []
        for feature in shown[:PLOTTED]:
            targets = lens.top[feature].tolist()
            effects.append(effect(self._site, sae, feature, targets, norm, prompts))
            self._report("measuring features", len(effects), min(PLOTTED, len(shown)))
        contexts: dict[int, Contexts] = {
            feature: contexts_of(usage, feature, texts, rows, self._decode) for feature in shown
        }
        return Found(labels(lens, self._decode), shown, effects, contexts)


@dataclass(frozen=True, slots=True)
class Effect:
    """What adding a feature does to the tokens that it writes, and what a random direction does to them."""

    feature: int
    curves: tuple[Curve, Curve]


def choose(lens: Lens, usage: Quality) -> list[int]:
    """The features whose first token stands out most, among those that are active neither very rarely nor
    very often.
    """
    fit = (usage.density >= RARE) & (usage.density <= FREQUENT)
    order = np.argsort(-np.where(fit, lens.sharpness, -np.inf))[:SHOWN]
    return [int(feature) for feature in order if fit[feature]]


def labels(lens: Lens, decode: Decode) -> list[str]:
    """A name for each feature: the tokens that it writes."""
    return [" ".join(printable(decode([token])) for token in row[:NAMES]) for row in lens.top.tolist()]


def effect(
    site: Site, sae: SAE, feature: int, targets: Sequence[int], norm: float, prompts: Sequence[Sequence[int]]
) -> Effect:
    """Add the feature's direction at DOSES times `norm` to prompts that do not speak of it. `targets`: the
    tokens that it writes.
    """
    unit = sae.w_dec[feature] / np.linalg.norm(sae.w_dec[feature])
    direction = (unit * norm).astype(np.float32)
    pairs = ((f"feature {feature}", direction), ("random direction", random_like(direction, feature)))
    first, second = (token_curve(site, name, prompts, targets, vector, DOSES) for name, vector in pairs)
    return Effect(feature, (first, second))


def contexts_of(
    quality: Quality, feature: int, texts: Sequence[Sequence[int]], rows: NDArray[np.int64], decode: Decode
) -> list[tuple[str, str, str]]:
    """The texts before, at and after the tokens with the feature's largest activations. `rows`: [tokens, 2]
    text and position of each hidden state.
    """
    contexts = []
    for row in quality.contexts[feature].tolist():
        if row >= 0:
            text, at = rows[row].tolist()
            tokens = texts[text]
            contexts.append(
                (
                    decode(tokens[max(0, at - 8) : at]),
                    decode(tokens[at : at + 1]),
                    decode(tokens[at + 1 : at + 5]),
                )
            )
    return contexts
