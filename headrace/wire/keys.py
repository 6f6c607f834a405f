"""The JSON of /v1/admin/keys."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from headrace.callers import Limits
from headrace.store import Page, StoredKey
from headrace.wire.limits import at_most
from headrace.wire.pagination import ListObject, list_object
from headrace.wire.parameters import RequestBody

MAX_NAME, MAX_MODELS, MAX_TIME = 100, 100, 2**40

Count = Annotated[int, Field(ge=1, le=2**53)]
# without control characters: databases refuse some, and terminals obey others
Line = Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Name = Annotated[Line, Field(min_length=1)]


class AdminBody(RequestBody):
    """A body of the admin API. A member that is unknown is an error: a misspelt limit would be none."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LimitsBody(AdminBody):
    """The limits of a key. What is left out or null has no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Annotated[
        Count | None, Field(description="Of prompts and answers together, in any 60 seconds.")
    ] = None
    concurrent_requests: Count | None = None
    total_tokens: Annotated[Count | None, Field(description="For the key's whole life.")] = None
    total_cost: Annotated[
        Annotated[float, Field(gt=0, le=1e9)] | None,
        Field(description="For the key's whole life, in the currency of the configured prices."),
    ] = None


class KeyBody(AdminBody):
    """The settings of a key. In a change, members that are left out stay as they are."""

    name: Name | None = None
    owner: Annotated[Line | None, Field(description="Whose it is: free text.")] = None
    models: Annotated[
        Annotated[list[Name], at_most(MAX_MODELS)] | None,
        Field(description="The models that it may use; `NAME*`: all that begin so. Default: all."),
    ] = None
    expires_at: Annotated[
        Annotated[int, Field(ge=0, le=MAX_TIME)] | None, Field(description="Seconds since 1970.")
    ] = None
    limits: LimitsBody | None = None
    may_hurry: Annotated[
        bool | None, Field(description="Whether `priority` may put its requests before those of others.")
    ] = None


class LimitsObject(TypedDict):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    total_tokens: int | None
    total_cost: float | None


class KeyObject(TypedDict):
    id: str
    object: Literal["admin.key"]
    name: str
    owner: str
    redacted_value: Annotated[str, Field(description="The key's beginning and end.")]
    created_at: Annotated[int, Field(description="Seconds since 1970; so are the next two.")]
    expires_at: int | None
    revoked_at: int | None
    models: list[str]
    limits: LimitsObject
    may_hurry: bool


class NewKeyObject(KeyObject):
    value: Annotated[str, Field(description="The key. It is not shown again.")]


def changed(key: StoredKey, body: KeyBody) -> StoredKey:
    """The key with the settings of a body; null resets one to its default."""
    named = body.model_fields_set
    values: dict[str, object] = {}
    if "name" in named and body.name is not None:
        values["name"] = body.name
    if "owner" in named:
        values["owner"] = body.owner or ""
    if "models" in named:
        values["models"] = tuple(body.models or ())
    if "expires_at" in named:
        values["expires_at"] = body.expires_at
    if "limits" in named:
        values["limits"] = Limits(**body.limits.model_dump()) if body.limits is not None else Limits()
    if "may_hurry" in named:
        values["may_hurry"] = bool(body.may_hurry)
    return replace(key, **values)  # type: ignore[arg-type]  # the body has checked them


def key(stored: StoredKey) -> KeyObject:
    limits: LimitsObject = asdict(stored.limits)  # type: ignore[assignment]  # the same names
    return {
        "id": stored.id,
        "object": "admin.key",
        "name": stored.name,
        "owner": stored.owner,
        "redacted_value": stored.hint,
        "created_at": stored.created_at,
        "expires_at": stored.expires_at,
        "revoked_at": stored.revoked_at,
        "models": list(stored.models),
        "limits": limits,
        "may_hurry": stored.may_hurry,
    }


def new_key(stored: StoredKey, secret: str) -> NewKeyObject:
    return {**key(stored), "value": secret}


def keys(page: Page[StoredKey]) -> ListObject[KeyObject]:
    return list_object([key(stored) for stored in page.data], has_more=page.has_more)
