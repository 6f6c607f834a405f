"""Builds items from a model's answer and from a chat's messages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypeAliasType, TypedDict

from headrace.collected import Choice, Reasoned, Spoken
from headrace.offload import check_wanted
from headrace.types import Thought, ToolCall
from headrace.wire.items.encrypted_content import seal_summary, seal_thoughts
from headrace.wire.items.ids import PREFIXES, Type, new_id
from headrace.wire.items.input_models import Status
from headrace.wire.messages import (
    ChatMessage,
    FilePart,
    FunctionOfCall,
    ImagePart,
    Part,
    RefusalPart,
    TextPart,
    reasoning,
    thought,
)

Item = TypeAliasType("Item", Mapping[str, Any])


class ReasoningPart(TypedDict):
    type: Literal["reasoning_text"]
    text: str


class ReasoningMembers(TypedDict):
    """The members of a reasoning item. `encrypted_content` holds signed thoughts, which the provider wants
    back unchanged.
    """

    summary: list[Any]
    content: list[ReasoningPart]
    encrypted_content: NotRequired[
        Annotated[
            str, Field(description="Thoughts as their provider signed them: to be sent back unchanged.")
        ]
    ]


def text_part(role: str, text: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def new_item(type: Type, status: Status | None = "completed", **members: Any) -> dict[str, Any]:
    """Build an item with a new id. `status`: None for types without one."""
    return {"id": new_id(PREFIXES[type]), **item_of(type, status, **members)}


def item_of(type: str, status: Status | None = "completed", **members: Any) -> dict[str, Any]:
    """Build an item without an id, for a caller's input: the store derives the id from the content, so that
    the same input gets the same id when it is sent again.
    """
    has_status = {} if status is None else {"status": status}
    return {
        "type": type,
        **has_status,
        **{name: value for name, value in members.items() if value is not None},
    }


def thinking(text: str, thoughts: Sequence[Thought]) -> ReasoningMembers:
    members: ReasoningMembers = {"summary": [], "content": []}
    if text:
        members["content"].append({"type": "reasoning_text", "text": text})
    if thoughts:
        members["encrypted_content"] = seal_thoughts(thoughts)
    return members


def compaction(summary: str) -> dict[str, Any]:
    """An item that replaces the conversation before it by a summary."""
    return new_item("compaction", None, encrypted_content=seal_summary(summary))


def of_choice(choice: Choice, status: Status = "completed") -> list[Item]:
    """The items of an answer, in the order in which they came. `status`: that of the last item."""
    items = [_of_piece(piece) for piece in choice.in_order]
    if not choice.text and not choice.calls:
        items.append(_of_piece(Spoken("")))
    items[-1]["status"] = status
    return list(items)


def _of_piece(piece: Spoken | Reasoned | ToolCall) -> dict[str, Any]:
    if isinstance(piece, Reasoned):
        return new_item("reasoning", **thinking(piece.text, piece.thoughts))
    if isinstance(piece, Spoken):
        return new_item("message", role="assistant", content=[text_part("assistant", piece.text)])
    return new_item("function_call", call_id=piece.id, name=piece.name, arguments=piece.arguments)


def of_chat(messages: Sequence[ChatMessage]) -> list[list[Item]]:
    """The items of each of a chat's messages."""
    items: list[list[Item]] = []
    called = ""  # the id derived for the last function_call, which has none of its own
    for index, body in enumerate(messages):
        check_wanted()
        if body.function_call is not None:
            called = _id_of_call(index, body.function_call)
        if body.role in ("tool", "function"):
            call_id = called if body.role == "function" else body.tool_call_id or ""
            output = item_of("function_call_output", call_id=call_id, output=_output(body), name=body.name)
            items.append([output])
        else:
            items.append(list(_said(body, called)))
    return items


def _said(body: ChatMessage, called: str) -> Iterator[Item]:
    thoughts = [thought(block) for block in body.thinking_blocks or ()]
    text = reasoning(body) or ""
    if text or thoughts:
        yield item_of("reasoning", **thinking(text, thoughts))
    calls = [(call.id, call.function) for call in body.tool_calls or ()]
    if body.function_call is not None:
        calls.append((called, body.function_call))
    if body.content or not calls:
        yield item_of("message", role=body.role, content=_content(body), name=body.name)
    for call_id, call in calls:
        yield item_of("function_call", call_id=call_id, name=call.name, arguments=call.arguments)


def _id_of_call(index: int, call: FunctionOfCall) -> str:
    """An id derived from a call and its place, so that the same history gets the same ids again."""
    said = f"{index}\0{call.name}\0{call.arguments}"
    return f"call_{hashlib.sha256(said.encode()).hexdigest()[:24]}"


def _content(body: ChatMessage) -> list[dict[str, Any]]:
    if body.content is None or isinstance(body.content, str):
        return [text_part(body.role, body.content or "")]
    return [_part(body.role, part) for part in body.content]


def _output(body: ChatMessage) -> str | list[dict[str, Any]]:
    if body.content is None or isinstance(body.content, str):
        return body.content or ""
    return [_part("tool", part) for part in body.content]


def _part(role: str, part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return text_part(role, part.text)
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.refusal}
    if isinstance(part, ImagePart):
        detail = part.image_url.detail or "auto"
        return {"type": "input_image", "image_url": part.image_url.url, "detail": detail}
    assert isinstance(part, FilePart)
    name = {} if part.file.filename is None else {"filename": part.file.filename}
    return {"type": "input_file", "file_data": part.file.file_data, **name}
