"""The JSON of models that are pulled, loaded and unloaded while the server runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from headrace.wire.parameters import RequestBody

Holder = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[str, StringConstraints(max_length=500)]
MAX_LEASE_S = 7200


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
