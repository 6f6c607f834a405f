"""The JSON of /v1/models: OpenAI's four members and, as extensions, the context length, recommended sampling,
and where a request would go.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from headrace.types import ModelInfo


class ModelObject(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    permission: list[Any]
    max_model_len: int | None = Field(description="Tokens of prompt and answer; null: unknown.")
    sampling_defaults: dict[str, float | int]


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelObject]


class CandidateObject(BaseModel):
    provider: str
    model: str
    weight: float | None = Field(description="Adjacent targets with weights are tried in random order.")
    is_served: bool = Field(description="False: requests skip this target now.")
    breaker: Literal["closed", "open", "half-open"] | None = Field(description="Null outside routes.")
    retry_after_s: float = Field(description="Seconds until an open breaker permits a request.")


class RouteObject(BaseModel):
    object: Literal["route"]
    model: str
    route: str | None = Field(description="The route; null: the name is a model's.")
    candidates: list[CandidateObject] = Field(description="The targets in order.")
    fallback_on: list[str]
    retries: int
    hedge_after_ms: int


def model(info: ModelInfo) -> dict[str, Any]:
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
    }


def model_list(infos: list[ModelInfo]) -> dict[str, Any]:
    return {"object": "list", "data": [model(info) for info in infos]}


def route(explanation: dict[str, Any]) -> dict[str, Any]:
    return {"object": "route", **explanation}
