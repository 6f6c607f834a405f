"""The JSON of /v1/models: OpenAI's four members and, as extensions, the context length, recommended sampling,
what computes it, and where a request would go.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from headrace.types import Modality, ModelInfo, ModelKind
from headrace.wire.parameters import RequestBody

Holder = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[str, StringConstraints(max_length=500)]
MAX_LEASE_S = 7200
LAST_SECOND = 253_402_300_799  # that RFC 3339 can write


class ModelBody(RequestBody):
    """A body that names a model."""

    model: str = Field(max_length=300)


class PullModelBody(ModelBody):
    """The body of POST /v1/models/pull: an alias, or a reference that `models.pull_allow` allows."""

    wait: bool | None = Field(False, description="Answer when the model is here, not at once.")


class LoadBody(ModelBody):
    """The body of POST /v1/models/load. The answer comes when the model is loaded."""

    keep_alive_s: float | None = Field(
        None,
        ge=0,
        description="Seconds without a request after which it is unloaded; default: as configured.",
    )


class UnloadBody(ModelBody):
    """The body of POST /v1/models/unload. The answer comes when running requests have ended."""

    holder: Holder | None = Field(None, description="Of a lock or lease that does not count.")


class LockBody(ModelBody):
    holder: Holder
    reason: Reason | None = None


class LeaseBody(LockBody):
    ttl: float = Field(gt=0, le=MAX_LEASE_S, description="Seconds.")


class ReleaseBody(ModelBody):
    holder: Holder


class ProgressObject(TypedDict):
    label: str
    done: int
    total: Annotated[int, Field(description="0: unknown.")]


class HoldObject(TypedDict):
    holder: str
    reason: str
    expires_in_s: Annotated[float | None, Field(description="Null: a lock, which has no end.")]


class ModelStatus(TypedDict):
    """The state of one model."""

    id: str
    object: Literal["model.status"]
    reference: str
    state: Literal["absent", "downloading", "ready", "loading", "loaded", "draining", "failed"]
    memory_bytes: Annotated[int | None, Field(description="What it needs, by an estimate; null: unknown.")]
    running: Annotated[int, Field(description="Requests that it answers.")]
    waiting: Annotated[int, Field(description="Requests that wait for it to be loaded.")]
    pinned: bool
    hold: HoldObject | None
    expires_in_s: Annotated[float | None, Field(description="Until it is unloaded; null: not by itself.")]
    load_s: Annotated[float | None, Field(description="How long the last load took.")]
    progress: ProgressObject | None
    error: str | None
    retry_after_s: float | None


class DeletedModel(TypedDict):
    id: str
    object: Literal["model"]
    deleted: Literal[True]


class ModelObject(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    permission: list[Any]
    max_model_len: Annotated[int | None, Field(description="Tokens of prompt and answer; null: unknown.")]
    sampling_defaults: Mapping[str, float | int]
    kind: Annotated[ModelKind, Field(description="What it does; models of providers count as generative.")]
    runner: Annotated[str | None, Field(description="What computes it in this server; null: elsewhere.")]
    input_modalities: Annotated[
        list[Modality] | None, Field(description="What it reads; null: its provider knows.")
    ]
    status: NotRequired[Annotated[ModelStatus, Field(description="With `?detail=true`.")]]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelObject]


class CandidateObject(TypedDict):
    provider: str
    model: str
    weight: Annotated[
        float | None, Field(description="Adjacent targets with weights are tried in random order.")
    ]
    is_served: Annotated[bool, Field(description="False: requests skip this target now.")]
    breaker: Annotated[
        Literal["closed", "open", "half-open"] | None, Field(description="Null outside routes.")
    ]
    retry_after_s: Annotated[float, Field(description="Seconds until an open breaker permits a request.")]


class RouteObject(TypedDict):
    object: Literal["route"]
    model: str
    route: Annotated[str | None, Field(description="The route; null: the name is a model's.")]
    candidates: Annotated[list[CandidateObject], Field(description="The targets in order.")]
    fallback_on: list[str]
    retries: int
    hedge_after_ms: int


def model(info: ModelInfo) -> ModelObject:
    return {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by,
        "root": info.id,
        "parent": None,
        "permission": [],
        "max_model_len": info.max_model_len,
        "sampling_defaults": info.sampling,
        "kind": info.kind,
        "runner": info.runner,
        "input_modalities": None if info.modalities is None else list(info.modalities),
    }


def model_list(infos: list[ModelInfo]) -> ModelList:
    return {"object": "list", "data": [model(info) for info in infos]}


def detailed(infos: list[ModelInfo], statuses: list[ModelStatus]) -> ModelList:
    """The models with the states of those that run here, then those that are not on this machine yet."""
    by_id = {status["id"]: status for status in statuses}
    listed = [_with(model(info), by_id.pop(info.id, None)) for info in infos]
    absent = [_with(model(ModelInfo(id, "headrace", 0, None, None)), status) for id, status in by_id.items()]
    return {"object": "list", "data": [*listed, *absent]}


def _with(entry: ModelObject, status: ModelStatus | None) -> ModelObject:
    return entry if status is None else {**entry, "status": status}


def rfc3339(seconds: float) -> str:
    """A time, in seconds since 1970; one beyond what RFC 3339 can write is the last that it can."""
    moment = datetime.fromtimestamp(min(max(0, seconds), LAST_SECOND), UTC)
    return moment.isoformat().replace("+00:00", "Z")
