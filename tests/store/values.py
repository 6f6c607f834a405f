"""Items and records for tests."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.store import StoredItem, StoredResponse

OWNER, OTHER = "owner", "other"


def message(text: str, role: str = "user", **members: object) -> dict[str, object]:
    return {"type": "message", "role": role, "content": text, **members}


def texts(items: Sequence[StoredItem]) -> list[object]:
    return [item.body["content"] for item in items]


def response(id: str = "resp_1", status: str = "completed", **members: object) -> StoredResponse:
    return StoredResponse(id, 1_700_000_000, status, {"id": id, "status": status, **members})
