"""The JSON of /v1/usage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.store import UsageRow
from headrace.wire.limits import shown, whole
from headrace.wire.pagination import Query

DAY_S = 86_400
USUAL_DAYS, MAX_DAYS = 30, 400
BILLION = 10**9
KNOWN = ("start_time", "end_time", "api_key_id")


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
    has_more: Literal[False]
    next_page: None


def span(query: Query) -> Span:
    """The days that a query selects. Raises BadRequest."""
    members = dict(query)
    until = _day(members, "end_time", int(time.time()), is_end=True)
    since = _day(members, "start_time", max(0, (until - USUAL_DAYS) * DAY_S))
    if until - since > MAX_DAYS:
        raise BadRequest(f"these are more than {MAX_DAYS} days", param="start_time")
    return Span(since, until, members.get("api_key_id"))


def page(rows: Sequence[UsageRow], names: Mapping[str, str]) -> UsagePage:
    """`names`: those of the configuration's keys, by id."""
    buckets = [
        _bucket(day, [_result(row, names) for row in group])
        for day, group in groupby(rows, key=lambda row: row.day)
    ]
    return {"object": "page", "data": buckets, "has_more": False, "next_page": None}


def _day(members: dict[str, str], name: str, default: int, *, is_end: bool = False) -> int:
    """The day of a time in seconds; as an end, the day after it."""
    text = members.get(name)
    seconds = default if text is None else whole(text, 11)
    if seconds is None:
        raise BadRequest(f"Invalid '{name}': {shown(text)}. Expected seconds since 1970.", param=name)
    return -(-seconds // DAY_S) if is_end else seconds // DAY_S


def _bucket(day: int, results: list[UsageResult]) -> UsageBucket:
    return {"object": "bucket", "start_time": day * DAY_S, "end_time": (day + 1) * DAY_S, "results": results}


def _result(row: UsageRow, names: Mapping[str, str]) -> UsageResult:
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
