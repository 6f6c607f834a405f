"""An answer in Anthropic's dialect in its other form: a stream's events as one message, and a message as a
stream. Members and blocks that Headrace does not know are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic_core import from_json

from headrace.backends.anthropic.answer import Answer
from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.forms import is_heartbeat
from headrace.backends.http import Sent
from headrace.dialects.values import Object, an_object, count, dumped, mended, objects, parsed, word

# a delta's type → the member of the delta, and the member of the block that it continues
DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("partial_json", "input"),
}


class _Message:
    """A message as its events add up."""

    def __init__(self) -> None:
        self._message: Object = {}
        self._blocks: dict[int, Object] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}  # by block and member

    def push(self, value: Object) -> None:
        index = count(value.get("index"))
        match value.get("type"):
            case "message_start":
                self._message = {**an_object(value.get("message")), **self._message}
            case "content_block_start":
                self._blocks.setdefault(index or 0, {**an_object(value.get("content_block"))})
            case "content_block_delta":
                self._add(index or 0, an_object(value.get("delta")))
            case "message_delta":
                delta = an_object(value.get("delta"))
                told = {name: member for name, member in delta.items() if member is not None}
                usage = {**an_object(self._message.get("usage")), **an_object(value.get("usage"))}
                self._message |= {**told, "usage": usage}

    def body(self) -> Object:
        for (index, member), pieces in self._texts.items():
            block = self._blocks.setdefault(index, {"type": "text"})
            text = "".join(pieces)
            block[member] = _input(text) if member == "input" else word(block.get(member)) + text
        head = {"type": "message", "role": "assistant", "stop_reason": None, "stop_sequence": None}
        blocks = [block for _, block in sorted(self._blocks.items())]
        return {**head, **self._message, "content": blocks}

    def _add(self, index: int, delta: Object) -> None:
        name, member = DELTAS.get(word(delta.get("type")), ("", ""))
        piece = delta.get(name)
        if isinstance(piece, str):
            self._texts.setdefault((index, member), []).append(piece)
        elif delta.get("type") == "citations_delta":
            block = self._blocks.setdefault(index, {"type": "text", "text": ""})
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta.get("citation"))


def folded(upstream: AnthropicUpstream, sents: Sequence[Sent]) -> bytes:
    """A JSON body. Raises ServerError where the stream has an error, or no end."""
    answer, message = Answer(upstream), _Message()
    for sent in sents:
        answer.push(sent)
        if not is_heartbeat(sent.data):
            value = an_object(parsed(sent.data))
            message.push({"type": sent.event, **value})
    if not answer.is_finished:
        answer.finish()
    body = message.body()
    calls = any(block.get("type") == "tool_use" for block in objects(body["content"]))
    body["stop_reason"] = body["stop_reason"] or ("tool_use" if calls else "end_turn")
    return dumped(mended(body)).encode()


def unfolded(message: Object) -> bytes:
    """The frames of a stream."""
    return "".join(
        f"event: {value['type']}\ndata: {dumped(value)}\n\n" for value in _events(message)
    ).encode()


def _events(message: Object) -> Iterator[Object]:
    blocks = objects(message.get("content"))
    ended = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    has_calls = any(block.get("type") == "tool_use" for block in blocks)
    reason = ended["stop_reason"] or ("tool_use" if has_calls else "end_turn")
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(blocks):
        yield from _block(index, block)
    delta = {**ended, "stop_reason": reason}
    yield {"type": "message_delta", "delta": delta, "usage": an_object(message.get("usage"))}
    yield {"type": "message_stop"}


def _block(index: int, block: Object) -> Iterator[Object]:
    empty, deltas = {**block}, list[Object]()
    for type, (name, member) in DELTAS.items():
        value = block.get(member)
        if isinstance(value, str) and value:
            empty[member] = ""
            deltas.append({"type": type, name: value})
        elif member == "input" and value and block.get("type") == "tool_use":
            empty[member] = {}
            deltas.append({"type": type, name: dumped(value)})
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _input(arguments: str) -> object:
    """Of arguments that are cut off, what there is."""
    try:
        found = from_json(mended(arguments) or "{}", allow_partial=True)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
