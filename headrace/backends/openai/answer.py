"""Reads the chunks of one answer in OpenAI's dialect as neutral events. Providers vary the dialect: text
under several names, calls without an index, usage in any chunk and any shape, errors in the middle. Whole
messages inside a stream may repeat what was said before: only what is new in them counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from headrace.backends.answer import object_in
from headrace.backends.body_decoding import Budget
from headrace.backends.choice import ChoiceAssembler, log_left_out
from headrace.backends.error_body import is_error
from headrace.backends.http import Upstream
from headrace.backends.openai.content import Content, choices_in, content_of, logprobs_of, reason_in
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.openai import is_done, usage_in, usage_of
from headrace.dialects.values import Object, count, dumped, valid_value, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Event, Finished, Started, Usage

ERROR_EVENTS = ("error", "exception")  # names of events
# types and codes of errors inside a stream, which have no status
STATUSES = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "insufficient_quota": 429,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "overloaded_error": 503,
    "server_is_overloaded": 503,
    "timeout_error": 504,
}


class Answer:
    """Reads one answer: an AnswerReader. `num_choices`: the number that was requested, for all prompts
    together; `num_prompts`: of one prompt, an answer may have fewer, because some providers ignore `n`;
    `extra_members`: further members of chunks that the neutral answer has, too, and with them all that begin
    with "x_"; `counts_tokens`: each chunk has the usage so far, which tells how many tokens an event stands
    for.
    """

    def __init__(
        self,
        upstream: Upstream,
        num_choices: int,
        *,
        num_prompts: int = 1,
        extra_members: tuple[str, ...] = (),
        counts_tokens: bool = False,
    ) -> None:
        self._num_prompts = num_prompts
        self._upstream, self._provider = upstream, upstream.provider
        self._extra_members, self._extra = extra_members, Object()
        self._budget = Budget(self._provider)
        self._choices = [ChoiceAssembler(self._provider, index, self._budget) for index in range(num_choices)]
        self._started: set[ChoiceAssembler] = set()
        self._messages: dict[ChoiceAssembler, Message] = {}
        self._index: int | None = None  # the provider's, of a single choice
        self._usage: Usage | None = None
        self._counts_tokens = counts_tokens
        self._num_counted = 0
        self.chunk: Object = {}  # the last one
        self.is_over = False  # [DONE] or a whole body has arrived

    @property
    def is_complete(self) -> bool:
        return all(choice.reason is not None for choice in self._choices)

    def read(self, sent: ServerSentEvent) -> list[Event]:
        """Read one event. Raises ServerError for an error and for an event that cannot be read, unless the
        answer is complete: what follows it does not matter.
        """
        if self.is_over:
            return []
        if is_done(sent.data):
            self._set_over()
            return []
        self.chunk = {}
        try:
            chunk = object_in(self._provider, sent)
            events = [] if chunk is None else list(self._events(sent, chunk))
            if self._counts_tokens and events:
                events[0] = self._counted(events[0])
            self.chunk = chunk or {}
        except (ProviderError, RecursionError) as exc:
            if self.is_complete:
                return []
            raise exc if isinstance(exc, ProviderError) else self._unreadable() from exc
        if sent.is_whole:
            self._set_over()
        return events

    def end(self) -> list[Event]:
        """The provider's usage covers all choices together; the first one gets it."""
        num_choices = len(self._choices)
        if self.is_over and self._started and self._num_prompts == 1:
            self._choices = [choice for choice in self._choices if choice in self._started]
        if not self.is_complete:
            raise ProviderError(f"{self._provider} ended its answer in the middle")
        events = [event for choice in self._choices for event in choice.end()]
        rest = Usage(0, 0, is_known=self._usage is not None)
        first, *others = self._choices
        num_missing = num_choices - len(self._choices)
        finished = first.finished(self._usage or rest)
        events.append(replace(finished, own=self._extra, num_missing=num_missing))
        return events + [choice.finished(rest) for choice in others]

    def _counted(self, event: Event) -> Event:
        """The event with the number of tokens since the last one; without usage, a chunk counts as one."""
        total = self._num_counted + 1 if self._usage is None else self._usage.completion_tokens
        new, self._num_counted = max(0, total - self._num_counted), max(total, self._num_counted)
        return event if isinstance(event, Started | Finished) else replace(event, tokens=new)

    def _set_over(self) -> None:
        """Some providers leave out the finish reason; it becomes "stop"."""
        self.is_over = True
        for choice in self._started:
            choice.set_reason("stop")

    def _events(self, sent: ServerSentEvent, chunk: Object) -> Iterator[Event]:
        if error := error_in(self._upstream, sent, chunk):
            raise error
        if self._extra_members:
            self._add_extra(chunk)
        self._usage = usage_of(usage_in(chunk)) or self._usage
        choices = choices_in(chunk)
        if chunk.get("choices") and not choices:
            log_left_out(self._provider, "a choice of an unknown shape")
        # indexes of a whole body that are not those of a list say nothing
        if sent.is_whole and {count(body.get("index")) for body in choices} != set(range(len(choices))):
            choices = [{**body, "index": place} for place, body in enumerate(choices)]
        for body in choices:
            yield from self._choice(body)

    def _add_extra(self, chunk: Object) -> None:
        """Keep the further members of a chunk. Some providers repeat them in each."""
        for name, value in chunk.items():
            is_extra = name in self._extra_members or name.startswith("x_")
            if is_extra and value is not None and self._extra.get(name) != value:
                self._budget.spend(len(name) + len(dumped(value)))
                self._extra[name] = valid_value(value)

    def _choice(self, body: Object) -> Iterator[Event]:
        content = content_of(self._provider, body)
        choice = self._choice_of(body)
        if len(self._choices) == 1 and content.is_message and content.calls and not content.text:
            choice = self._choices[0]  # some proxies send a text and its calls as two choices of one answer
        if choice is None:
            if content and not content.is_message and not self.is_complete:
                raise ProviderError(f"{self._provider} sent a choice that was not requested")
            return
        self._started.add(choice)
        if content.is_message:
            if choice not in self._messages:
                self._messages[choice] = Message(is_repeated=choice.has_content)
            content = self._messages[choice].new_in(content)
        if content.annotations:
            choice.add_annotations(content.annotations)
        yield from choice.add_reasoning(content.reasoning)
        yield from choice.add_text(content.text, logprobs_of(body.get("logprobs")))
        for piece in content.calls:
            yield from choice.add_call(piece)
        if reason := reason_in(body):
            choice.set_reason(reason)
            # vLLM's: the stop string, or the id of a stop token
            choice.stop = word(body.get("stop_reason")) or choice.stop

    def _choice_of(self, body: Object) -> ChoiceAssembler | None:
        """The choice that a chunk's choice belongs to; None: one that was not requested. Of a single choice,
        the index does not matter, as long as it stays the same.
        """
        index = count(body.get("index"))
        if len(self._choices) == 1:
            self._index = index if self._index is None else self._index
            return self._choices[0] if index in (None, self._index) else None
        index = index or 0
        return self._choices[index] if index < len(self._choices) else None

    def _unreadable(self) -> ProviderError:
        return ProviderError(f"{self._provider} sent something that is no chunk of an answer")


def error_in(upstream: Upstream, sent: ServerSentEvent, chunk: Object) -> ServerError | None:
    """The provider's error in a chunk, if there is one: in `error`, in a choice, or a chunk that is one."""
    error = chunk.get("error") or _error_of_choice(chunk)
    if sent.event not in ERROR_EVENTS and not error and not is_error(chunk):
        return None
    body = error if isinstance(error, dict) else chunk
    if error and not chunk.get("error"):
        return upstream.error_of_body(status_in(body), dumped({"error": error}))
    return upstream.error_of_body(status_in(body), sent.data)


def _error_of_choice(chunk: Object) -> object:
    return next((body["error"] for body in choices_in(chunk) if body.get("error")), None)


def status_in(body: Object) -> int:
    """The status of an error by its members; 500 if none has one."""
    named = (body.get(name) for name in ("code", "status", "status_code", "StatusCode", "type"))
    return next(filter(None, map(_status, named)), 500)


def _status(code: object) -> int | None:
    """The status for an error's code or type."""
    if isinstance(code, str) and not (code.isascii() and code.isdecimal()):
        return STATUSES.get(code)
    status = count(code)
    return status if status is not None and 400 <= status < 600 else None


class Message:
    """The whole messages of one choice. Each may contain all of the text so far, or only the text since the
    last one. `is_repeated`: the choice has had content in pieces, which its messages only repeat.
    """

    def __init__(self, *, is_repeated: bool) -> None:
        self._is_repeated = is_repeated
        self._text, self._reasoning = _Text(), _Text()

    def new_in(self, content: Content) -> Content:
        """Return what none of the earlier messages contained."""
        if self._is_repeated:
            return Content(annotations=content.annotations)
        text, reasoning = self._text.new_in(content.text), self._reasoning.new_in(content.reasoning)
        return replace(content, text=text, reasoning=reasoning)


class _Text:
    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def new_in(self, text: str) -> str:
        if len(text) >= self._size:  # else it cannot contain all of them
            before = "".join(self._pieces)
            if text.startswith(before):
                self._pieces = [before]
                text = text[len(before) :]
        self._pieces.append(text)
        self._size += len(text)
        return text
