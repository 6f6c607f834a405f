"""LlamaCppBackend: one GGUF file, served by a child process with llama.cpp's HTTP server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from headrace.backend_types import Backend, EngineStats, with_ignored
from headrace.backends.concurrency import Places, check_choices
from headrace.backends.llamacpp.choices import ChoiceGroup, Open, run_choices, split_choices
from headrace.backends.llamacpp.dialect import LlamaCppDialect, checked, shown, with_grammar
from headrace.backends.llamacpp.process import STOP_S, Running, Settings
from headrace.backends.openai.body import chat_body
from headrace.backends.refusals import unreachable
from headrace.backends.writing import Writing, size_of
from headrace.children.keeper import Keeper
from headrace.errors import BadRequest, ContextTooLong, ProviderError, ServerError, TextTooLong
from headrace.offload import aside, while_wanted
from headrace.text.structured.formats import unenforced
from headrace.types import (
    TEXT_ONLY,
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    ModelInfo,
    TextDelta,
    Texts,
    TokenizeRequest,
    ToolCallDelta,
)

log = logging.getLogger(__name__)


class LlamaCppBackend(Backend):
    """Serves the model in `path` under the id `model` (default: the file's name). `chat_template` overrides
    the file's.

    `num_slots` requests of `context_length` tokens run at once, and `max_queue` more may wait. A process that
    ends by itself is started again: the first time at once, then after pauses that grow, in which the backend
    is not alive. `longest_token`: length in bytes of the longest token's text; 0: unknown. `reuses_prompts`:
    a request may reuse the cached prompt of an earlier request in its slot, whoever sent that.
    """

    features = LlamaCppDialect.features
    by_us = LlamaCppDialect.by_us
    is_alive = True

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        model: str | None = None,
        context_length: int = 0,
        num_slots: int = 4,
        max_queue: int = 256,
        num_threads: int = 0,
        chat_template: str | None = None,
        timeout_s: float = 600.0,
        reuses_prompts: bool = True,
        longest_token: int = 0,
        max_tokenize_bytes: int = 2**20,
        max_tokens_default: int = 0,
        own_template: str | None = None,
    ) -> None:
        super().__init__(name)
        self._model, self._timeout_s = model or path.stem, timeout_s
        self._settings = Settings(path, context_length, num_slots, num_threads, chat_template)
        self._keeper = Keeper[Running](name, self._open, came=self._came, left=self._left, stop_s=STOP_S)
        self._latest: Running | None = None  # the last process that was ready, and its clients
        self._longest_token, self._max_tokenize_bytes = longest_token, max_tokenize_bytes
        self._places = Places[ChoiceGroup](num_slots, max_queue, ChoiceGroup.begin)
        self._reuses_prompts, self._max_tokens_default = reuses_prompts, max_tokens_default
        self._own_template = own_template if chat_template is None else None
        self._refusal: str | None = None  # why conversations are refused: the template is broken

    @property
    def _running(self) -> Running | None:
        return self._keeper.running

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._running.child.pid if self._running else None

    @property
    def url(self) -> str | None:
        """The server's address, while it runs."""
        return self._running.url if self._running else None

    async def start(self) -> None:
        """Start the process and wait until the model is loaded. Raises ModelError."""
        await asyncio.to_thread(self._check_template)
        first = await self._open()
        self._came(first)
        self._keeper.start(first)

    def _check_template(self) -> None:
        """Replace a broken template, with which llama.cpp would not start, and refuse conversations."""
        from headrace.text.templates import FALLBACK, ChatTemplate

        if self._own_template is None:
            return
        self._refusal = ChatTemplate(self._own_template).refusal
        if self._refusal is not None:
            log.warning("%s cannot chat: %s", self._model, self._refusal)
            self._settings = replace(self._settings, chat_template=FALLBACK)

    def _check_chat(self, prompt: object) -> None:
        """Raise BadRequest for a conversation if the model's template is broken."""
        if self._refusal is not None and isinstance(prompt, Conversation):
            raise BadRequest(self._refusal, param="messages", code="chat_template_error")

    def stats(self) -> EngineStats | None:
        """The requests that run and wait; None before it has started."""
        if self._running is None:
            return None
        num_taken, num_slots = self._places.num_taken, self._settings.num_slots
        return EngineStats(self._model, min(num_taken, num_slots), max(0, num_taken - num_slots))

    async def aclose(self) -> None:
        await self._keeper.aclose()
        if self._latest is not None:
            await self._latest.aclose()

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        running = self._now()
        check_choices(request)
        annotations = unenforced(request)
        self._check_chat(request.prompt)
        request = await with_grammar(request)
        if request.sampling.max_tokens is None and self._max_tokens_default:
            limit = max(self._max_tokens_default, request.sampling.min_tokens)
            request = replace(request, sampling=replace(request.sampling, max_tokens=limit))
        choices, writing = split_choices(request), Writing(request)
        await aside(size_of(request), partial(self._check, running, choices[:: request.n], writing))
        async with self._placed(choices, partial(self._open_choice, running)) as events:
            yield with_ignored(events, [*writing.ignored, *annotations])

    def _check(self, running: Running, prompts: Iterable[GenerateRequest], writing: Writing) -> None:
        """Write a request for each prompt, so that errors are raised before anything is sent. Raises
        BadRequest.
        """
        for one in while_wanted(prompts):
            self._check_size(one)
            running.openai.write(one, writing)

    @asynccontextmanager
    async def _placed(
        self, choices: Sequence[GenerateRequest], open: Open
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Run the choices in places. Raises Overloaded."""
        flow = choices[0].flow
        self._places.take(flow)
        if len(choices) > 1:
            async with run_choices(choices, open, self._places) as events:
                yield events
            return
        try:
            async with open(choices[0]) as events:
                yield events
        finally:
            self._places.release(flow)

    @asynccontextmanager
    async def _open_choice(
        self, running: Running, request: GenerateRequest
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Generate one choice."""
        async with AsyncExitStack() as exits:
            try:
                events = await exits.enter_async_context(running.openai.generate(request))
            except ServerError as exc:
                raise await running.explained(exc) from exc
            if request.format is not None:
                events = await exits.enter_async_context(aclosing(checked(events, request.format)))
            checked_events = self._events(running, request, events)
            exits.push_async_callback(checked_events.aclose)
            yield checked_events

    async def _events(
        self, running: Running, request: GenerateRequest, events: AsyncIterator[Event]
    ) -> AsyncGenerator[Event, None]:
        prompt = request.prompt
        needs_call = isinstance(prompt, Conversation) and prompt.tool_choice.mode == "required"
        try:
            async for event in events:
                needs_call = needs_call and not isinstance(event, ToolCallDelta)
                if needs_call and isinstance(event, Finished) and event.reason != "length":
                    # llama.cpp enforces calls only for some of the models' formats
                    raise ProviderError("llama.cpp made no call, though tool_choice requires one")
                yield shown(event, request.sampling) if isinstance(event, TextDelta) else event
        except ServerError as exc:
            raise await running.explained(exc) from exc

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        self._check_tokenizable(request.prompt)
        self._check_chat(request.prompt)
        body = {"content": request.prompt, "add_special": request.add_special_tokens, "parse_special": False}
        if isinstance(request.prompt, Conversation):
            chat = chat_body(
                GenerateRequest(request.model, request.prompt), request.prompt, limit="max_tokens"
            )
            written = await self._now().post("/apply-template", chat, "prompt")
            body = {"content": written, "add_special": request.add_special_tokens, "parse_special": True}
        tokens: list[int] = await self._now().post("/tokenize", body, "tokens")
        return tokens

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        return str(await self._now().post("/detokenize", {"tokens": tokens}, "content"))

    def _check_size(self, request: GenerateRequest) -> None:
        """Raise ContextTooLong for a prompt whose length rules out that it fits, which llama.cpp would find
        out only by tokenizing all of it.
        """
        room, prompt = self._models[0].max_model_len, request.prompt
        if not (self._longest_token and room):
            return
        fewest = _num_bytes(prompt) // self._longest_token
        if fewest > room:
            param = "messages" if isinstance(prompt, Conversation) else "prompt"
            raise ContextTooLong.of_tokens(room, fewest, 1, param=param, is_estimate=True)

    def _check_tokenizable(self, prompt: Conversation | str) -> None:
        """Raise TextTooLong if the prompt has too many bytes to be tokenized."""
        if _num_bytes(prompt) > self._max_tokenize_bytes:
            param = "prompt" if isinstance(prompt, str) else "messages"
            raise TextTooLong(f"{param} is longer than {self._max_tokenize_bytes} bytes", param=param)

    def _now(self) -> Running:
        if self._running is None:
            raise unreachable("llama.cpp has ended, and is started again")
        return self._running

    async def _open(self) -> Running:
        """Start a process, once the clients of the last one are closed. Raises ModelError, ServerError."""
        if self._latest is not None:
            await self._latest.aclose()
        return await Running.open(
            self._settings, timeout_s=self._timeout_s, reuses_prompts=self._reuses_prompts
        )

    def _came(self, running: Running) -> None:
        created = int(self._settings.path.stat().st_mtime)
        self._models = [
            ModelInfo(self._model, self.name, created, running.context_length, None, modalities=TEXT_ONLY)
        ]
        self._latest, self.is_alive = running, True

    def _left(self, why: str, pause_s: float) -> None:
        self.is_alive = not pause_s


def _num_bytes(prompt: Conversation | Texts | str) -> int:
    """The size of a prompt's texts. Token ids do not count."""
    if isinstance(prompt, str):
        texts: Iterable[object] = (prompt,)
    elif isinstance(prompt, Texts):
        texts = prompt.prompts
    else:
        texts = (message.text for message in prompt.messages)
    return sum(len(text.encode(errors="replace")) for text in texts if isinstance(text, str))
