"""Which features of a sparse autoencoder write a token, which read it, and which are like each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.steering import report
from headrace.steering.formats.detect import read_sae
from headrace.steering.formats.tensors import read_json
from headrace.steering.library import FEATURES, labels_of
from headrace.steering.sae import LoadedSAE, fold
from headrace.steering.site import Lens, Report, Site, embeddings, no_report
from headrace.steering.types import Capture, SAEInfo

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Score:
    """A feature with its score. Writing: how many standard deviations the token's logit is above the mean of
    the vocabulary. Reading: the cosine of the encoder's direction and the token's embedding.
    """

    feature: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class TokenFeatures:
    """The features that score highest, and the scores of all, to see how they stand out."""

    token: int
    writers: tuple[Score, ...]
    readers: tuple[Score, ...]
    writing: Floats
    reading: Floats

    def page(self, sae: str, text: str, labels: Mapping[int, str]) -> str:
        """An HTML report."""
        kinds = (
            ("Features that write it", "standard deviations of its logit", self.writers, self.writing),
            ("Features that read it", "cosine with its embedding", self.readers, self.reading),
        )
        parts = []
        for title, unit, scores, of_all in kinds:
            rows = [(score.feature, score.score, labels.get(score.feature, "")) for score in scores]
            parts += [report.heading(title), report.score_table(rows, unit)]
            parts.append(report.distribution("All features", of_all, (unit, "features, log10(1 + n)")))
        return report.page(f"The token '{report.printable(text)}' in {sae}", *parts)


def load_sae(path: Path) -> LoadedSAE:
    """An SAE of any format that is read, without a server. Raises SteeringRefused."""
    file = read_sae(path)
    labels = labels_of(read_json((path if path.is_dir() else path.parent) / FEATURES))
    layer = -1 if file.layer is None else file.layer
    info = SAEInfo(path.name, file.weights.architecture, 0, 0, layer, format=file.format, labels=labels)
    return fold(file.weights, info)


def token_features(
    capture: Capture, encoder: Floats, decoder: Floats, text: str, count: int, progress: Report = no_report
) -> TokenFeatures:
    """The features that score highest for the first token of a text. encoder[width, features],
    decoder[features, width]. Raises ConfigError for an empty text.
    """
    tokens = capture.tokens(text)
    if not tokens:
        raise ConfigError("the text has no token")
    token = tokens[0]
    scores = Lens.read(capture, decoder, tokens=[token], report=progress).scores[:, 0]
    embedding = embeddings(capture, [token])[0]
    lengths = np.linalg.norm(encoder, axis=0) * np.linalg.norm(embedding)
    cosines = (embedding @ encoder) / np.maximum(lengths, 1e-9)
    return TokenFeatures(token, _best(scores, count), _best(cosines, count), scores, cosines)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the model's head reads in a feature's direction: (token, standard deviations of its logit from the
    vocabulary's mean), the farthest first.
    """

    top: tuple[tuple[int, float], ...]
    bottom: tuple[tuple[int, float], ...]


def token_scores(capture: Capture, direction: Floats, count: int) -> TokenScores:
    """The tokens that a direction [width] makes most and least probable."""
    logits = Site(capture, capture.num_layers - 1).logits([0], direction[None])[0]
    scores = (logits - logits.mean()) / max(float(logits.std()), 1e-9)
    order = np.argsort(scores)
    ends = order[: -count - 1 : -1].tolist(), order[:count].tolist()
    top, bottom = (tuple((token, float(scores[token])) for token in end) for end in ends)
    return TokenScores(top, bottom)


def _best(scores: Floats, count: int) -> tuple[Score, ...]:
    order: Sequence[int] = np.argsort(-scores)[:count].tolist()
    return tuple(Score(feature, float(scores[feature])) for feature in order)


def neighbours(sae: LoadedSAE, feature: int, count: int) -> list[tuple[int, float]]:
    """The features whose decoder directions are most alike, with the cosines, most alike first."""
    direction = sae.decoder[feature]
    norms = np.linalg.norm(sae.decoder, axis=1) * np.linalg.norm(direction)
    cosines = (sae.decoder @ direction) / np.maximum(norms, 1e-12)
    cosines[feature] = -np.inf
    order = np.argsort(-cosines)[: min(count, len(cosines) - 1)]
    return [(int(index), float(cosines[index])) for index in order]


def lengths(sae: LoadedSAE, feature: int) -> tuple[float, float]:
    """The lengths of a feature's encoder and decoder directions."""
    return float(np.linalg.norm(sae.encoder[:, feature])), float(np.linalg.norm(sae.decoder[feature]))
