"""Inspects an answer in OpenAI's dialect while it is relayed: errors, usage, its end. Converts one from a
stream into one JSON body, and back; unknown members stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.backends.answer import object_in
from headrace.backends.choice import finish_reason, is_broken
from headrace.backends.http import Upstream
from headrace.backends.openai.answer import Answer, error_in
from headrace.backends.openai.content import REASONINGS, choices_in, content_of, reason_in
from headrace.backends.relay_reader import RelayReader
from headrace.backends.sse import ServerSentEvent, events_in
from headrace.collected import Choice, Collected
from headrace.dialects.openai import DONE, is_done, usage_in, usage_of
from headrace.dialects.values import Object, an_object, count, dumped, word
from headrace.errors import ProviderError, ServerError
from headrace.relay_types import num_prompts
from headrace.types import Usage

OWN = ("choices", "usage", "error", "object")  # members of chunks that are not copied into the body
READ = (*REASONINGS, "content", "tool_calls")  # members of deltas that Answer reads
# lists in logprobs
BY_TOKEN = ("content", "refusal", "tokens", "token_logprobs", "top_logprobs", "text_offset")
MAX_CHOICES = 4096  # bounds our bookkeeping; the provider decides about larger values of `n`


class OpenAIRelayReader(RelayReader):
    """A stream is complete with [DONE], or with a finish reason for each choice. `has_usage`: it ends with
    its usage.
    """

    last = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")
    last_word = b"[DONE]"
    notable = (b"error", b"exception", b'"detail"', b'code"', b'"success"', b"[DONE]", b"[done]")
    reason = re.compile(rb'"finish_reason"\s*:\s*"')

    part = re.compile(rb'"choices"\s*:\s*(?:\[\s*[^\]\s]|\{)')

    def __init__(
        self, upstream: Upstream, endpoint: str, members: Mapping[str, Any], *, has_usage: bool = False
    ) -> None:
        super().__init__(upstream)
        self._is_chat, self._is_generation = endpoint == "/chat/completions", endpoint != "/embeddings"
        self._num_prompts, n = num_prompts(members), count(members.get("n")) or 1
        self._num_choices = min(n * self._num_prompts, MAX_CHOICES)
        self._has_usage = has_usage
        self._ended: set[int] = set()  # indexes of choices

    def usage(self, members: Object) -> Usage | None:
        return usage_of(members)

    def error_in(self, sent: ServerSentEvent, value: Object) -> ServerError | None:
        return error_in(self.upstream, sent, value)

    def is_end(self, sent: ServerSentEvent) -> bool:
        return is_done(sent.data)

    @property
    def member(self) -> str:
        return "choices" if self._is_generation else "data"

    def is_answer(self, value: object) -> bool:
        return bool(choices_in({"choices": value}))

    def reasons(self, members: Object) -> list[str]:
        return [reason_in(body) for body in choices_in(members)]

    def content_in(self, sent: ServerSentEvent, value: Object) -> bool:
        """Whether an event has text, reasoning, a call or a finish reason."""
        bodies = choices_in(value)
        return any(reason_in(body) or content_of(self.provider, body) for body in bodies)

    def follow(self, sents: Sequence[ServerSentEvent]) -> None:
        is_end = any(map(self.is_end, sents))
        if is_end and not self.has_part:
            raise self.cut()
        self.is_over = self.is_over or is_end
        for body in (body for sent in sents for body in self._choices(sent)):
            reason = reason_in(body)
            if is_broken(reason) and not self.is_over:
                raise ProviderError(f"{self.provider} failed in the middle of its answer")
            if reason:
                self._ended.add(count(body.get("index")) or 0)
        self.is_over = self.is_over or len(self._ended) >= self._num_choices

    def _choices(self, sent: ServerSentEvent) -> list[Object]:
        try:
            return choices_in(an_object(object_in(self.provider, sent)))
        except ProviderError:
            return []

    def is_message(self, events: bytes) -> bool:
        first = events_in(events)[:1] if b'"message"' in events else []
        bodies = [body for sent in first for body in self._choices(sent)]
        return any(body.get("message") and not body.get("delta") for body in bodies)

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        answer = Answer(self.upstream, self._num_choices, num_prompts=self._num_prompts)
        return folded(answer, sents, num_choices=self._num_choices, is_chat=self._is_chat)

    def unfolded(self, whole: Object) -> bytes:
        return unfolded(whole, has_usage=self._has_usage)


def folded(answer: Answer, sents: Sequence[ServerSentEvent], *, num_choices: int, is_chat: bool) -> bytes:
    """Convert a stream into a JSON body. Raises ServerError if it contains an error or breaks off."""
    collected, places = Collected(), range(num_choices)
    logprobs, lists = [Object() for _ in places], [Object() for _ in places]
    head: Object = {}
    usage: Object | None = None
    for sent in sents:
        for event in answer.read(sent):
            collected.push(event)
        if answer.is_over:
            break
        chunk = answer.chunk
        head = {**{name: value for name, value in chunk.items() if name not in OWN}, **head}
        usage = _usage(usage_in(chunk)) or usage
        for body in choices_in(chunk):
            number = count(body.get("index")) or 0
            index, delta = number if number < num_choices else 0, an_object(body.get("delta"))
            _extend(logprobs[index], an_object(body.get("logprobs")), BY_TOKEN)
            _extend(lists[index], delta, [name for name in delta if name not in READ])
            if isinstance(delta.get("refusal"), str):
                lists[index].setdefault("refusal", []).append(delta["refusal"])
    for event in answer.end():
        collected.push(event)
    kind = "chat.completion" if is_chat else "text_completion"
    bodies = [
        _choice(index, choice, logprobs[index], lists[index], is_chat=is_chat)
        for index, choice in sorted(collected.choices.items())
    ]
    return dumped({**head, "object": kind, "choices": bodies, "usage": usage}).encode()


def _extend(lists: Object, more: Object, names: Sequence[str]) -> None:
    for name in names:
        if isinstance(more.get(name), list):
            lists.setdefault(name, []).extend(more[name])


def _choice(index: int, choice: Choice, logprobs: Object, lists: Object, *, is_chat: bool) -> Object:
    """`lists`: what the deltas had in lists, such as annotations, and the pieces of a refusal."""
    common = {"index": index, "logprobs": logprobs or None, "finish_reason": choice.reason}
    if not is_chat:
        return {**common, "text": choice.text}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in choice.calls
    ]
    refusal = "".join(lists.pop("refusal", []))
    text = choice.text.removesuffix(refusal)  # which Answer reads as text
    message: Object = {"role": "assistant", "content": text if text or not (calls or refusal) else None}
    message |= {"refusal": refusal or None, **({"tool_calls": calls} if calls else {}), **lists}
    if choice.reasoning:
        message |= {"reasoning_content": choice.reasoning, "reasoning": choice.reasoning}
    return {**common, "message": message}


def unfolded(whole: Object, *, has_usage: bool) -> bytes:
    """Convert a JSON body into a stream. `has_usage`: the caller requested a chunk with the usage."""
    head = {name: value for name, value in whole.items() if name not in ("choices", "usage")}
    if word(head.get("object")) == "chat.completion":
        head["object"] = "chat.completion.chunk"
    texts = [dumped({**head, "choices": [choice]}) for choice in _choices(whole)]
    if has_usage and whole.get("usage"):
        texts.append(dumped({**head, "choices": [], "usage": whole["usage"]}))
    return "".join(f"data: {text}\n\n" for text in [*texts, DONE]).encode()


def _choices(whole: Object) -> Iterator[Object]:
    """Two chunk choices for each choice: its content, then its finish reason."""
    for place, body in enumerate(choices_in(whole)):
        number = count(body.get("index"))
        index = place if number is None else number
        reason = word(body.get("finish_reason"))
        message = body.get("message")
        if not message:
            yield {**body, "index": index, "finish_reason": reason or "stop"}
            continue
        delta = _delta(message if isinstance(message, dict) else {"content": message})
        rest = {name: value for name, value in body.items() if name != "message"}
        yield {**rest, "index": index, "delta": delta, "finish_reason": None}
        has_calls = bool(delta.get("tool_calls") or delta.get("function_call"))
        reason = reason or finish_reason("", has_calls=has_calls)
        yield {**rest, "index": index, "delta": {}, "logprobs": None, "finish_reason": reason}


def _delta(message: Object) -> Object:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return {"role": "assistant", **message}
    placed: list[Any] = [
        {**call, "index": place} if isinstance(call, dict) else call for place, call in enumerate(calls)
    ]
    return {"role": "assistant", **message, "tool_calls": placed}


def _usage(body: object) -> Object | None:
    """The provider's usage, with its counts under OpenAI's names. None: unknown."""
    usage = usage_of(body)
    if usage is None:
        return None
    details = {name: value for name, value in an_object(body).items() if isinstance(value, dict)}
    counts = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return {**details, **counts, "total_tokens": usage.prompt_tokens + usage.completion_tokens}
