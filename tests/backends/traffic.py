"""Random traffic of providers: an answer, written in a dialect's grammar, then spoiled.

A case is made of one number, so that a failing one can be made again: `Case.of("chat", 123)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

Piece = tuple[str, int, str, str]  # kind (text, think, call, args), number of the call, name, text
Event = tuple[str, Any]  # name, and data: a JSON value, or a text as it is

TEXTS = (
    "a",
    "Hello ",
    "ü🌊",
    "\n\n",
    "data: x",
    '"',
    "\\",
    "[DONE]",
    "error",
    "{",
    " ",
    "ends",
    "\u2028",
    "😀",
)
NAMES = ("weather", "time", "f")
ARGUMENTS = ('{"a": 1}', "{}", '{"city": "Zü\\"rich}"}', '{"a": {"b": [1, "]"]}}', '{"😀": "\\ud83d\\ude00"}')
REASONS = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
ODD: tuple[Any, ...] = (None, True, 0, -1, 7, 1.5, "", "x", [], {}, [None], {"a": 1}, [1, "a"], "5", 10**30)


@dataclass
class Content:
    """An answer, and what a reader has to make of it where nothing is spoiled."""

    pieces: list[Piece]
    reason: str
    usage: tuple[int, int] | None
    ids: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(text for kind, _, _, text in self.pieces if kind == "text")

    @property
    def reasoning(self) -> str:
        return "".join(text for kind, _, _, text in self.pieces if kind == "think")

    @property
    def calls(self) -> list[list[str]]:
        names = {number: name for kind, number, name, _ in self.pieces if kind == "call"}
        return [
            [name, "".join(text for kind, at, _, text in self.pieces if kind == "args" and at == number)]
            for number, name in names.items()
        ]


def content(dice: Random, *, may_call: bool = True, may_think: bool = True) -> Content:
    runs: list[list[Piece]] = [
        [("text", 0, "", dice.choice(TEXTS)) for _ in range(dice.randrange(1, 4))]
        for _ in range(dice.randrange(3))
    ]
    if may_think and dice.random() < 0.4:
        runs.insert(0, [("think", 0, "", dice.choice(TEXTS)) for _ in range(dice.randrange(1, 3))])
    num_calls = dice.choice((0, 0, 1, 2, 3)) if may_call else 0
    runs += [_call(dice, number) for number in range(num_calls)]
    pieces = _interleaved(dice, runs) if dice.random() < 0.3 else [piece for run in runs for piece in run]
    reason = dice.choice(("stop", "stop", "stop", "length", "content_filter"))
    if num_calls and reason == "stop":
        reason = "tool_calls"
    usage = (dice.randrange(1, 99), dice.randrange(1, 99)) if dice.random() < 0.8 else None
    return Content(pieces, reason, usage, [f"id_{dice.randrange(10**9)}_{n}" for n in range(num_calls)])


def _call(dice: Random, number: int) -> list[Piece]:
    arguments, run = dice.choice(ARGUMENTS), [("call", number, dice.choice(NAMES), "")]
    while arguments:
        size = dice.randrange(1, 9)
        run.append(("args", number, "", arguments[:size]))
        arguments = arguments[size:]
    return run


def _interleaved(dice: Random, runs: list[list[Piece]]) -> list[Piece]:
    """Each run in its own order; calls begin in theirs."""
    waiting, found, num_calls = [list(run) for run in runs if run], list[Piece](), 0
    while waiting:
        able = [run for run in waiting if run[0][0] != "call" or run[0][1] == num_calls]
        run = dice.choice(able)
        piece = run.pop(0)
        num_calls += piece[0] == "call"
        found.append(piece)
        waiting = [run for run in waiting if run]
    return found


def chat(dice: Random, answer: Content) -> list[Event]:
    """OpenAI's chat, with habits that mean the same."""
    doubled, listed, no_reason = (dice.random() < 0.2 for _ in range(3))
    no_done = not no_reason and dice.random() < 0.3
    word = dice.choice((answer.reason, answer.reason.upper() if answer.reason != "tool_calls" else "stop"))
    if no_reason and answer.reason in ("stop", "tool_calls"):
        word = None  # type: ignore[assignment]
    is_single = len(answer.calls) == 1 and dice.random() < 0.2
    has_role = word is None or dice.random() < 0.8  # nothing but [DONE] is no answer
    found: list[Any] = [_chunk({"role": "assistant", "content": ""})] if has_role else []
    for piece in answer.pieces:
        delta = _delta(piece, answer, listed=listed, is_older=is_single)
        found.append(_chunk(delta, **({"text": piece[3]} if doubled and piece[0] == "text" else {})))
    if word is not None:
        found.append(_chunk({}, reason=word))
    if answer.usage:
        counted = {"prompt_tokens": answer.usage[0], "completion_tokens": answer.usage[1]}
        found.append({"id": "c", "choices": [], "usage": counted})
    return [("", chunk) for chunk in found] + ([] if no_done and word is not None else [("", "[DONE]")])


def _chunk(delta: Any, reason: str | None = None, **more: Any) -> Any:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason, **more}]}


def _delta(piece: Piece, answer: Content, *, listed: bool, is_older: bool) -> Any:
    kind, number, name, text = piece
    if kind == "text":
        return {"content": [{"type": "text", "text": text}] if listed else text}
    if kind == "think":
        parts = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
        return {"content": parts} if listed else {"reasoning_content": text, "reasoning": text}
    function = {"name": name, "arguments": ""} if kind == "call" else {"arguments": text}
    if is_older:
        return {"function_call": function}
    head = {"id": answer.ids[number], "type": "function"} if kind == "call" else {}
    return {"tool_calls": [{"index": number, **head, "function": function}]}


def completions(dice: Random, answer: Content) -> list[Event]:
    found: list[Any] = [
        {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": None}]}
        for _, _, _, text in answer.pieces
    ]
    found.append({"choices": [{"index": 0, "text": "", "finish_reason": answer.reason}]})
    if answer.usage:
        counted = {"prompt_tokens": answer.usage[0], "completion_tokens": answer.usage[1]}
        found.append({"choices": [], "usage": counted})
    return [("", chunk) for chunk in found] + ([("", "[DONE]")] if dice.random() < 0.8 else [])


STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


def messages(dice: Random, answer: Content) -> list[Event]:
    """Anthropic's, with blocks that may interleave, and ends of blocks that may be missing."""
    usage = {"input_tokens": answer.usage[0], "output_tokens": 1} if answer.usage else {}
    found: list[Any] = [{"type": "message_start", "message": {"id": "m", "content": [], "usage": usage}}]
    places: dict[tuple[str, int], int] = {}
    ends_blocks = dice.random() < 0.8
    is_open: tuple[str, int] | None = None
    for kind, number, name, text in answer.pieces:
        key = ("call" if kind in ("call", "args") else kind, number)
        if (kind != "args" and key not in places) or (kind in ("text", "think") and is_open != key):
            places[key] = len(found)  # any number that is new
            found.append(_block_start(places[key], kind, name, answer.ids[number] if kind == "call" else ""))
        if kind != "call":
            found.append({"type": "content_block_delta", "index": places[key], "delta": _of(kind, text)})
        is_open = key
    for (kind, _), index in places.items():
        if kind == "think" and dice.random() < 0.5:
            signed = {"type": "signature_delta", "signature": "c2ln"}
            found.append({"type": "content_block_delta", "index": index, "delta": signed})
    if ends_blocks:
        found += [{"type": "content_block_stop", "index": index} for index in places.values()]
    if dice.random() < 0.5:
        found.insert(dice.randrange(1, len(found) + 1), {"type": "ping"})
    count = {"output_tokens": answer.usage[1]} if answer.usage else {}
    found.append({"type": "message_delta", "delta": {"stop_reason": STOPS[answer.reason]}, "usage": count})
    found.append({"type": "message_stop"})
    return [(value["type"], value) for value in found]


def _block_start(index: int, kind: str, name: str, id: str) -> Any:
    blocks = {
        "text": {"type": "text", "text": ""},
        "think": {"type": "thinking", "thinking": "", "signature": ""},
        "call": {"type": "tool_use", "id": id, "name": name, "input": {}},
    }
    return {"type": "content_block_start", "index": index, "content_block": blocks[kind]}


def _of(kind: str, text: str) -> Any:
    return {
        "text": {"type": "text_delta", "text": text},
        "think": {"type": "thinking_delta", "thinking": text},
        "args": {"type": "input_json_delta", "partial_json": text},
    }[kind]


def ollama(dice: Random, answer: Content) -> list[Event]:
    """Its calls are whole, where their first piece was."""
    found: list[Any] = []
    for kind, number, name, text in answer.pieces:
        if kind == "args":
            continue
        arguments = json.loads(answer.calls[number][1]) if kind == "call" else None
        call = {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
        ways: dict[str, Any] = {
            "text": {"content": text},
            "think": {"content": "", "thinking": text},
            "call": call,
        }
        found.append({"model": "m", "message": {"role": "assistant", **ways[kind]}, "done": False})
    counts = {"prompt_eval_count": answer.usage[0], "eval_count": answer.usage[1]} if answer.usage else {}
    reason = "length" if answer.reason == "length" else "stop"
    found.append({"message": {"content": ""}, "done": True, "done_reason": reason, **counts})
    return [("", line) for line in found]


def framed(events: list[Event], end: bytes) -> list[bytes]:
    """As text/event-stream."""
    found = []
    for name, value in events:
        data = value if isinstance(value, str) else json.dumps(value)
        lines = ([f"event: {name}".encode()] if name else []) + [f"data: {data}".encode(), b"", b""]
        found.append(end.join(lines))
    return found


def lined(events: list[Event], end: bytes) -> list[bytes]:
    """As lines of JSON."""
    return [(value if isinstance(value, str) else json.dumps(value)).encode() + end for _, value in events]


WRITERS: dict[str, Callable[[Random, Content], list[Event]]] = {
    "chat": chat, "completions": completions, "messages": messages, "ollama": ollama,
}  # fmt: skip


@dataclass
class Case:
    """`raw`: the body; `pieces`: the same as it arrives. `is_spoiled`: what it says may be anything."""

    content: Content
    events: list[Event]
    raw: bytes
    pieces: list[bytes]
    is_spoiled: bool

    @classmethod
    def of(cls, dialect: str, seed: int) -> Case:
        dice = Random(seed)
        is_text = dialect == "completions"
        answer = content(dice, may_call=not is_text, may_think=not is_text)
        if dialect == "ollama" and answer.reason == "content_filter":
            answer.reason = "tool_calls" if answer.calls else "stop"  # it knows no filter
        events = WRITERS[dialect](dice, answer)
        num_spoiled = dice.choice((0, 0, 0, 1, 1, 2, 5))
        for _ in range(num_spoiled):
            events = dice.choice(SPOILERS)(dice, events)
        frames = (lined if dialect == "ollama" else framed)(events, dice.choice((b"\n", b"\n", b"\r\n")))
        frames = _with_heartbeats(dice, frames, is_lined=dialect == "ollama")
        raw = b"".join(frames)
        is_cut = dice.random() < 0.15
        if is_cut:
            raw = raw[: dice.randrange(len(raw) + 1)]
        return cls(answer, events, raw, _cut(dice, raw), bool(num_spoiled) or is_cut)


def _with_heartbeats(dice: Random, frames: list[bytes], *, is_lined: bool) -> list[bytes]:
    beats = (b"\n", b"  \n") if is_lined else (
        b": ping\n\n", b"data:\n\n", b"data: pong\n\n", b"event: ping\ndata: \n\n", b"\n", b"id: 3\n\n"
    )  # fmt: skip
    found = []
    for frame in frames:
        if dice.random() < 0.1:
            found.append(dice.choice(beats))
        found.append(frame)
    return found


def _cut(dice: Random, raw: bytes) -> list[bytes]:
    if dice.random() < 0.3:
        return [raw] if raw else []
    found, size = [], dice.choice((1, 5, 60, 400))
    while raw:
        at = dice.randrange(1, size + 1)
        found.append(raw[:at])
        raw = raw[at:]
    return found


def _drop(dice: Random, events: list[Event]) -> list[Event]:
    at = dice.randrange(len(events)) if events else 0
    return events[:at] + events[at + 1 :]


def _double(dice: Random, events: list[Event]) -> list[Event]:
    at = dice.randrange(len(events)) if events else 0
    return events[: at + 1] + events[at:]


def _swap(dice: Random, events: list[Event]) -> list[Event]:
    found = list(events)
    if len(found) > 1:
        one, other = dice.sample(range(len(found)), 2)
        found[one], found[other] = found[other], found[one]
    return found


def _retype(dice: Random, events: list[Event]) -> list[Event]:
    """A member, wherever it lies, becomes something else, or is gone."""
    found = json.loads(json.dumps(events))
    places = [place for _, value in found for place in _places(value)]
    if places:
        holder, name = dice.choice(places)
        if isinstance(holder, dict) and dice.random() < 0.3:
            del holder[name]
        else:
            holder[name] = dice.choice(ODD)
    return [(name, value) for name, value in found]


def _places(value: Any) -> list[tuple[Any, Any]]:
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [place for name, inner in members for place in [(value, name), *_places(inner)]]


def _garbage(dice: Random, events: list[Event]) -> list[Event]:
    junk = dice.choice(
        ('{"choices": [', "[1]", "{}", '{"error": {"message": "no"}}', '{"error": "no"}', "<html>",
         '{"choices": 5}', '{"type": "error", "error": {"type": "overloaded_error", "message": "no"}}',
         r'{"choices":[{"index":0,"delta":{"content":"\ud83d"}}]}', '{"a": NaN}', "[" * 2000, "null")
    )  # fmt: skip
    at = dice.randrange(len(events) + 1)
    return [*events[:at], ("", junk), *events[at:]]


def _half(dice: Random, events: list[Event]) -> list[Event]:
    """Texts that are cut within a surrogate pair."""
    found = json.loads(json.dumps(events))
    for holder, name in [place for _, value in found for place in _places(value)]:
        if isinstance(holder[name], str) and "😀" in holder[name]:
            holder[name] = holder[name].replace("😀", dice.choice(("\ud83d", "\ude00", "\ude00\ud83d")))
    return [(name, value) for name, value in found]


def _alien(dice: Random, events: list[Event]) -> list[Event]:
    """An event of another answer."""
    other = content(dice)
    strange = dice.choice((chat, messages, ollama, completions))(dice, other)
    at = dice.randrange(len(events) + 1)
    return [*events[:at], dice.choice(strange), *events[at:]]


SPOILERS = (_drop, _double, _swap, _retype, _retype, _retype, _garbage, _half, _alien)
