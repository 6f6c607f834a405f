"""The list of models in Anthropic's format: pages of 20 by default, before or after an id."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from headrace.errors import BadRequest
from headrace.types import ModelInfo
from headrace.wire.limits import whole

USUAL, MOST = 20, 1000  # entries of a page
LATEST = 253_402_300_799  # the last second that RFC 3339 can write


def model(info: ModelInfo) -> dict[str, Any]:
    created = datetime.fromtimestamp(min(max(0, info.created), LATEST), UTC)
    return {
        "type": "model",
        "id": info.id,
        "display_name": info.id,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "line": None,
        "max_input_tokens": info.max_model_len,
        "max_tokens": info.max_model_len,
        "capabilities": None,
        "deprecated_at": None,
        "retires_at": None,
    }


def page(infos: list[ModelInfo], query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A page of the list. `query`: names and values; unknown names are ignored. Raises BadRequest."""
    requested = list(query)
    values = dict(requested)
    limit = _limit(values.get("limit"))
    stages = {
        stage for name, value in requested if name.rstrip("[]") == "lifecycle" for stage in value.split(",")
    }
    listed = infos if not stages or "active" in stages else []
    if "before_id" in values:
        end = _place(listed, values["before_id"], "before_id")
        start = max(0, end - limit)
        has_more = start > 0
    else:
        start = 0 if "after_id" not in values else _place(listed, values["after_id"], "after_id") + 1
        end = min(len(listed), start + limit)
        has_more = end < len(listed)
    data = [model(info) for info in listed[start:end]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "first_id": first, "last_id": last, "has_more": has_more}


def _limit(text: str | None) -> int:
    if text is None:
        return USUAL
    limit = whole(text, 4)
    if limit is not None and 1 <= limit <= MOST:
        return limit
    raise BadRequest.at("limit", f"a number from 1 to {MOST}")


def _place(infos: list[ModelInfo], id: str, param: str) -> int:
    found = next((index for index, info in enumerate(infos) if info.id == id), None)
    if found is None:
        raise BadRequest.at(param, f"there is no model {id[:200]!r} in the list")
    return found
