"""Writes the events of a response's stream, and the response object that they add up to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Unpack

from headrace.dialects.openai import responses_usage_body
from headrace.errors import ServerError
from headrace.steering.types import Activations
from headrace.types import Event, Finished, FinishReason, ReasoningDelta, Started, TextDelta, ToolCallDelta
from headrace.wire.activations import inside
from headrace.wire.call_order import CallOrder, Content
from headrace.wire.chat import token_logprobs
from headrace.wire.generation import dump
from headrace.wire.items import Item
from headrace.wire.items.build import Status
from headrace.wire.responses import object
from headrace.wire.responses.body import LOGPROBS, SEALED, ResponseBody, includes
from headrace.wire.responses.output import Call, CustomCall, Message, NamedEvent, OutputItem, Reasoning
from headrace.wire.responses.tools import custom_names

# finish reason → incomplete_details.reason
INCOMPLETE: dict[FinishReason, object.IncompleteReason] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
# status of a response → the event that ends its stream; all other statuses end with FAILED
LAST = {"completed": "response.completed", "incomplete": "response.incomplete"}
FAILED = "response.failed"
BEFORE_TYPE = len('{"type":"')


def event_name(text: str) -> str:
    """Read the type of an event from its JSON text."""
    return text[BEFORE_TYPE : text.index('"', BEFORE_TYPE)]


def is_last(text: str) -> bool:
    return event_name(text) in (*LAST.values(), FAILED)


def last_event(response: object.ResponseObject, sequence_number: int) -> str:
    """The event that ends the stream of this response."""
    return _text(LAST.get(response["status"], FAILED), {"response": response}, sequence_number)


class ResponseEvents:
    """Writes one stream: call `first`, then `event` for each event, then `close`, `fail` or `cancel`, then
    `last`. `response` is the current response object, `output` its items after the end.

    Each item is done before the next one is added, because clients rely on it.
    """

    def __init__(self, response: object.ResponseObject, body: ResponseBody) -> None:
        self.response, self._body = response, body
        self.output: list[Item] = []
        self._activations: list[Activations] = []
        self._has_logprobs, self._is_sealed = includes(body, LOGPROBS), includes(body, SEALED)
        self._custom = custom_names(body.tools)
        self._number = 0
        self._items: list[OutputItem] = []
        self._ended: dict[int, object.Output] = {}  # place in the output → item that is done
        self._open: Message | Reasoning | None = None
        self._calls: dict[int, Call] = {}
        self._calling: int | None = None  # index of the open call
        self._order = CallOrder()
        self._thinking: list[str] = []  # reasoning since the last complete thought
        self._finished: Finished | None = None

    def first(self) -> list[str]:
        queued = ["response.queued"] if self.response["background"] else []
        running: object.ResponseObject = {**self.response, "status": "in_progress"}
        events = [(type, self.response) for type in ("response.created", *queued)]
        events.append(("response.in_progress", running))
        return self._texts((type, {"response": response}) for type, response in events)

    def event(self, event: Event) -> list[str]:
        if self.response["status"] == "queued":
            self.response = {**self.response, "status": "in_progress"}
        if not isinstance(event, Started):
            self._activations += event.activations
        return self._texts(self._event(event))

    def close(self) -> list[str]:
        """Finish all items after a complete generation, and set the status and the usage."""
        assert self._finished is not None, "each accepted request finishes, or raises"
        reason = INCOMPLETE.get(self._finished.reason)
        texts = [text for event in self._order.rest() for text in self._texts(self._written(event))]
        texts += self._texts(self._close(reason is None))
        self._end(
            "completed" if reason is None else "incomplete",
            completed_at=int(time.time()) if reason is None else None,
            incomplete_details=None if reason is None else {"reason": reason},
            usage=responses_usage_body(self._finished.usage),
        )
        return texts

    def fail(self, error: ServerError) -> list[str]:
        """Record an error. Open items get no `done` event, so that no client acts on half a call."""
        self._end("failed", error={"code": _code(error), "message": error.message})
        return self._texts([("error", {"code": error.code, "message": error.message, "param": error.param})])

    def cancel(self) -> None:
        self._end("cancelled")

    def last(self, response: object.ResponseObject) -> str:
        """The event that ends the stream. `response`: the final response object."""
        self._number += 1
        return last_event(response, self._number - 1)

    def _event(self, event: Event) -> Iterator[NamedEvent]:
        if isinstance(event, Finished):
            self._finished = event
        elif not isinstance(event, Started):
            for ordered in self._order.push(event):
                yield from self._written(ordered)

    def _written(self, event: Content) -> Iterator[NamedEvent]:
        if isinstance(event, TextDelta):
            yield from self._say(event)
        elif isinstance(event, ReasoningDelta):
            yield from self._think(event)
        else:
            yield from self._call(event)

    def _say(self, event: TextDelta) -> Iterator[NamedEvent]:
        logprobs = token_logprobs(event.logprobs) if self._has_logprobs else []
        if event.text or logprobs:
            message = self._open
            if not isinstance(message, Message):
                message = Message(len(self._items))
                yield from self._begin(message)
                self._open = message
            yield message.say(event.text, logprobs)

    def _think(self, event: ReasoningDelta) -> Iterator[NamedEvent]:
        if event.text or event.thought is not None:
            reasoning = self._open
            if not isinstance(reasoning, Reasoning):
                reasoning = Reasoning(len(self._items), is_sealed=self._is_sealed)
                yield from self._begin(reasoning)
                self._open = reasoning
            yield from reasoning.think(self._thought_text(event), event.thought)

    def _thought_text(self, event: ReasoningDelta) -> str:
        """The new text of an event, including that of a complete thought unless it was streamed before."""
        self._thinking.append(event.text)
        thought = event.thought
        if thought is None:
            return event.text
        is_shown = thought.text in "".join(self._thinking)  # some providers interleave two thoughts
        self._thinking.clear()
        return event.text if is_shown else event.text + thought.text

    def _call(self, event: ToolCallDelta) -> Iterator[NamedEvent]:
        if event.name is not None:
            kind = CustomCall if event.name in self._custom else Call
            call = kind(len(self._items), event.id, event.name)
            yield from self._begin(call)
            self._calls[event.call] = call
            self._calling = event.call
        elif event.call != self._calling:
            return  # late arguments of a call that is done
        yield from self._calls[event.call].write(event.arguments)

    def _call_done(self) -> Iterator[NamedEvent]:
        if self._calling is not None:
            yield from self._done(self._calls[self._calling], "completed")
            self._calling = None

    def _begin(self, item: OutputItem) -> Iterator[NamedEvent]:
        """Finish the open item, and begin a new one."""
        yield from self._call_done()
        if self._open is not None:
            yield from self._done(self._open, "completed")
            self._open = None
        self._items.append(item)
        yield from item.begin()

    def _close(self, is_whole: bool) -> Iterator[NamedEvent]:
        has_answer = any(isinstance(item, Message | Call) for item in self._items)
        if not self._items or (is_whole and not has_answer):
            yield from self._begin(Message(len(self._items)))
        for item in self._items:
            if item.index not in self._ended:
                is_cut = not is_whole and item is self._items[-1]
                yield from self._done(item, "incomplete" if is_cut else "completed")

    def _done(self, item: OutputItem, status: Status) -> Iterator[NamedEvent]:
        yield from item.end(status)
        self._ended[item.index] = item.whole(status)

    def _end(self, status: object.ResponseStatus, **members: Unpack[object.Outcome]) -> None:
        output = [self._ended.get(item.index) or item.whole("incomplete") for item in self._items]
        self.output = list(output)
        receipt = None if self._finished is None else self._finished.receipt
        steering = inside(self._body, self._activations, receipt)
        self.response = {**self.response, "status": status, "output": output, **members, **steering}

    def _texts(self, events: Iterable[NamedEvent]) -> list[str]:
        texts = []
        for type, members in events:
            texts.append(_text(type, members, self._number))
            self._number += 1
        return texts


def _text(type: str, members: object.EventMembers, sequence_number: int) -> str:
    return dump({"type": type, **members, "sequence_number": sequence_number})


def _code(error: ServerError) -> object.ResponseErrorCode:
    """The code of a response's error; the API defines only these few."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status == 400 else "server_error"
