"""Rewrites messages for chat templates that accept fewer kinds of conversation: that require alternating
roles, have no role `system` or `tool`, or require the user to speak first.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from headrace.finite import dumps_large
from headrace.types import Message, ToolCall

MAX_ARGUMENTS = 2**19  # characters; longer arguments are not parsed

Messages = tuple[Message, ...]
Rewrite = Callable[[Messages], Messages]


def rewritten(messages: Messages) -> Iterator[Messages]:
    """Yield the messages, then rewritings of them that change more and more. No list comes twice."""
    seen: list[Messages] = []
    for opening in (_unchanged, system_as_user, _user_first, _system_as_user_first):
        for turns in (_unchanged, merged, _joined_to_results, _results_as_user):
            candidate = turns(opening(messages))
            if candidate not in seen:
                seen.append(candidate)
                yield candidate


def with_results_as_text(messages: Messages) -> Messages:
    """For templates without a role `tool`: write the results of each turn as one message of the user."""
    written: list[Message] = []
    for is_result, group in itertools.groupby(messages, lambda message: message.role == "tool"):
        if is_result:
            results = (f"<tool_response>\n{message.text}\n</tool_response>" for message in group)
            written.append(Message("user", "\n".join(results)))
        else:
            written += group
    return tuple(written)


def with_calls_as_text(messages: Messages) -> Messages:
    """For templates without tool calls: write the calls as text."""
    return tuple(
        replace(message, text=text_of_calls(message), tool_calls=()) if message.tool_calls else message
        for message in messages
    )


def text_of_calls(message: Message) -> str:
    written = [message.text] * bool(message.text) + [_as_text(call) for call in message.tool_calls]
    return "\n".join(written)


def system_as_user(messages: Messages) -> Messages:
    """For templates without a role `system`: put the system's text in front of the user's next message."""
    written: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role in ("system", "developer"):
            waiting.append(message.text)
        elif waiting and message.role == "user":
            written.append(replace(message, text="\n\n".join([*waiting, message.text])))
            waiting.clear()
        else:
            written += [Message("user", "\n\n".join(waiting)), message] if waiting else [message]
            waiting.clear()
    return (*written, *([Message("user", "\n\n".join(waiting))] if waiting else []))


def merged(messages: Sequence[Message]) -> Messages:
    """Merge neighbouring messages of one role, except tool results and messages with calls, which end a run.
    The texts of a run are put together once: one after another would take quadratic time.
    """
    runs: list[list[Message]] = []
    for message in messages:
        last = runs[-1][-1] if runs else None
        is_plain = message.role != "tool" and last is not None and not last.tool_calls
        if last is not None and is_plain and _speaker(last) == _speaker(message):
            runs[-1].append(message)
        else:
            runs.append([message])
    return tuple(run[0] if len(run) == 1 else _one(run) for run in runs)


def _one(run: Sequence[Message]) -> Message:
    return replace(
        run[0],
        text=_joined(message.text for message in run),
        tool_calls=run[-1].tool_calls,
        reasoning=_joined(message.reasoning or "" for message in run) or None,
    )


def _speaker(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(filter(None, texts))


def _unchanged(messages: Messages) -> Messages:
    return messages


def _user_first(messages: Messages) -> Messages:
    """Insert an empty message of the user if an assistant's message opens the conversation."""
    for index, message in enumerate(messages):
        if message.role == "assistant":
            return (*messages[:index], Message("user", ""), *messages[index:])
        if message.role not in ("system", "developer"):
            break
    return messages


def _system_as_user_first(messages: Messages) -> Messages:
    return _user_first(system_as_user(messages))


def _joined_to_results(messages: Messages) -> Messages:
    """Append the user's text after tool results to the message of the last result."""
    written: list[Message] = []
    for message in merged(messages):
        last = written[-1] if written else None
        if last is not None and last.role == "tool" and message.role == "user":
            written[-1] = replace(last, text=_joined((last.text, message.text)))
        else:
            written.append(message)
    return tuple(written)


def _results_as_user(messages: Messages) -> Messages:
    return merged(with_results_as_text(with_calls_as_text(messages)))


def _as_text(call: ToolCall) -> str:
    function = dumps_large({"name": call.name, "arguments": arguments(call.arguments)})
    return f"<tool_call>\n{function}\n</tool_call>"


def arguments(text: str) -> object:
    """A call's arguments, parsed. They stay text if they are not JSON, or longer than MAX_ARGUMENTS: parsing
    holds the interpreter lock.
    """
    if len(text) > MAX_ARGUMENTS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
