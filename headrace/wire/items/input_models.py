"""The models of items that callers send."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from headrace.wire.generation import JsonObject
from headrace.wire.items.ids import HOSTED
from headrace.wire.limits import MAX_MESSAGES, MAX_PARTS, at_most
from headrace.wire.messages import RefusalPart
from headrace.wire.parameters import ByType, RequestBody

Status = Literal["in_progress", "completed", "incomplete"]
ID = r"^[!-~]{1,256}$"  # printable ASCII, which fits into databases and URLs
ItemId = Annotated[str, StringConstraints(pattern=ID)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


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


class MessageItem(RequestBody):
    """A message. Without `type` it is one too."""

    type: Literal["message"] | None = None
    id: ItemId | None = None
    status: Status | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts
    phase: Literal["commentary", "final_answer"] | None = None
    name: str | None = Field(None, description="Extension. As in chat.")


class FunctionCallItem(RequestBody):
    """A call that the model made."""

    type: Literal["function_call"]
    id: ItemId | None = None
    status: Status | None = None
    call_id: Name
    name: Name
    arguments: str = Field(description="JSON text.")
    namespace: str | None = None


class CustomCallItem(RequestBody):
    """A call of a tool that takes text."""

    type: Literal["custom_tool_call"]
    id: ItemId | None = None
    status: Status | None = None
    call_id: Name
    name: Name
    input: str
    namespace: str | None = None


class CallOutputItem(RequestBody):
    """The output of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    id: ItemId | None = None
    status: Status | None = None
    call_id: Name
    output: str | Parts
    name: str | None = None


class SummaryText(RequestBody):
    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningText(RequestBody):
    type: Literal["reasoning_text", "text"] = "reasoning_text"
    text: str


class ReasoningItem(RequestBody):
    """Reasoning of a model."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    status: Status | None = None
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
