"""Writes what was read and applied inside the model: `feature_activations`, aligned with tokens like
logprobs, and receipts of steering.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.steering.types import Activations, Reading, Receipt, ResolvedOp, SideEffect
from headrace.wire.steering import Labels, SteeringMembers


class TopFeature(TypedDict):
    sae: str
    feature: int
    label: NotRequired[str]
    activation: float


class TokenActivations(TypedDict):
    token: str
    bytes: list[int]
    position: Annotated[int, Field(description="From 0, the prompt's first token.")]
    cached: Annotated[
        bool, Field(description="Taken from the prefix cache, which has no activations: there are none.")
    ]
    top: list[TopFeature]
    features: Annotated[
        dict[str, float], Field(description="Those that the probe names; with several probes as SAE/FEATURE.")
    ]


class FeatureActivations(TypedDict):
    content: list[TokenActivations]


class AppliedOp(TypedDict):
    param: str
    mode: str
    layer: int
    value: Annotated[float, Field(description="In raw units.")]
    strength: float
    sae: NotRequired[str]
    feature: NotRequired[int]
    vector: NotRequired[str]
    relative_dose: Annotated[
        float | None,
        Field(description="Negative: against the direction. Null: it depends on the activation."),
    ]
    achieved: Annotated[
        float | None, Field(description="The activation after the edit, mean over the tokens; null: unread.")
    ]


class SideEffectObject(TypedDict):
    sae: str
    feature: int
    label: NotRequired[str]
    layer: int
    change: Annotated[float, Field(description="Of its activation, mean over the tokens.")]


class ConditionObject(TypedDict):
    activation: Annotated[float, Field(description="The feature's largest on the prompt.")]
    is_met: bool


class AbortObject(TypedDict):
    position: Annotated[int, Field(description="Of the token that met `abort_when`.")]
    activation: float


class SteeringReceipt(TypedDict):
    """What was applied to one answer."""

    fingerprint: Annotated[str, Field(description="Of what was applied, not of names.")]
    profile: str | None
    ops: list[AppliedOp]
    relative_dose: Annotated[float | None, Field(description="The largest sum of lengths at one layer.")]
    tokens_steered: int
    top_side_effects: Annotated[
        list[SideEffectObject], Field(description="Features that no op names, the most changed first.")
    ]
    warning: Annotated[NotRequired[str], Field(description="Only if the dose is more than 1.")]
    kl: Annotated[
        NotRequired[float],
        Field(
            description="With `receipt: kl`: of the answer's distributions from unsteered ones, mean, nats."
        ),
    ]
    when: Annotated[NotRequired[ConditionObject], Field(description="Only if the request has a condition.")]
    abort: Annotated[NotRequired[AbortObject], Field(description="Only if `abort_when` ended the answer.")]


class SteeringAnswer(TypedDict, total=False):
    """Members of a choice that are there only where the request wants them."""

    feature_activations: FeatureActivations
    steering: SteeringReceipt


NOTHING: SteeringAnswer = {}
LARGE_DOSE = 1.0  # relative; from there on a receipt warns


def inside(
    body: SteeringMembers | None, activations: Sequence[Activations], receipt: Receipt | None = None
) -> SteeringAnswer:
    """The members of a choice, or of a chunk, as far as the body wants them."""
    if body is None:
        return NOTHING
    steered = body.steered
    members: SteeringAnswer = {}
    if steered.probes:
        members["feature_activations"] = feature_activations(activations, steered.labels())
    if receipt is not None and steered.has_receipt:
        members["steering"] = receipt_body(receipt, steered.labels())
    return members


def feature_activations(activations: Sequence[Activations], labels: Labels) -> FeatureActivations:
    return {"content": [_token(entry, labels) for entry in activations]}


def receipt_body(receipt: Receipt, labels: Labels) -> SteeringReceipt:
    achieved = receipt.achieved or (None,) * len(receipt.ops)
    body: SteeringReceipt = {
        "fingerprint": receipt.fingerprint,
        "profile": receipt.profile,
        "ops": [_op(op, value) for op, value in zip(receipt.ops, achieved, strict=True)],
        "relative_dose": receipt.relative_dose,
        "tokens_steered": receipt.tokens_steered,
        "top_side_effects": [_side_effect(effect, labels) for effect in receipt.side_effects],
    }
    if receipt.relative_dose is not None and receipt.relative_dose > LARGE_DOSE:
        body["warning"] = (
            f"the edits at one layer are {receipt.relative_dose:.2f} times as long as the hidden states "
            "there: the text is likely to fall apart"
        )
    if receipt.divergence is not None:
        body["kl"] = receipt.divergence
    if receipt.condition is not None:
        body["when"] = {"activation": receipt.condition.activation, "is_met": receipt.condition.is_met}
    if receipt.abort is not None:
        body["abort"] = {"position": receipt.abort.position, "activation": receipt.abort.activation}
    return body


def _side_effect(effect: SideEffect, labels: Labels) -> SideEffectObject:
    body: SideEffectObject = {
        "sae": effect.sae,
        "feature": effect.feature,
        "layer": effect.layer,
        "change": effect.change,
    }
    label = labels.get(effect.sae, {}).get(effect.feature)
    if label is not None:
        body["label"] = label
    return body


def _op(op: ResolvedOp, achieved: float | None) -> AppliedOp:
    body: AppliedOp = {
        "param": op.param,
        "mode": op.mode,
        "layer": op.layer,
        "value": op.value,
        "strength": op.strength,
        "relative_dose": op.relative_dose,
        "achieved": achieved,
    }
    if op.sae is not None:
        body["sae"] = op.sae
    if op.feature is not None:
        body["feature"] = op.feature
    if op.vector is not None:
        body["vector"] = op.vector
    return body


def _token(entry: Activations, labels: Labels) -> TokenActivations:
    is_single = len(entry.readings) == 1
    return {
        "token": entry.token,
        "bytes": list(entry.raw),
        "position": entry.position,
        "cached": entry.cached,
        "top": [feature for reading in entry.readings for feature in _top(reading, labels)],
        "features": {
            str(feature) if is_single else f"{reading.sae}/{feature}": value
            for reading in entry.readings
            for feature, value in reading.features.items()
        },
    }


def _top(reading: Reading, labels: Labels) -> Iterator[TopFeature]:
    known = labels.get(reading.sae, {})
    for feature, activation in reading.top:
        entry: TopFeature = {"sae": reading.sae, "feature": feature, "activation": activation}
        if feature in known:
            entry["label"] = known[feature]
        yield entry
