"""The JSON of /v1/models: OpenAI's four members and, as extensions, the context length, recommended sampling,
what computes it, and where a request would go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.types import Modality, ModelInfo, ModelKind
from headrace.wire.pool import ModelStatus


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
