"""From a request's ops, with names and units, to raw numbers: slots, terms and doses.

What does not depend on the prompt is resolved once for a request (`Resolved`); `plan_of` adds the scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from headrace.errors import SteeringCode, SteeringRefused
from headrace.steering.library import AttachedSAE, ModelLibrary, Shelf
from headrace.steering.plan import Plan, PromptFacts, Term, resolve
from headrace.steering.slot import Shape, Slot, length_of
from headrace.steering.types import Apply, Direction, Mode, Op, ResolvedOp, SteeringRequest

Floats = NDArray[np.float32]

Largest = Callable[[], float]

MAX_EDITS = 256  # slots of one request, over all layers
MAX_RAW = 1e6  # of strengths, values and their edits' lengths: what a model in float32 survives


@dataclass(frozen=True, slots=True)
class Edit:
    """One op at one layer."""

    op: ResolvedOp
    slot: Slot
    apply: Apply
    preserve_norm: bool
    dose: float | None  # of strength 1: see ResolvedOp.relative_dose


@dataclass(frozen=True, slots=True)
class Resolved:
    """All edits of a request, as strong as its ops say; the request's scale is not applied yet."""

    edits: tuple[Edit, ...]
    norms: Mapping[int, float]


def resolve_request(request: SteeringRequest, library: ModelLibrary) -> Resolved:
    """Resolve a request for one model. Raises SteeringRefused for an edit that cannot be applied exactly as
    it is written.
    """
    shelf = library.shelf
    edits: list[Edit] = []
    for op in request.ops:
        edits += _Resolver(op, op.apply or request.apply, library, shelf).edits()
        if len(edits) > MAX_EDITS:
            raise _refuse(op, "", f"the request has more than {MAX_EDITS} edits", "steering_unsupported")
    return Resolved(tuple(edits), shelf.norms)


def plan_of(resolved: Resolved, scale: float, facts: PromptFacts, max_dose: float = inf) -> Plan | None:
    """The plan of one sequence; None if it does nothing. Raises SteeringRefused if its dose at a layer is
    more than `max_dose`, in median norms of the hidden states.
    """
    edits = [replace(edit, op=_scaled(edit, scale)) for edit in resolved.edits]
    dose = _dose(edits, max_dose)
    applies = list(dict.fromkeys(edit.apply for edit in edits))
    scopes = [resolve(apply, facts) for apply in applies]
    places = [applies.index(edit.apply) for edit in edits]
    effective = [
        (index, edit)
        for index, edit in enumerate(edits)
        if _weight(edit) and not scopes[places[index]].is_empty
    ]
    if not effective:
        return None
    terms = tuple(
        Term(edit.op.layer, edit.slot, _weight(edit), places[index], edit.preserve_norm, index)
        for index, edit in effective
    )
    return Plan(terms, tuple(scopes), tuple(edit.op for edit in edits), dose)


def _scaled(edit: Edit, scale: float) -> ResolvedOp:
    strength = edit.op.strength * scale
    if not isfinite(strength) or abs(strength) > MAX_RAW:
        raise SteeringRefused(
            f"the strength {strength:g} is too large", code="steering_dose_exceeded", param=edit.op.param
        )
    dose = None if edit.dose is None else edit.dose * strength
    return replace(edit.op, strength=strength, relative_dose=dose)


def _weight(edit: Edit) -> float:
    """What multiplies the slot: an added direction's value is part of it, so that values share a slot."""
    return edit.op.strength * (edit.op.value if edit.slot.read is None else 1.0)


def _dose(edits: list[Edit], max_dose: float) -> float | None:
    """Add up the known relative doses of each layer, and return the largest sum. Raises SteeringRefused if it
    is above the limit.
    """
    by_layer: dict[int, float] = {}
    for edit in edits:
        if edit.op.relative_dose is not None:
            by_layer[edit.op.layer] = by_layer.get(edit.op.layer, 0.0) + abs(edit.op.relative_dose)
            if by_layer[edit.op.layer] > max_dose:
                raise SteeringRefused(
                    f"the edits at layer {edit.op.layer} are {by_layer[edit.op.layer]:.2f} times as long as "
                    f"the hidden states there; this server allows {max_dose:g}",
                    code="steering_dose_exceeded", param=edit.op.param,
                )  # fmt: skip
    return max(by_layer.values(), default=None)


class _Resolver:
    """Makes the edits of hidden states for one op of a request."""

    def __init__(self, op: Op, apply: Apply, library: ModelLibrary, shelf: Shelf) -> None:
        self._op, self._apply, self._library, self._shelf = op, apply, library, shelf

    def edits(self) -> list[Edit]:
        op = self._op
        if not isfinite(op.value) or not isfinite(op.strength):
            raise self._refuse("value", "it is not finite", "steering_unsupported")
        if op.mode == "scale" and op.unit != "raw":
            raise self._refuse("unit", "the factor of scale has no unit", "steering_mode_unsupported")
        if op.sae is not None:
            return self._of_feature()
        if op.vector is not None:
            return self._of_vector()
        return self._of_direction()

    def _of_feature(self) -> list[Edit]:
        op = self._op
        entry = self._shelf.saes.get(op.sae or "")
        if entry is None:
            raise self._refuse("sae", f"there is no SAE {op.sae!r}", "steering_unknown_sae")
        info = entry.sae.info
        if op.feature is None or not 0 <= op.feature < info.num_features:
            raise self._refuse(
                "feature", f"{op.sae} has the features 0 to {info.num_features - 1}, not {op.feature}",
                "steering_feature_out_of_range",
            )  # fmt: skip
        layers = op.layers or info.layers
        if not info.layers or not set(layers) <= set(info.layers):
            attached = ", ".join(map(str, info.layers)) or "no layer"
            raise self._refuse(
                "sae", f"{op.sae} is attached to {attached}: attach it first", "steering_layer_mismatch"
            )
        return [self._feature_edit(entry, op.feature, layer) for layer in layers]

    def _feature_edit(self, entry: AttachedSAE, feature: int, layer: int) -> Edit:
        op, sae = self._op, entry.sae
        value = self._raw(layer, largest=lambda: self._largest(entry, feature))
        length = length_of(sae.decoder[feature])
        if op.mode == "add" and not op.only_if_active:
            slot = Slot("add", np.ascontiguousarray(sae.decoder[feature]), Shape(1.0, 1.0))
        else:
            slot = sae.slot(feature, _shape(op.mode, value), only_if_active=op.only_if_active)
        return self._edit(slot, layer, value, length)

    def _of_vector(self) -> list[Edit]:
        op = self._op
        vector = self._shelf.vectors.get(op.vector or "")
        if vector is None:
            raise self._refuse(
                "vector", f"there is no control vector {op.vector!r}", "steering_unknown_vector"
            )
        layers = op.layers or tuple(vector.directions)
        missing = [layer for layer in layers if layer not in vector.directions]
        if missing:
            raise self._refuse(
                "layers", f"{op.vector} has directions for the layers {list(vector.directions)} only",
                "steering_layer_mismatch",
            )  # fmt: skip
        return [self._direction_edit(vector.directions[layer], layer) for layer in layers]

    def _of_direction(self) -> list[Edit]:
        op, direction = self._op, self._op.direction
        if direction is None:
            raise self._refuse("", "it has neither sae, vector nor direction", "steering_unsupported")
        if not op.layers:
            raise self._refuse("layers", "a direction needs the layers it acts on", "steering_layer_mismatch")
        rows = self._rows(direction, len(op.layers))
        return [self._direction_edit(row, layer) for row, layer in zip(rows, op.layers, strict=True)]

    def _rows(self, direction: Direction, count: int) -> Floats:
        """A row for each layer: the direction's, or its only one for all."""
        width = self._library.width
        if direction.shape[1] != width:
            raise self._refuse(
                "direction.shape", f"a direction is of width {direction.shape[1]}, the model of {width}",
                "steering_shape_mismatch",
            )  # fmt: skip
        if direction.shape[0] not in (1, count):
            raise self._refuse(
                "direction.shape", f"there are {direction.shape[0]} rows for {count} layers",
                "steering_shape_mismatch",
            )  # fmt: skip
        kind = np.dtype("<f2" if direction.dtype == "float16" else "<f4")
        if len(direction.data) != direction.shape[0] * width * kind.itemsize:
            raise self._refuse(
                "direction.data", "its length is not that of its shape", "steering_shape_mismatch"
            )
        rows = np.frombuffer(direction.data, kind).reshape(direction.shape).astype(np.float32)
        if not np.isfinite(rows).all():
            raise self._refuse(
                "direction.data", "it has numbers that are not finite", "steering_shape_mismatch"
            )
        return np.broadcast_to(rows, (count, width))

    def _direction_edit(self, direction: Floats, layer: int) -> Edit:
        """Resolve an op along a direction. An added direction is multiplied by the raw value as it is; for
        all other modes it is scaled to length 1.
        """
        op = self._op
        length = length_of(direction)
        if length == 0:
            raise self._refuse("", f"the direction at layer {layer} is 0", "steering_shape_mismatch")
        unit = (direction.astype(np.float64) / length).astype(np.float32)
        value = self._raw(layer, largest=None)
        if op.mode == "add" and not op.only_if_active:
            is_raw = op.unit == "raw"
            slot = Slot("add", np.ascontiguousarray(direction) if is_raw else unit, Shape(1.0, 1.0))
            return self._edit(slot, layer, value, length if is_raw else 1.0)
        slot = Slot("direction", unit, _shape(op.mode, value), unit, only_if_active=op.only_if_active)
        return self._edit(slot, layer, value, 1.0)

    def _edit(self, slot: Slot, layer: int, value: float, length: float) -> Edit:
        op = self._op
        if layer not in self._shelf.layers:
            layers = ", ".join(map(str, sorted(self._shelf.layers))) or "none"
            raise self._refuse(
                "layers", f"layer {layer} cannot be steered now; these can: {layers}. Attach something there",
                "steering_layer_mismatch",
            )  # fmt: skip
        if (size := abs(value) * max(1.0, length)) > MAX_RAW:
            raise self._refuse("value", f"an edit of {size:g} is too large", "steering_dose_exceeded")
        resolved = ResolvedOp(op.param, op.mode, layer, value, op.strength, op.sae, op.feature, op.vector)
        norm = self._shelf.norms.get(layer)
        # What `scale`, `cap` and `ablate` change depends on the activation.
        is_known = op.mode in ("add", "clamp", "floor") and norm
        dose = value * length / norm if is_known and norm else None
        return Edit(resolved, slot, self._apply, op.preserve_norm, dose)

    def _raw(self, layer: int, largest: Largest | None) -> float:
        """The op's value in raw units."""
        op = self._op
        if op.unit == "raw" or op.mode == "ablate":
            return op.value
        if op.unit == "relative":
            norm = self._shelf.norms.get(layer)
            if norm is None:
                raise self._refuse(
                    "unit", f"the norm of hidden states at layer {layer} was not measured",
                    "steering_statistics_missing",
                )  # fmt: skip
            return op.value * norm
        if largest is None:
            raise self._refuse("unit", "only features have a largest activation", "steering_mode_unsupported")
        return op.value * largest()

    def _largest(self, entry: AttachedSAE, feature: int) -> float:
        """The feature's largest activation: in its training, else in what probes have read."""
        largest = float(entry.largest[feature]) if entry.largest is not None else 0.0
        largest = largest or entry.statistics.largest(feature)
        if not largest:
            raise self._refuse(
                "unit", f"feature {feature} was never seen active: probe it on some text first",
                "steering_statistics_missing",
            )  # fmt: skip
        return largest

    def _refuse(self, member: str, problem: str, code: SteeringCode) -> SteeringRefused:
        return _refuse(self._op, member, problem, code)


def _shape(mode: Mode, value: float) -> Shape:
    """The function of the activation that a mode is."""
    shapes: dict[Mode, Shape] = {
        "add": Shape(1.0, value),
        "scale": Shape(value, 0.0),
        "clamp": Shape(0.0, value),
        "floor": Shape(1.0, 0.0, low=value),
        "cap": Shape(1.0, 0.0, high=value),
        "ablate": Shape(0.0, 0.0),
    }
    return shapes[mode]


def _refuse(op: Op, member: str, problem: str, code: SteeringCode) -> SteeringRefused:
    param = f"{op.param}.{member}" if member else op.param
    return SteeringRefused(f"{param}: {problem}", code=code, param=param)
