"""The JSON of /v1/admin/keys, and of /v1/usage: what keys have used."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from headrace.callers import Limits
from headrace.errors import BadRequest
from headrace.store import Page, StoredKey, UsageRow
from headrace.wire.limits import at_most, shown, whole
from headrace.wire.pagination import Query
from headrace.wire.parameters import RequestBody

MAX_NAME, MAX_MODELS, MAX_TIME = 100, 100, 2**40
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LEAST_COST = 1e-9  # costs are counted in billionths

Count = Annotated[int, Field(ge=1, le=2**53)]


def _line(text: str) -> str:
    """The text, without control characters: databases refuse some, and terminals obey others."""
    if CONTROL.search(text):
        raise PydanticCustomError("control_character", "it has a control character")
    return text


def _name(text: str) -> str:
    if not any(sign.isprintable() and sign != " " for sign in text):
        raise PydanticCustomError("invisible", "it has no character that can be seen")
    return text


def _model(text: str) -> str:
    if "*" in text[:-1]:
        raise PydanticCustomError("inner_star", "* stands only at the end, for all names that begin so")
    return text


Line = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_line)]
Name = Annotated[Line, Field(min_length=1), AfterValidator(_name)]
Model = Annotated[Name, AfterValidator(_model)]

DAY_S = 86_400
USUAL_DAYS, MAX_DAYS = 30, 400
BILLION = 10**9
USAGE_PARAMETERS = ("start_time", "end_time", "api_key_id", "page")


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
        Annotated[float, Field(ge=LEAST_COST, le=1e9)] | None,
        Field(description="For the key's whole life, in the currency of the configured prices."),
    ] = None


class KeyBody(AdminBody):
    """The settings of a key. In a change, members that are left out stay as they are."""

    name: Name | None = None
    owner: Annotated[Line | None, Field(description="Whose it is: free text.")] = None
    models: Annotated[
        Annotated[list[Model], at_most(MAX_MODELS)] | None,
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


@dataclass(frozen=True, slots=True)
class Span:
    """Days since 1970-01-01, UTC: from `since` to before `until`; of one key, or of all."""

    since: int
    until: int
    key: str | None


class UsageResult(TypedDict):
    object: Literal["usage.result"]
    api_key_id: str
    api_key_name: Annotated[
        str | None, Field(description="Null if there is no key, or it is no longer configured.")
    ]
    provider: str
    model: str
    num_model_requests: int
    input_tokens: int
    output_tokens: int
    input_cached_tokens: Annotated[int, Field(description="Of the input tokens.")]
    cost: Annotated[float, Field(description="In the currency of the configured prices.")]


class UsageBucket(TypedDict):
    """One day, UTC."""

    object: Literal["bucket"]
    start_time: Annotated[int, Field(description="Seconds since 1970.")]
    end_time: int
    results: list[UsageResult]


class UsagePage(TypedDict):
    object: Literal["page"]
    data: Annotated[list[UsageBucket], Field(description="Newest first; days without usage are left out.")]
    has_more: bool
    next_page: Annotated[str | None, Field(description="Sent as `page`, it selects the days before these.")]


def usage_span(query: Query) -> Span:
    """The days that a query selects. Raises BadRequest."""
    members = dict(query)
    until = _day(members, "end_time", int(time.time()), is_end=True)
    since = _day(members, "start_time", max(0, (until - USUAL_DAYS) * DAY_S))
    if until - since > MAX_DAYS:
        raise BadRequest(f"these are more than {MAX_DAYS} days", param="start_time")
    if since > until:
        raise BadRequest("it is after the end", param="start_time")
    until = min(until, _day(members, "page", until * DAY_S))
    return Span(since, until, members.get("api_key_id"))


def usage_page(page: Page[UsageRow], names: Mapping[str, str]) -> UsagePage:
    """`names`: those of the configuration's keys, by id."""
    buckets = [
        _usage_bucket(day, [_usage_result(row, names) for row in group])
        for day, group in groupby(page.data, key=lambda row: row.day)
    ]
    next_page = str(buckets[-1]["start_time"]) if page.has_more else None
    return {"object": "page", "data": buckets, "has_more": page.has_more, "next_page": next_page}


def _day(members: dict[str, str], name: str, default: int, *, is_end: bool = False) -> int:
    """The day of a time in seconds; as an end, the day after it."""
    text = members.get(name)
    seconds = default if text is None else whole(text, 11)
    if seconds is None:
        raise BadRequest(f"Invalid '{name}': {shown(text)}. Expected seconds since 1970.", param=name)
    return -(-seconds // DAY_S) if is_end else seconds // DAY_S


def _usage_bucket(day: int, results: list[UsageResult]) -> UsageBucket:
    return {"object": "bucket", "start_time": day * DAY_S, "end_time": (day + 1) * DAY_S, "results": results}


def _usage_result(row: UsageRow, names: Mapping[str, str]) -> UsageResult:
    return {
        "object": "usage.result",
        "api_key_id": row.key,
        "api_key_name": row.name or names.get(row.key),
        "provider": row.provider,
        "model": row.model,
        "num_model_requests": row.requests,
        "input_tokens": row.prompt_tokens,
        "output_tokens": row.completion_tokens,
        "input_cached_tokens": row.cached_tokens,
        "cost": row.cost / BILLION,
    }
