"""Normalizes a caller's input items: content becomes parts, ids stay where the caller set them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.errors import BadRequest, ItemNotFound, UnsupportedParameter
from headrace.offload import check_wanted
from headrace.types import Media
from headrace.wire import media
from headrace.wire.items import input_models as models
from headrace.wire.items.build import Item, item_of, text_part
from headrace.wire.items.encrypted_content import summary_in
from headrace.wire.messages import RefusalPart

MIXED = ("input_image", "input_file")


def to_items(input: str | Sequence[models.ItemBody] | None, param: str) -> list[Item]:
    """Normalize a body's member `input` or `items`. Ids and statuses are kept, and references stay references
    (see `resolved`). Raises BadRequest, naming `param` and the path into it.
    """
    if isinstance(input, str):
        return [item_of("message", role="user", content=[text_part("user", input)])]
    return [_item(item, f"{param}.{index}") for index, item in enumerate(input or ())]


def references(items: Sequence[Item]) -> list[str]:
    """The ids in references to stored items."""
    return [str(item["id"]) for item in items if item["type"] == "item_reference"]


def resolved(items: Sequence[Item], found: Mapping[str, Item], param: str) -> list[Item]:
    """Replace references by the stored items in `found`. Raises ItemNotFound."""
    whole: list[Item] = []
    for item in items:
        if item["type"] != "item_reference":
            whole.append(item)
        elif item["id"] in found:
            whole.append(found[item["id"]])
        else:
            raise ItemNotFound(f"Item with id '{item['id']}' not found.", param=param)
    return whole


def _item(item: models.ItemBody, path: str) -> Item:
    check_wanted()
    if isinstance(item, dict):
        return {name: value for name, value in item.items() if name != "id" or value is not None}
    if isinstance(item, models.ReferenceItem):
        return {"id": item.id, "type": "item_reference"}
    id = {} if item.id is None else {"id": item.id}
    if isinstance(item, models.CompactionItem):
        _check_compaction(item, path)
        return {**id, **item_of("compaction", None, encrypted_content=item.encrypted_content)}
    type = item.type or "message"
    return {**id, **item_of(type, item.status or "completed", **_members(item, path))}


def _check_compaction(item: models.CompactionItem, path: str) -> None:
    if summary_in(item.encrypted_content) is None:
        problem = "this was not made by this server's /v1/responses/compact"
        raise BadRequest.at(f"{path}.encrypted_content", problem)


def _members(
    item: models.MessageItem
    | models.FunctionCallItem
    | models.CustomCallItem
    | models.CallOutputItem
    | models.ReasoningItem,
    path: str,
) -> dict[str, Any]:
    """The members that depend on an item's type."""
    if isinstance(item, models.MessageItem):
        content = _content(item, path)
        return {"role": item.role, "content": content, "phase": item.phase, "name": item.name}
    if isinstance(item, models.ReasoningItem):
        return _reasoning(item)
    if isinstance(item, models.CallOutputItem):
        return {"call_id": item.call_id, "output": _output(item, path), "name": item.name}
    return item.model_dump(exclude={"id", "type", "status", *(item.model_extra or ())})


def _reasoning(item: models.ReasoningItem) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": part.text} for part in item.content or ()]
    return {
        "summary": [{"type": "summary_text", "text": part.text} for part in item.summary or ()],
        "content": None if item.content is None else content,
        "encrypted_content": item.encrypted_content,
    }


def _content(item: models.MessageItem, path: str) -> list[dict[str, Any]]:
    if isinstance(item.content, str):
        return [text_part(item.role, item.content)]
    return [_part(part, item.role, f"{path}.content.{index}") for index, part in enumerate(item.content)]


def _output(item: models.CallOutputItem, path: str) -> str | list[dict[str, Any]]:
    if isinstance(item.output, str):
        return item.output
    return [_part(part, "tool", f"{path}.output.{index}") for index, part in enumerate(item.output)]


def _part(part: models.Part, role: str, path: str) -> dict[str, Any]:
    if isinstance(part, models.InputText):
        written = text_part(role, part.text)
        if role == "assistant":
            written["annotations"], written["logprobs"] = part.annotations or [], part.logprobs or []
        return written
    if isinstance(part, RefusalPart) == (role != "assistant"):
        raise BadRequest.at(path, f"a message of role {role!r} cannot hold a {part.type}")
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.refusal}
    written = part.model_dump(exclude=set(part.model_extra or ()), exclude_none=True)
    if isinstance(part, models.InputImage):
        written.setdefault("detail", "auto")
    medium(written, path)
    return written


def medium(part: Mapping[str, Any], param: str) -> Media:
    """Read a part with an image or a file. Raises BadRequest."""
    if part.get("file_id") is not None:
        raise UnsupportedParameter.at(f"{param}.file_id", "no files are kept here")
    if part["type"] == "input_image":
        detail = part.get("detail")
        found = media.at_url(part.get("image_url"), f"{param}.image_url")
        return found if detail in (None, "auto") else replace(found, detail=detail)
    if part.get("file_url") is not None:
        return media.file_at_url(part["file_url"], part.get("filename"), f"{param}.file_url")
    return media.file(part.get("file_data"), part.get("filename"), f"{param}.file_data")
