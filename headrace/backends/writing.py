"""Shared by all dialects when a request is written for a provider: tool names and ids that the provider
accepts (mapped back in the answer), arguments that are JSON objects, and a list of what was changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from headrace.backend_types import with_ignored
from headrace.dialects.anthropic import WRAPPED
from headrace.dialects.values import an_object, valid_value
from headrace.finite import dumps, loads
from headrace.text.structured.keywords import everywhere
from headrace.types import Conversation, Event, Finished, GenerateRequest, Json, ToolCallDelta

NAME = re.compile("[a-zA-Z0-9_-]+")
NO_NAME = re.compile("[^a-zA-Z0-9_-]")
MEMBER = re.compile("[a-zA-Z0-9_.-]{1,64}")  # Anthropic's names of members
ROLES = "messages.role"
ARGUMENTS = "messages.tool_calls.function.arguments"
ODD = re.compile(r"NaN|Infinity|[eE]\+?\d{3}")  # matches all texts with numbers that JSON does not have
MAX_ID = 40  # characters of a call's id; OpenAI's limit
PER_ENTRY = 64  # least number of characters of a message's or a tool's JSON, besides its text


class Writing:
    """The changes made while one request is written. `most`: the longest tool name that the provider accepts,
    in characters. `ignored`: members that were left out or changed, by their names in chat completions.
    """

    def __init__(self, request: GenerateRequest, *, most: int = 64) -> None:
        self.ignored: list[str] = []
        self._names = _names(request.prompt, most) if isinstance(request.prompt, Conversation) else {}
        self.renamed = {sent: name for name, sent in self._names.items() if sent != name}
        self._members = dict[str, dict[str, str]]()  # tool, as sent → its members: caller's → sent

    def tool(self, name: str) -> str:
        """The name under which the provider gets a tool."""
        return self._names.get(name, name)

    def call_id(self, id: str) -> str:
        """The id of a call in the history, shortened if other providers would refuse its length."""
        return id if len(id) <= MAX_ID else f"call_{opaque(id)[:32]}"

    def for_caller(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events as the caller gets them: with the caller's tool names, and with `ignored`."""
        own = _with_callers_members(events, self._members) if self._members else events
        own = _with_callers_names(own, self.renamed) if self.renamed else own
        return with_ignored(own, self.ignored)

    def schema(self, tool: str, schema: Json) -> Json:
        """A tool's schema without names of members that Anthropic refuses, such as `$filter`: others stand
        for them, in the calls of the history and of the answer, too.
        """
        nodes = [an_object(node.get("properties")) for _, node in everywhere(dict(schema), "")]
        renamed = {name: _accepted(name) for node in nodes for name in node if not MEMBER.fullmatch(name)}
        if not renamed:
            return schema
        self._members[self.tool(tool)] = renamed
        copy: dict[str, Any] = loads(dumps(schema))
        for _, node in list(everywhere(copy, "")):
            if isinstance(members := node.get("properties"), dict):
                node["properties"] = {renamed.get(name, name): part for name, part in members.items()}
            if isinstance(node.get("required"), list):
                node["required"] = [renamed.get(str(name), name) for name in node["required"]]
        return copy

    def arguments(self, text: str, tool: str = "") -> dict[str, Any]:
        """Parse the arguments of a call in the history. A model may have written anything there, so text that
        is no JSON object is wrapped in one, and ARGUMENTS is among `ignored`. `tool`: see `schema`.
        """
        try:
            value = loads(text.strip() or "{}")
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return dict(_renamed(valid_value(value), self._members.get(self.tool(tool), {})))
        self.ignored.append(ARGUMENTS)
        return {WRAPPED: text}

    def arguments_text(self, text: str) -> str:
        """As `arguments`, for dialects where they are JSON text; text that is valid stays unchanged."""
        value = self.arguments(text)
        return text if text.strip() and not ODD.search(text) and WRAPPED not in value else dumps(value)


def size_of(request: GenerateRequest) -> int:
    """Estimate the size of a request's JSON, in characters."""
    prompt = request.prompt
    if not isinstance(prompt, Conversation):
        return sum(map(len, prompt.prompts))
    texts = sum(len(message.text) for message in prompt.messages)
    calls = sum(len(call.arguments) for message in prompt.messages for call in message.tool_calls)
    return texts + calls + PER_ENTRY * (len(prompt.messages) + len(prompt.tools))


def without_none(members: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the members that are None."""
    return {name: value for name, value in members.items() if value is not None}


def opaque(text: str) -> str:
    """Replace a name that must not be sent as it is: 64 hex digits, the same for the same name."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


async def _with_callers_names(events: AsyncIterator[Event], renamed: dict[str, str]) -> AsyncIterator[Event]:
    """`renamed`: the provider's name of a tool → the caller's."""
    async for event in events:
        if isinstance(event, ToolCallDelta) and event.name in renamed:
            yield replace(event, name=renamed[event.name])
        else:
            yield event


async def _with_callers_members(
    events: AsyncIterator[Event], members: Mapping[str, Mapping[str, str]]
) -> AsyncIterator[Event]:
    """Hold back the calls, and yield each whole, with the caller's names of its members, before the end."""
    calls = dict[tuple[int, int], list[ToolCallDelta]]()
    async for event in events:
        if isinstance(event, ToolCallDelta):
            calls.setdefault((event.index, event.call), []).append(event)
            continue
        if isinstance(event, Finished):
            for first, *more in calls.values():
                text = first.arguments + "".join(piece.arguments for piece in more)
                own = {sent: name for name, sent in members.get(first.name or "", {}).items()}
                with suppress(ValueError, RecursionError):
                    text = dumps(_renamed(loads(text), own)) if own else text
                yield replace(first, arguments=text)
            calls.clear()
        yield event


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with other names of members, everywhere in it."""
    if isinstance(value, dict) and names:
        return {names.get(name, name): _renamed(member, names) for name, member in value.items()}
    return [_renamed(one, names) for one in value] if isinstance(value, list) and names else value


def _accepted(name: str) -> str:
    """A name of a member that Anthropic accepts, and that stands for no other."""
    return f"{NO_NAME.sub('_', name)[:50]}_{opaque(name)[:8]}"


def _names(prompt: Conversation, most: int) -> dict[str, str]:
    """The caller's name of each tool → a valid name for the provider, unique among them."""
    names = dict.fromkeys(_all_names(prompt))
    sent = {name: name for name in names if len(name) <= most and NAME.fullmatch(name)}
    taken = set(sent)
    for name in names:
        if name in sent:
            continue
        plain = NO_NAME.sub("_", name)
        if len(plain) > most or not plain or plain in taken:
            end = f"_{opaque(name)[:8]}"
            plain = plain[: most - len(end)] + end
        taken.add(plain)
        sent[name] = plain
    return sent


def _all_names(prompt: Conversation) -> Iterator[str]:
    yield from (tool.name for tool in prompt.tools)
    yield from (call.name for message in prompt.messages for call in message.tool_calls)
