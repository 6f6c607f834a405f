"""What all dialects need while a request is written in one of them: names of tools that the provider takes,
and back again; arguments that are JSON objects; and a list of what could not be written as it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from headrace.finite import dumps, loads
from headrace.noted import noted
from headrace.types import Conversation, Event, GenerateRequest, ToolCallDelta

NAME = re.compile("[a-zA-Z0-9_-]+")
NO_NAME = re.compile("[^a-zA-Z0-9_-]")
ARGUMENTS = "messages.tool_calls.function.arguments"
ODD = re.compile(r"NaN|Infinity|[eE]\+?\d{3}")  # what may be a number that JSON does not have
MAX_ID = 40  # characters of a call's id: OpenAI's limit
PER_ENTRY = 64  # characters, besides its text, that a message or a tool has at least
WRAPPED = "arguments"  # the member that holds arguments which are no JSON object


class Writing:
    """One request. `most`: characters of a tool's name. `ignored`: members that were left out or changed, by
    their names in chat completions.
    """

    def __init__(self, request: GenerateRequest, *, most: int = 64) -> None:
        self.ignored: list[str] = []
        self._names = _names(request.prompt, most) if isinstance(request.prompt, Conversation) else {}
        self.renamed = {sent: name for name, sent in self._names.items() if sent != name}

    def tool(self, name: str) -> str:
        """What a tool is called there."""
        return self._names.get(name, name)

    def call_id(self, id: str) -> str:
        """Of a call in the history, and of its result: some providers make longer ones than others take."""
        return id if len(id) <= MAX_ID else f"call_{opaque(id)[:32]}"

    def told(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """What the provider answers, with the caller's own names of tools, and what it was not sent."""
        own = _as_asked(events, self.renamed) if self.renamed else events
        return noted(own, self.ignored)

    def arguments(self, text: str) -> dict[str, Any]:
        """Of a call in the history. A model may have written anything, and the conversation has to go on."""
        try:
            found = loads(text.strip() or "{}")
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        self.ignored.append(ARGUMENTS)
        return {WRAPPED: text}

    def arguments_text(self, text: str) -> str:
        """As `arguments`, for dialects in which they are text: what is an object stays as it was written."""
        found = self.arguments(text)
        return text if text.strip() and not ODD.search(text) and WRAPPED not in found else dumps(found)


def size_of(request: GenerateRequest) -> int:
    """About how many characters are to be written."""
    prompt = request.prompt
    if not isinstance(prompt, Conversation):
        return sum(map(len, prompt.prompts))
    said = sum(len(message.text) for message in prompt.messages)
    calls = sum(len(call.arguments) for message in prompt.messages for call in message.tool_calls)
    return said + calls + PER_ENTRY * (len(prompt.messages) + len(prompt.tools))


def opaque(text: str) -> str:
    """What stands for a name that may not be told as it is: 64 signs, the same for the same name."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


async def _as_asked(events: AsyncIterator[Event], renamed: dict[str, str]) -> AsyncIterator[Event]:
    """With the caller's own names of tools."""
    async for event in events:
        if isinstance(event, ToolCallDelta) and event.name in renamed:
            yield replace(event, name=renamed[event.name])
        else:
            yield event


def _names(prompt: Conversation, most: int) -> dict[str, str]:
    """Each tool's name there, by its own. Two never become one."""
    found = dict.fromkeys(_all_names(prompt))
    sent = {name: name for name in found if len(name) <= most and NAME.fullmatch(name)}
    taken = set(sent)
    for name in found:
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
