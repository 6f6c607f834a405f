"""Our own engine as a backend: text in, text out, over one engine thread. Tokens are its business, HTTP is
not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from headrace import __version__
from headrace.backends.engine_thread import EngineThread
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.errors import BadRequest, ContextTooLong, EngineFailed, Overloaded
from headrace.models.catalog import Model
from headrace.text.detokenize import Detokenizer
from headrace.text.stops import StopMatcher
from headrace.text.templates import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.types import (
    Embeddings,
    EmbedRequest,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    Sampling,
    TextDelta,
    Texts,
    TokenizeRequest,
    TokenizerInfo,
    Usage,
)

log = logging.getLogger(__name__)

LONG_TEXT = 20_000  # characters: above this, tokenizing goes to a thread and lets the event loop breathe


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the configuration decides about one engine."""

    max_model_len: int = 0  # 0: the model's own
    kv_cache_bytes: int = 0  # 0: a share of the free memory
    max_num_seqs: int = 32
    max_queue: int = 256
    max_batch_tokens: int = 512
    num_threads: int = 0
    exact: bool = False
    use_generation_config: bool = True


class EngineBackend:
    """One local model. Heavy libraries are loaded in `start`."""

    def __init__(self, model: Model, settings: EngineSettings) -> None:
        self.model, self.settings = model, settings
        self._recommended = model.sampling if settings.use_generation_config else {}
        self._streams: dict[Sequence, _Stream] = {}
        self._num_active = 0  # sequences that hold a place, running or waiting
        self._thread: EngineThread | None = None
        self._info: ModelInfo | None = None

    async def start(self) -> None:
        engine = await asyncio.to_thread(self._load)
        self.engine = engine
        self._thread = EngineThread(engine, deliver=self._deliver, died=self._on_death)

    async def aclose(self) -> None:
        if self._thread is not None:
            await asyncio.to_thread(self._thread.stop)

    def models(self) -> list[ModelInfo]:
        return [self._info] if self._info is not None else []

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together; known once started."""
        return self._max_model_len

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        """Raises BadRequest, ContextTooLong, Overloaded, EngineFailed."""
        self._check_alive()
        self._take_places(request.n)
        stream: _Stream | None = None
        try:
            prompt = await self._encode(request)
            # again: a stream that is opened after the thread's death would hear of nothing
            self._check_alive()
            stream = self._open(prompt, request)
            yield stream
        finally:
            self._num_active -= request.n
            if stream is not None:
                self._close(stream)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise NotImplementedError

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise NotImplementedError

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        raise NotImplementedError

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        raise NotImplementedError

    def _load(self) -> Engine:
        from headrace.engine.load import load_engine

        model, settings = self.model, self.settings
        self._tokenizer = Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos)
        names = {id: text for text, id in self._tokenizer.special.items()}
        eos = names.get(model.eos_token_ids[0], "") if model.eos_token_ids else ""
        bos = names.get(model.bos_token_id, "") if model.bos_token_id is not None else ""
        self._template = ChatTemplate(model.chat_template, bos=bos, eos=eos)
        longest = min(settings.max_model_len or model.context_length, model.context_length)
        engine = load_engine(
            model.folder,
            max_model_len=longest,
            kv_cache_bytes=settings.kv_cache_bytes,
            max_num_seqs=settings.max_num_seqs,
            max_batch_tokens=settings.max_batch_tokens,
            num_threads=settings.num_threads,
            exact=settings.exact,
        )
        self._max_model_len = min(longest, engine.max_tokens)
        marks = (__version__, model.name, model.quantization or "", str(settings.exact))
        fingerprint = "fp_" + hashlib.sha256("\0".join(marks).encode()).hexdigest()[:12]
        self._info = ModelInfo(
            model.name, "headrace", model.created, self._max_model_len, fingerprint, dict(self._recommended)
        )
        return engine

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise EngineFailed("the engine has stopped; the server must be restarted")

    def _take_places(self, count: int) -> None:
        places = self.settings.max_num_seqs + self.settings.max_queue
        if count > places:
            raise BadRequest(f"n is {count}, the server has {places} places", param="n")
        if self._num_active + count > places:
            waiting = max(0, self._num_active - self.settings.max_num_seqs)
            raise Overloaded(f"all {places} places are taken", retry_after_s=min(30, 1 + waiting // 8))
        self._num_active += count

    async def _encode(self, request: GenerateRequest) -> list[int]:
        size = (
            sum(map(len, request.prompt.prompts))
            if isinstance(request.prompt, Texts)
            else sum(len(m.text) for m in request.prompt.messages)
        )
        if size <= LONG_TEXT:
            return self._tokens(request)
        return await asyncio.to_thread(self._tokens, request)

    def _tokens(self, request: GenerateRequest) -> list[int]:
        """Raises TemplateError, and BadRequest for a prompt without a token."""
        if not isinstance(request.prompt, Texts):
            rendered = self._template.render(request.prompt.messages, escape=self._tokenizer.escape)
            return self._tokenizer.encode_rendered(rendered)
        tokens = self._tokenizer.encode_prompt(str(request.prompt.prompts[0]))
        if not tokens and self.model.bos_token_id is not None:
            return [self.model.bos_token_id]  # an empty prompt: the model begins by itself
        if not tokens:
            raise BadRequest("prompt is empty, and the model has no token to begin with", param="prompt")
        return tokens

    def _open(self, prompt: list[int], request: GenerateRequest) -> _Stream:
        param = "prompt" if isinstance(request.prompt, Texts) else "messages"
        room = self._max_model_len - len(prompt)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens; with an answer, {self._max_model_len} fit",
                param=param,
            )
        params = self._resolve(request.sampling, room)
        leader = Sequence(prompt, params)
        rest = [Sequence(list(prompt), params, index=index, leader=leader) for index in range(1, request.n)]
        stream = _Stream(
            [_Choice(s, self._tokenizer, request.sampling.stop) for s in (leader, *rest)], self._thread_of()
        )
        for choice in stream.choices:
            self._streams[choice.sequence] = stream
            self._thread_of().add(choice.sequence)
        return stream

    def _resolve(self, asked: Sampling, room: int) -> SamplingParams:
        """asked for → recommended by the model → OpenAI's default."""
        if asked.max_tokens is not None and asked.min_tokens > asked.max_tokens:
            raise BadRequest("min_tokens is more than max_tokens", param="min_tokens")

        def first(given: float | None, name: str, default: float) -> float:
            return given if given is not None else float(self._recommended.get(name, default))

        return SamplingParams(
            max_tokens=min(asked.max_tokens or room, room),
            temperature=first(asked.temperature, "temperature", 1.0),
            top_p=first(asked.top_p, "top_p", 1.0),
            top_k=int(first(asked.top_k, "top_k", 0)),
            min_p=first(asked.min_p, "min_p", 0.0),
            seed=asked.seed,
            stop_token_ids=frozenset() if asked.ignore_eos else frozenset(self.model.eos_token_ids),
            min_tokens=asked.min_tokens,
        )

    def _close(self, stream: _Stream) -> None:
        for choice in stream.choices:
            del self._streams[choice.sequence]
            if choice.sequence.finish_reason is None and self._thread is not None:
                self._thread.abort(choice.sequence)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            stream = self._streams.get(output.sequence)
            if stream is not None:
                stream.push(output)

    def _on_death(self, exc: BaseException) -> None:
        for stream in set(self._streams.values()):
            stream.fail(EngineFailed("the engine has stopped"))

    def _thread_of(self) -> EngineThread:
        assert self._thread is not None, "start() comes first"
        return self._thread


class _Choice:
    """One sequence on its way to text."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self.sequence = sequence
        self._detokenizer, self._stops = Detokenizer(tokenizer), StopMatcher(stops)
        self.num_tokens = 0
        self.is_finished = False

    def push(self, token: int, ended: str | None) -> tuple[str, FinishReason | None]:
        """The text that a token completes, and the reason if it is the last. `ended`: the engine's, if it
        stopped here.
        """
        self.num_tokens += 1
        text = "" if ended == "stop" else self._detokenizer.push(token)
        if ended is not None:
            text += self._detokenizer.flush()
        if self.num_tokens >= self.sequence.params.min_tokens:
            text = self._stops.push(text)
        if self._stops.stopped:
            return text, "stop"
        if ended is None:
            return text, None
        return text + self._stops.flush(), "stop" if ended == "stop" else "length"


class _Stream:
    """The events of one request: an async iterator with one reader. Everything here happens on the loop's
    thread.
    """

    def __init__(self, choices: list[_Choice], thread: EngineThread) -> None:
        self.choices, self._thread = choices, thread
        self._by_sequence = {choice.sequence: choice for choice in choices}
        self._num_open = len(choices)
        self._events: deque[Event] = deque()
        self._error: EngineFailed | None = None
        self._ready = asyncio.Event()

    def push(self, output: Output) -> None:
        choice = self._by_sequence[output.sequence]
        if choice.is_finished:
            return  # the engine ran ahead of a stop string
        if output.token is None:
            self.fail(EngineFailed(f"the engine could not compute this request ({output.sequence.error})"))
            return
        text, reason = choice.push(output.token, output.finish_reason)
        if text:
            self._events.append(TextDelta(choice.sequence.index, text))
        if reason is not None:
            self._finish(choice, reason)
        if self._events:
            self._ready.set()

    def fail(self, error: EngineFailed) -> None:
        self._error = error
        self._ready.set()

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            if not self._num_open:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._events.popleft()

    def _finish(self, choice: _Choice, reason: FinishReason) -> None:
        choice.is_finished = True
        self._num_open -= 1
        leader = self.choices[0].sequence
        usage = Usage(leader.num_prompt, choice.num_tokens, leader.num_cached)
        self._events.append(Finished(choice.sequence.index, reason, usage))
        if choice.sequence.finish_reason is None:  # a stop string ended it: the engine does not know yet
            self._thread.abort(choice.sequence)
