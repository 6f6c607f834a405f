"""Items that callers send: their models, and the form in which they are stored: content becomes parts, ids
stay where the caller set them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from headrace.errors import BadRequest, ItemNotFound, UnsupportedParameter
from headrace.offload import check_wanted
from headrace.types import Media
from headrace.wire import media
from headrace.wire.generation import JsonObject
from headrace.wire.items.build import HOSTED, Item, Status, item_of, summary_in, text_part
from headrace.wire.limits import MAX_MESSAGES, MAX_PARTS, at_most
from headrace.wire.messages import RefusalPart
from headrace.wire.parameters import ByType, RequestBody

ID = r"^[!-~]{1,256}$"  # printable ASCII, which fits into databases and URLs
ItemId = Annotated[str, StringConstraints(pattern=ID)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]

MIXED = ("input_image", "input_file")


class InputText(RequestBody):
    """Text. `output_text` is a model's; `text` is the name of the same part in chat completions."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[list[JsonObject], at_most(MAX_PARTS)] | None = None
    logprobs: Annotated[list[JsonObject], at_most(MAX_MESSAGES)] | None = None


class InputImage(RequestBody):
    type: Literal["input_image"]
    image_url: str | None = Field(None, description="A data URL, or where a provider can fetch it.")
    detail: Literal["low", "high", "auto", "original"] | None = None
    file_id: str | None = Field(None, description="Refused: no files are kept.")


class InputFile(RequestBody):
    type: Literal["input_file"]
    file_data: str | None = Field(None, description="A data URL.")
    file_url: str | None = Field(None, description="Where a provider can fetch it.")
    filename: str | None = None
    file_id: str | None = Field(None, description="Refused: no files are kept.")


Part = Annotated[
    InputText | RefusalPart | InputImage | InputFile,
    ByType(
        "part_type",
        "only parts of type input_text, input_image, input_file, output_text, refusal are supported",
    ),
]
Parts = Annotated[list[Part], at_most(MAX_PARTS)]


class ItemWithStatus(RequestBody):
    id: ItemId | None = None
    status: Status | None = None


class MessageItem(ItemWithStatus):
    """A message. Without `type` it is one too."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts
    phase: Literal["commentary", "final_answer"] | None = None
    name: str | None = Field(None, description="Extension. As in chat.")


class FunctionCallItem(ItemWithStatus):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str = Field(description="JSON text.")
    namespace: str | None = None


class CustomCallItem(ItemWithStatus):
    """A call of a tool that takes text."""

    type: Literal["custom_tool_call"]
    call_id: Name
    name: Name
    input: str
    namespace: str | None = None


class CallOutputItem(ItemWithStatus):
    """The output of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: Name
    output: str | Parts
    name: str | None = None


class SummaryText(RequestBody):
    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningText(RequestBody):
    type: Literal["reasoning_text", "text"] = "reasoning_text"
    text: str


class ReasoningItem(ItemWithStatus):
    """Reasoning of a model."""

    type: Literal["reasoning"]
    summary: Annotated[list[SummaryText], at_most(MAX_PARTS)] | None = None
    content: Annotated[list[ReasoningText], at_most(MAX_PARTS)] | None = None
    encrypted_content: str | None = Field(
        None,
        description="What a response of this server had there: the thoughts as their provider signed them.",
    )


class CompactionItem(RequestBody):
    """The result of POST /v1/responses/compact."""

    type: Literal["compaction"]
    id: ItemId | None = None
    encrypted_content: str


class ReferenceItem(RequestBody):
    """An item that is stored here, by its id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


def _keepable(item: dict[str, Any]) -> dict[str, Any]:
    id = item.get("id")
    if id is not None and not (isinstance(id, str) and re.fullmatch(ID, id)):
        raise PydanticCustomError("item_id", "its id is no string of 1 to 256 ASCII characters")
    try:
        json.dumps(item, allow_nan=False)
    except ValueError as exc:
        raise PydanticCustomError("item_json", "a number in it is none that JSON has") from exc
    return item


# an item of a hosted tool: stored unchanged, never read
HostedItem = Annotated[dict[str, Any], AfterValidator(_keepable)]


def _untyped(item: dict[str, Any]) -> str:
    return "ReferenceItem" if "id" in item and "role" not in item else "MessageItem"


ItemBody = Annotated[
    MessageItem
    | FunctionCallItem
    | CustomCallItem
    | CallOutputItem
    | ReasoningItem
    | CompactionItem
    | ReferenceItem
    | HostedItem,
    ByType("item_type", "there is no item of this type", others=HOSTED, untyped=_untyped),
]


def to_items(input: str | Sequence[ItemBody] | None, param: str) -> list[Item]:
    """Normalize a body's member `input` or `items`. Ids and statuses are kept, and references stay references
    (see `resolved`). Raises BadRequest, naming `param` and the path into it.
    """
    if isinstance(input, str):
        return [item_of("message", role="user", content=[text_part("user", input)])]
    return [_item(item, f"{param}.{index}") for index, item in enumerate(input or ())]


def references(items: Sequence[Item]) -> list[str]:
    """The ids in references to stored items."""
    return [str(item["id"]) for item in items if item["type"] == "item_reference"]


def resolved(items: Sequence[Item], stored: Mapping[str, Item], param: str) -> list[Item]:
    """Replace references by the stored items in `found`. Raises ItemNotFound."""
    whole: list[Item] = []
    for item in items:
        if item["type"] != "item_reference":
            whole.append(item)
        elif item["id"] in stored:
            whole.append(stored[item["id"]])
        else:
            raise ItemNotFound(f"Item with id '{item['id']}' not found.", param=param)
    return whole


def _item(item: ItemBody, path: str) -> Item:
    check_wanted()
    if isinstance(item, dict):
        return {name: value for name, value in item.items() if name != "id" or value is not None}
    if isinstance(item, ReferenceItem):
        return {"id": item.id, "type": "item_reference"}
    id = {} if item.id is None else {"id": item.id}
    if isinstance(item, CompactionItem):
        _check_compaction(item, path)
        return {**id, **item_of("compaction", None, encrypted_content=item.encrypted_content)}
    type = item.type or "message"
    return {**id, **item_of(type, item.status or "completed", **_members(item, path))}


def _check_compaction(item: CompactionItem, path: str) -> None:
    if summary_in(item.encrypted_content) is None:
        problem = "this was not made by this server's /v1/responses/compact"
        raise BadRequest.at(f"{path}.encrypted_content", problem)


def _members(
    item: MessageItem | FunctionCallItem | CustomCallItem | CallOutputItem | ReasoningItem,
    path: str,
) -> dict[str, Any]:
    """The members that depend on an item's type."""
    if isinstance(item, MessageItem):
        content = _content(item, path)
        return {"role": item.role, "content": content, "phase": item.phase, "name": item.name}
    if isinstance(item, ReasoningItem):
        return _reasoning_members(item)
    if isinstance(item, CallOutputItem):
        return {"call_id": item.call_id, "output": _output(item, path), "name": item.name}
    return item.model_dump(exclude={"id", "type", "status", *(item.model_extra or ())})


def _reasoning_members(item: ReasoningItem) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": part.text} for part in item.content or ()]
    return {
        "summary": [{"type": "summary_text", "text": part.text} for part in item.summary or ()],
        "content": None if item.content is None else content,
        "encrypted_content": item.encrypted_content,
    }


def _content(item: MessageItem, path: str) -> list[dict[str, Any]]:
    if isinstance(item.content, str):
        return [text_part(item.role, item.content)]
    return [_part(part, item.role, f"{path}.content.{index}") for index, part in enumerate(item.content)]


def _output(item: CallOutputItem, path: str) -> str | list[dict[str, Any]]:
    if isinstance(item.output, str):
        return item.output
    return [_part(part, "tool", f"{path}.output.{index}") for index, part in enumerate(item.output)]


def _part(part: Part, role: str, path: str) -> dict[str, Any]:
    if isinstance(part, InputText):
        written = text_part(role, part.text)
        if role == "assistant":
            written["annotations"], written["logprobs"] = part.annotations or [], part.logprobs or []
        return written
    if isinstance(part, RefusalPart) == (role != "assistant"):
        raise BadRequest.at(path, f"a message of role {role!r} cannot hold a {part.type}")
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.refusal}
    written = part.model_dump(exclude=set(part.model_extra or ()), exclude_none=True)
    if isinstance(part, InputImage):
        written.setdefault("detail", "auto")
    medium(written, path)
    return written


def medium(part: Mapping[str, Any], param: str) -> Media:
    """Read a part with an image or a file. Raises BadRequest."""
    if part.get("file_id") is not None:
        raise UnsupportedParameter.at(f"{param}.file_id", "no files are kept here")
    if part["type"] == "input_image":
        detail = part.get("detail")
        image = media.at_url(part.get("image_url"), f"{param}.image_url")
        return image if detail in (None, "auto") else replace(image, detail=detail)
    if part.get("file_url") is not None:
        return media.file_at_url(part["file_url"], part.get("filename"), f"{param}.file_url")
    return media.file(part.get("file_data"), part.get("filename"), f"{param}.file_data")
