"""Reads what a request wants to know of the hidden states: the activations that its probes ask for, and what
its edits achieve; and of the logits, how far the edits move them.

Decoder rows are not orthogonal, so a feature that is clamped to 3 does not read 3 afterwards, and others
change with it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.steering.plan import Mask, Plan
from headrace.steering.sae import LoadedSAE
from headrace.steering.types import Abort, Condition, Probe, Reading, SideEffect

Floats = NDArray[np.float32]

NO_READING = Reading("", {})
# tokens of each distribution: 16 kB; the rest counts as one, so what is found is at most the divergence
KEPT = 2048
COMPARED = 4096  # distributions of one request that are compared at most: 64 MiB
MOST_SORTED = 8  # times as many activations as are reported: of more, the largest are selected first
States = Callable[[int], Floats]  # of one sequence's tokens, by layer: [tokens, width]

MOST_EFFECTS = 8  # that a receipt has


class Observer(Protocol):
    """Receives every activation that is read, for statistics."""

    def record(self, activations: Floats) -> None:
        """activations[tokens, features]. Called on the engine's thread, so it must be quick."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Numbers that are computed from the hidden states at a layer, for all sequences of a step at once:
    `compute` turns states[tokens, width] into [tokens, numbers]. Sources of one key are the same.
    """

    key: Hashable
    layer: int
    compute: Callable[[Floats], Floats]


class Prober(Protocol):
    """Reads the hidden states of one sequence at one layer, as they are computed."""

    @property
    def probe(self) -> Probe: ...
    @property
    def source(self) -> Source: ...

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        """The readings of the sequence's next tokens, from their rows of what the source computed. `start`:
        the position of the first.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SAEProber:
    """Reads the activations of an SAE, at a layer where it is attached."""

    probe: Probe
    sae: LoadedSAE
    layer: int
    observer: Observer | None = None
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        key = ("probe", self.sae.info.digest, self.layer, id(self.observer))
        object.__setattr__(self, "source", Source(key, self.layer, self._encode))

    def _encode(self, states: Floats) -> Floats:
        activations = self.sae.encode(states)
        if self.observer is not None:
            self.observer.record(activations)
        return activations

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        """The readings of activations[tokens, features]."""
        name, features = self.probe.sae, list(self.probe.features)
        named = numbers[:, features].tolist()
        tops = largest(numbers, self.probe.top_k)
        return [
            Reading(name, dict(zip(features, values, strict=True)), top)
            for values, top in zip(named, tops, strict=True)
        ]


class PeakProber:
    """Measures the largest activation of one feature on a prompt, but for its first token."""

    probe = Probe("", require_all=True)

    def __init__(self, sae: LoadedSAE, layer: int, feature: int) -> None:
        self._feature, self.peak = feature, 0.0
        self.source = Source(("encode", sae.info.digest, layer), layer, sae.encode)

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        values = numbers[max(0, 1 - start) :, self._feature]
        self.peak = max(self.peak, float(values.max(initial=0.0)))
        return [NO_READING] * len(numbers)


class GuardProber:
    """Watches one answer for the first generated token on which a feature meets a condition. `num_prompt`:
    the position of the first generated token.
    """

    probe = Probe("", prompt=False, generation=False)

    def __init__(self, sae: LoadedSAE, layer: int, condition: Condition, num_prompt: int) -> None:
        self._condition, self._num_prompt = condition, num_prompt
        self.found: Abort | None = None
        self.source = Source(("encode", sae.info.digest, layer), layer, sae.encode)

    def read(self, numbers: Floats, start: int) -> list[Reading]:
        for position, value in enumerate(numbers[:, self._condition.feature].tolist(), start):
            is_generated = position >= self._num_prompt
            if self.found is None and is_generated and self._condition.is_met(value):
                self.found = Abort(position, value)
        return [NO_READING] * len(numbers)


def largest(activations: Floats, count: int) -> list[tuple[tuple[int, float], ...]]:
    """Find in each row the `count` largest activations that are positive, as (feature, activation), the
    largest first.
    """
    return [_largest(row, count) for row in activations]


def _largest(row: Floats, count: int) -> tuple[tuple[int, float], ...]:
    """By one row at a time: a step has one of each sequence, of which few numbers are positive."""
    features = np.flatnonzero(row > 0)
    values = row[features]
    if count and len(values) > MOST_SORTED * count:
        are_large = values >= np.partition(values, -count)[-count]
        features, values = features[are_large], values[are_large]
    order = np.argsort(-values, kind="stable")[:count]
    return tuple(zip(features[order].tolist(), values[order].tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """What to measure of one op. It is read by an SAE, as its feature; or along a direction of length 1."""

    op: int  # its place in the plan's ops
    layer: int
    scope: int  # the index of its scope in the plan
    reader: LoadedSAE | Floats
    feature: int = -1


class Achieved:
    """The achieved values of one sequence: means over the tokens that were edited and computed, not those
    from the cache.
    """

    def __init__(
        self, plan: Plan, measures: Sequence[Measure], observed: Sequence[tuple[int, LoadedSAE]] = ()
    ) -> None:
        """`observed`: the SAEs that find side effects, each with its layer."""
        self._plan, self._measures = plan, measures
        self._sums = np.zeros(len(plan.ops))
        self._counts = np.zeros(len(plan.ops), np.int64)
        self._observed = [_Observed(plan, layer, sae) for layer, sae in observed]

    @property
    def layers(self) -> tuple[int, ...]:
        observed = (entry.layer for entry in self._observed)
        return tuple(dict.fromkeys((*(measure.layer for measure in self._measures), *observed)))

    def add(
        self, before: States, after: States, tokens: Sequence[int], start: int, flags: Sequence[int]
    ) -> None:
        """Measure the effect of the edits at the positions of `tokens`, the first of which is `start`.
        `before`, `after`: the hidden states [tokens, width] of a layer without and with the edits.
        """
        covered = self._plan.covered(tokens, start, start + len(tokens), flags)
        encoded: dict[tuple[str, int], Floats] = {}  # by SAE and layer
        for entry in self._observed:
            activations = entry.add(before(entry.layer), after(entry.layer), covered)
            encoded[entry.sae.info.digest, entry.layer] = activations
        for measure in self._measures:
            mask, h = covered[measure.scope], after(measure.layer)
            if not mask.any():
                continue
            if isinstance(measure.reader, LoadedSAE):
                key = (measure.reader.info.digest, measure.layer)
                if key not in encoded:
                    encoded[key] = measure.reader.encode(h)
                values = encoded[key][:, measure.feature]
            else:
                values = h @ measure.reader
            self._sums[measure.op] += float(values[mask].sum(dtype=np.float64))
            self._counts[measure.op] += int(mask.sum())

    def means(self) -> tuple[float | None, ...]:
        """The mean of each of the plan's ops; None: it was not measured."""
        pairs = zip(self._sums.tolist(), self._counts.tolist(), strict=True)
        return tuple(total / count if count else None for total, count in pairs)

    def side_effects(self) -> tuple[SideEffect, ...]:
        """The features that changed most, without those of the ops."""
        named = {(op.sae, op.feature, op.layer) for op in self._plan.ops}
        effects = [
            effect
            for entry in self._observed
            for effect in entry.largest()
            if (effect.sae, effect.feature, effect.layer) not in named
        ]
        return tuple(sorted(effects, key=lambda effect: -abs(effect.change))[:MOST_EFFECTS])


class _Observed:
    """Sums how much the edits at one layer change each feature of an SAE."""

    def __init__(self, plan: Plan, layer: int, sae: LoadedSAE) -> None:
        self.layer, self.sae = layer, sae
        self._scopes = sorted({term.scope for term in plan.terms if term.layer == layer})
        self._change, self._count = np.zeros(sae.info.num_features), 0
        self._num_named = len(plan.ops)

    def add(self, before: Floats, after: Floats, covered: Sequence[Mask]) -> Floats:
        """Returns the activations [tokens, features] after the edits."""
        activations = self.sae.encode(after)
        edited = np.logical_or.reduce([covered[scope] for scope in self._scopes])
        if edited.any():
            change = activations[edited] - self.sae.encode(before[edited])
            self._change += change.sum(axis=0, dtype=np.float64)
            self._count += int(edited.sum())
        return activations

    def largest(self) -> list[SideEffect]:
        """The largest changes: more than are reported, because those of features that the ops name are
        dropped later.
        """
        sizes = np.abs(self._change)
        order = np.argsort(-sizes, kind="stable")[: MOST_EFFECTS + self._num_named]
        name, count = self.sae.info.id, max(1, self._count)
        return [
            SideEffect(name, int(feature), self.layer, float(self._change[feature]) / count)
            for feature in order
            if sizes[feature]
        ]


class Divergence:
    """How far steering moves what a model would say next: the Kullback-Leibler divergence, in nats, of its
    distribution from that of the same model, unsteered, at each token of one answer. `keep` gets the logits
    from which each was chosen, in order, of which the first `most` count; `compare` those that the model has
    there without steering.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[NDArray[np.int32], Floats]] = []  # tokens, their log-probabilities
        self._found: dict[int, float] = {}

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def keep(self, row: Floats) -> None:
        if len(self._kept) == self._most:
            return
        ids = np.argpartition(row, -KEPT)[-KEPT:] if len(row) > KEPT else np.arange(len(row))
        self._kept.append((ids.astype(np.int32), _logs(row, ids).astype(np.float32)))

    def compare(self, number: int, row: Floats) -> None:
        """`number`: of the token in the answer, from 0. A token that is compared again counts once."""
        ids, kept = self._kept[number]
        logs, plain = kept.astype(np.float64), _logs(row, ids)
        here, there = np.exp(logs), np.exp(plain)
        rest, other = max(0.0, 1 - float(here.sum())), max(1e-30, 1 - float(there.sum()))
        tail = rest * float(np.log(rest / other)) if rest > 0 else 0.0
        self._found[number] = max(0.0, float((here * (logs - plain)).sum()) + tail)

    def mean(self) -> float | None:
        """The mean over the tokens that were compared; None: there is none. What was kept is released."""
        self._kept.clear()
        return sum(self._found.values()) / len(self._found) if self._found else None


def _logs(row: Floats, ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """The log-probabilities of some tokens of row[vocabulary]."""
    shifted = row.astype(np.float64) - float(row.max())
    logs: NDArray[np.float64] = shifted[ids] - np.log(np.exp(shifted).sum())
    return logs
