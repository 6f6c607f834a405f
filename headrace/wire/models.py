"""/v1/models as JSON: OpenAI's four members and, as extensions, the context length and recommended
sampling.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from headrace.types import ModelInfo


class ModelObject(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    permission: list[Any]
    max_model_len: int
    sampling_defaults: dict[str, float | int]


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelObject]


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
