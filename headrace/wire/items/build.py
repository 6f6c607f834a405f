"""Items: their types and ids, and building them from a model's answer and from a chat's messages.

The member `encrypted_content` is opaque text that clients store and send back. Headrace only encodes it: the
content is not secret to its caller, and not authenticated.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from pydantic_core import from_json
from typing_extensions import TypeAliasType, TypedDict

from headrace.base64_text import decoded_pieces
from headrace.collected import Choice, Reasoned, Spoken
from headrace.offload import check_wanted
from headrace.types import Thought, ToolCall
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
Status = Literal["in_progress", "completed", "incomplete"]
Kind = Literal["resp", "msg", "fc", "fco", "ctc", "ctco", "rs", "cmp"]
Type = Literal[
    "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
    "reasoning", "compaction",
]  # fmt: skip

# type of item → prefix of its ids
PREFIXES: dict[Type, Kind] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
}
# types of items that hosted tools produce: stored and echoed, but not shown to a model
HOSTED = (
    "additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call",
    "compaction_trigger", "computer_call", "computer_call_output", "configuration_update", "file_search_call",
    "image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request",
    "mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output", "shell_call",
    "shell_call_output", "tool_search_call", "tool_search_output", "web_search_call",
)  # fmt: skip

VERSION = 1
# The first 15 bytes of what `_seal` encodes: what begins otherwise is not decoded, however long it is.
BEGINNING = base64.b64encode(f'{{"headrace": {VERSION},'.encode()).decode()


def new_id(kind: Kind) -> str:
    return f"{kind}_{secrets.token_hex(24)}"


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
    text = f"{index}\0{call.name}\0{call.arguments}"
    return f"call_{hashlib.sha256(text.encode()).hexdigest()[:24]}"


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


def seal_thoughts(thoughts: Sequence[Thought]) -> str:
    return _seal({"thoughts": [[thought.text, thought.signature, thought.redacted] for thought in thoughts]})


def seal_summary(summary: str) -> str:
    return _seal({"summary": summary})


def thoughts_in(sealed: str | None) -> tuple[Thought, ...]:
    """Decode thoughts; empty for text that another server wrote."""
    try:
        return tuple(
            Thought(str(text), _string(signature), _string(redacted))
            for text, signature, redacted in _opened(sealed).get("thoughts", ())
        )
    except (TypeError, ValueError):
        return ()


def summary_in(sealed: str) -> str | None:
    """Decode a summary; None for text that another server wrote."""
    return _string(_opened(sealed).get("summary"))


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seal(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps({"headrace": VERSION, **value}).encode()).decode()


def _opened(sealed: str | None) -> dict[str, Any]:
    if not sealed or not sealed.startswith(BEGINNING):
        return {}
    try:
        value = from_json(b"".join(decoded_pieces(sealed)))
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.get("headrace") == VERSION else {}
