"""The JSON of /v1/saes, /v1/vectors and /v1/steering: bodies of requests, and objects of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from headrace.steering.types import FeatureStatistics, MinuteStatistics, SAEInfo, VectorInfo
from headrace.store import StoredProfile
from headrace.wire.activations import SteeringReceipt
from headrace.wire.limits import MAX_LAYERS, at_most
from headrace.wire.steering import Layer, Name, Nested, ProfileBody, SteeringBody

MAX_PATH = 1_000  # characters
MAX_TEXTS = 1_000  # from which a vector is trained, of either kind

Entry = TypeVar("Entry")


class WholeList(TypedDict, Generic[Entry]):
    """A list that has no pages."""

    object: Literal["list"]
    data: list[Entry]
    has_more: bool


def whole_list(data: list[Entry], *, has_more: bool = False) -> WholeList[Entry]:
    return {"object": "list", "data": data, "has_more": has_more}


class SAEBody(Nested):
    """A sparse autoencoder to load."""

    id: Name
    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH)] = Field(
        description="A file or folder below the configured root."
    )
    layer: Layer | None = Field(None, description="Default: what the files say.")
    model: str | None = None
    attach: bool = Field(True, description="Also make it usable by requests.")


class VectorBody(Nested):
    """A control vector to load, from a GGUF file."""

    id: Name
    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH)] = Field(
        description="A file below the configured root."
    )
    model: str | None = None
    attach: bool = Field(True, description="Also make it usable by requests.")


class TrainBody(Nested):
    """Texts from which a control vector is trained."""

    id: Name
    positive: Annotated[list[str], at_most(MAX_TEXTS, least=1)] = Field(
        description="Texts that have what the vector shall add."
    )
    negative: Annotated[list[str], at_most(MAX_TEXTS, least=1)] = Field(
        description="Texts that lack it, otherwise alike."
    )
    layers: Annotated[list[Annotated[int, Field(ge=0, le=1023)]], at_most(MAX_LAYERS, least=1)]
    method: Literal["mean", "pca"] = "mean"
    states: Literal["all", "last"] = Field("all", description="Which tokens' hidden states are averaged.")
    model: str | None = None
    attach: bool = Field(True, description="Also make it usable by requests.")
    overwrite: bool = Field(False, description="Replace a vector of the same id.")


class AttachBody(Nested):
    layer: Layer | None = Field(None, description="Of an SAE; default: its own. A vector has its layers.")


class ProfileCreation(Nested):
    """A profile: ops under a name."""

    name: Name
    description: Annotated[str, Field(max_length=1_000)] = ""
    model: Annotated[str, Field(max_length=300)] | None = Field(
        None, description="The model that it is for; null: any."
    )
    steering: ProfileBody


class ProfileChange(Nested):
    description: Annotated[str, Field(max_length=1_000)] = ""
    model: Annotated[str, Field(max_length=300)] | None = None
    steering: ProfileBody


class ImportBody(Nested):
    """What GET /v1/steering/profiles/{name}/export has returned."""

    format: Literal["headrace.steering.profile"]
    version: Literal[1]
    profile: ProfileCreation
    requires: dict[str, str] = Field(
        default_factory=dict, max_length=128, description="SAE or vector → digest of its numbers."
    )


class DefaultBody(Nested):
    profile: Name
    scope: Literal["everyone", "me"] = Field(
        "everyone", description="me: the requests of the caller's own API key."
    )


class ValidateBody(Nested):
    """Steering to check, without generating."""

    model: str | None = None
    steering: str | SteeringBody


class SAEObject(TypedDict):
    id: str
    object: Literal["sae"]
    model: str
    architecture: str
    width: int
    num_features: int
    layer: Annotated[int, Field(description="Where it was trained.")]
    k: int | None
    normalization: str
    format: str
    trained_on: Annotated[str | None, Field(description="The model that its files name.")]
    digest: Annotated[str, Field(description="Of its numbers.")]
    attached_layers: list[int]
    median_norm: Annotated[float | None, Field(description="Of hidden states at its layer.")]


class VectorObject(TypedDict):
    id: str
    object: Literal["vector"]
    model: str
    width: int
    layers: list[int]
    norms: list[float]
    digest: str
    is_attached: bool


class DeletedObject(TypedDict):
    id: str
    object: str
    deleted: Literal[True]


class FeatureStatisticsObject(TypedDict):
    count: Annotated[int, Field(description="Tokens that were probed.")]
    mean: float
    variance: float
    max: float
    active_share: float


class Neighbour(TypedDict):
    feature: int
    cosine: float
    label: str | None


class TokenScore(TypedDict):
    token: str
    score: Annotated[float, Field(description="Standard deviations of its logit from the vocabulary's mean.")]


class LensObject(TypedDict):
    """What the model's head reads in a feature's direction (the logit lens)."""

    top: list[TokenScore]
    bottom: list[TokenScore]


class HistoryEntry(TypedDict):
    at: Annotated[int, Field(description="When the minute began, in seconds since 1970.")]
    count: Annotated[int, Field(description="Tokens that were probed.")]
    mean: float
    max: float
    active_share: float


class FeatureObject(TypedDict):
    object: Literal["sae.feature"]
    sae: str
    feature: int
    label: str | None
    decoder_norm: float
    encoder_norm: float
    statistics: FeatureStatisticsObject | None
    history: Annotated[list[HistoryEntry], Field(description="The statistics of each of the last minutes.")]
    neighbours: Annotated[list[Neighbour], Field(description="By the cosine of decoder directions.")]
    lens: Annotated[LensObject | None, Field(description="Only with `lens=true`, because it takes seconds.")]


class FeatureSummary(TypedDict):
    feature: int
    label: str | None
    statistics: FeatureStatisticsObject | None
    writes: Annotated[
        NotRequired[float],
        Field(description="With `token`: standard deviations of its logit from the vocabulary's mean."),
    ]
    reads: Annotated[
        NotRequired[float], Field(description="With `token`: cosine of encoder direction and its embedding.")
    ]


class ProfileObject(TypedDict):
    object: Literal["steering.profile"]
    name: str
    description: str
    model: str | None
    steering: dict[str, Any]
    created_at: int
    changed_at: int


class DefaultObject(TypedDict):
    object: Literal["steering.default"]
    everyone: str | None
    me: Annotated[str | None, Field(description="Of the caller's own key; it goes before everyone's.")]


class ValidatedObject(TypedDict):
    object: Literal["steering.validation"]
    model: str
    valid: Literal[True]
    receipt: SteeringReceipt


class SteerableModel(TypedDict):
    model: str
    width: int
    num_layers: int
    attached_layers: Annotated[list[int], Field(description="Where requests may steer and probe now.")]
    saes: list[str]
    vectors: list[str]


class CapabilitiesObject(TypedDict):
    object: Literal["steering.capabilities"]
    models: list[SteerableModel]
    modes: list[str]
    units: list[str]
    exceptions: list[str]
    max_ops: int
    max_probes: int


def sae(info: SAEInfo, model: str) -> SAEObject:
    return {
        "id": info.id,
        "object": "sae",
        "model": model,
        "architecture": info.architecture,
        "width": info.width,
        "num_features": info.num_features,
        "layer": info.layer,
        "k": info.k,
        "normalization": info.normalization,
        "format": info.format,
        "trained_on": info.model_name,
        "digest": info.digest,
        "attached_layers": list(info.layers),
        "median_norm": info.median_norm,
    }


def vector(info: VectorInfo, model: str) -> VectorObject:
    return {
        "id": info.id,
        "object": "vector",
        "model": model,
        "width": info.width,
        "layers": list(info.layers),
        "norms": list(info.norms),
        "digest": info.digest,
        "is_attached": info.is_attached,
    }


def statistics(seen: FeatureStatistics | None) -> FeatureStatisticsObject | None:
    if seen is None:
        return None
    return {
        "count": seen.count,
        "mean": seen.mean,
        "variance": seen.variance,
        "max": seen.max,
        "active_share": seen.active_share,
    }


def history(entry: MinuteStatistics) -> HistoryEntry:
    return {
        "at": entry.at,
        "count": entry.count,
        "mean": entry.mean,
        "max": entry.max,
        "active_share": entry.active_share,
    }


def profile(stored: StoredProfile) -> ProfileObject:
    return {
        "object": "steering.profile",
        "name": stored.name,
        "description": stored.description,
        "model": stored.model,
        "steering": dict(stored.body),
        "created_at": stored.created_at,
        "changed_at": stored.changed_at,
    }


def export(stored: StoredProfile, digests: dict[str, str]) -> dict[str, Any]:
    """A profile as a document for another server; see ImportBody."""
    return {
        "format": "headrace.steering.profile",
        "version": 1,
        "profile": {
            "name": stored.name,
            "description": stored.description,
            "model": stored.model,
            "steering": dict(stored.body),
        },
        "requires": digests,
    }


def to_stored(body: ProfileCreation | ProfileChange, name: str) -> StoredProfile:
    """The profile as it is stored: only what the body sets."""
    steering = body.steering.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return StoredProfile(name, steering, body.model, body.description)


def needed(body: ProfileBody) -> Sequence[str]:
    """The ids of the SAEs and vectors that a profile uses."""
    names = [name for op in body.ops for name in (op.sae, op.vector) if name is not None]
    return list(dict.fromkeys(names))
