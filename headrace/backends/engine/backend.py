"""Our own engine as a backend: text in, text out, over one engine thread. Tokens are its business, HTTP is
not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from headrace import __version__
from headrace.backends.engine.choice import Choice, Reading
from headrace.backends.engine.prompt import Prompt, Prompts, Room
from headrace.backends.engine.rules import Rules
from headrace.backends.engine.stream import Pooling, Stream, Waiter
from headrace.backends.engine.thread import EngineThread
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import BATCH, Constraint, SamplingParams, Sequence
from headrace.errors import BadRequest, EngineFailed, Overloaded
from headrace.models.catalog import Model
from headrace.offload import SMALL, aside, check_wanted
from headrace.text.bounds import check_size
from headrace.text.reasoning import Splitter
from headrace.text.tokenizer import Tokenizer
from headrace.types import (
    BackendKind,
    Conversation,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelInfo,
    Sampling,
    Texts,
    TokenizeRequest,
    TokenizerInfo,
)

log = logging.getLogger(__name__)

# What work costs, in the bytes that headrace.offload counts: what takes more than a few milliseconds goes to
# a thread.
CHARACTER, TOKEN, MESSAGE, COMPILED = 16, 16, 2048, SMALL + 1


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
    max_tokenize_bytes: int = 2**20  # of a text or conversation that is only tokenized
    share_prefix_cache: bool = False  # between owners


class EngineBackend:
    """One local model. Heavy libraries are loaded in `start`."""

    kind: BackendKind = "engine"

    def __init__(self, model: Model, settings: EngineSettings, tool_format: str | None = None) -> None:
        """`tool_format`: a key of toolcalls.FORMATS; None: the one that the chat template means."""
        self.model, self.settings, self._tool_format = model, settings, tool_format
        self._recommended = model.sampling if settings.use_generation_config else {}
        self._waiters: dict[Sequence, Waiter] = {}
        self._num_active = 0  # sequences that hold a place, running or waiting
        self._thread: EngineThread | None = None
        self._info: ModelInfo | None = None

    @property
    def name(self) -> str:
        return "headrace"

    async def start(self) -> None:
        engine = await asyncio.to_thread(self._load)
        self.engine = engine
        self._thread = EngineThread(engine, deliver=self._deliver, died=self._on_death)

    async def aclose(self) -> None:
        if self._thread is not None:
            await asyncio.to_thread(self._thread.stop)

    def models(self) -> list[ModelInfo]:
        return [self._info] if self._info is not None else []

    def find(self, id: str) -> ModelInfo | None:
        return next((info for info in self.models() if info.id == id), None)

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together; known once started."""
        return self._prompts.max_model_len

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        """Raises BadRequest, ContextTooLong, Overloaded, EngineFailed."""
        self._check_alive()
        self._take_places(request.num_choices, "n" if request.n == request.num_choices else "prompt")
        stream: Stream | None = None
        try:
            prepared = await aside(_work(request), partial(self._prepare, request))
            # again: a stream that is opened after the thread's death would hear of nothing
            self._check_alive()
            stream = self._open(prepared, request)
            yield stream
        finally:
            self._num_active -= request.num_choices
            if stream is not None:
                self._close(stream)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """One place for all inputs: the scheduler takes them in behind the conversations. Raises BadRequest,
        ContextTooLong, Overloaded, EngineFailed.
        """
        self._check_alive()
        self._check_dimensions(request)
        self._take_places(1, "input")
        pooling: Pooling | None = None
        try:
            prompts = await aside(_work_on(*request.inputs), partial(self._embedded, request))
            self._check_alive()
            params = SamplingParams(max_tokens=0)
            salt = self._salt(request.owner)
            sequences = [Sequence(p, params, BATCH, pooling=request.pooling, salt=salt) for p in prompts]
            pooling = Pooling(sequences)
            self._add(pooling)
            await pooling.done
            vectors = np.stack([_vector(sequence, request) for sequence in pooling.sequences])
            return Embeddings(vectors, sum(map(len, prompts)))
        finally:
            self._num_active -= 1
            if pooling is not None:
                self._close(pooling)

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Raises BadRequest, TextTooLong."""
        work = _work_on(request.prompt) if isinstance(request.prompt, str) else _work_of(request.prompt)
        return await aside(work, partial(self._tokenized, request))

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        """Raises BadRequest for ids that are no tokens."""
        return await aside(len(tokens) * TOKEN, partial(self._detokenized, tokens))

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        """Each token by itself. Raises BadRequest for ids that are no tokens."""
        return await aside(len(tokens) * TOKEN, partial(self._each_detokenized, tokens))

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        prompts = self._prompts
        return TokenizerInfo(
            bos_token=prompts.bos,
            eos_token=prompts.eos,
            pad_token=None,
            chat_template=self.model.chat_template,
            vocabulary=self._tokenizer.vocabulary,
        )

    def _tokenized(self, request: TokenizeRequest) -> list[int]:
        prompt, longest = request.prompt, self.settings.max_tokenize_bytes
        if isinstance(prompt, Conversation):
            # whatever could be answered can be counted
            longest = max(longest, self._tokenizer.bound.size(self.max_model_len))
            return self._prompts.counted(prompt, longest)
        check_size(prompt, longest, "prompt")
        return (
            self._tokenizer.encode_prompt(prompt)
            if request.add_special_tokens
            else self._tokenizer.encode(prompt)
        )

    def _detokenized(self, tokens: list[int]) -> str:
        if tokens:
            self._prompts.check_ids(tuple(tokens), "tokens")
        return self._tokenizer.decode(tokens)

    def _each_detokenized(self, tokens: list[int]) -> list[str]:
        if tokens:
            self._prompts.check_ids(tuple(tokens), "tokens")
        return [self._tokenizer.token_text(token) for token in tokens]

    def _load(self) -> Engine:
        from headrace.engine.load import load_engine

        model, settings = self.model, self.settings
        self._tokenizer = Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos)
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
        self._prompts = Prompts(model, self._tokenizer, min(longest, engine.max_tokens), self._tool_format)
        self._rules = Rules(self._tokenizer, model.eos_token_ids, self._prompts)
        marks = (__version__, model.name, model.quantization or "", str(settings.exact))
        fingerprint = "fp_" + hashlib.sha256("\0".join(marks).encode()).hexdigest()[:12]
        self._info = ModelInfo(
            model.name, "headrace", model.created, self.max_model_len, fingerprint, dict(self._recommended)
        )
        return engine

    def _salt(self, owner: str | None) -> bytes:
        """What keeps the cached prompts of one owner from being found by another."""
        if owner is None or self.settings.share_prefix_cache:
            return b""
        return hashlib.blake2b(owner.encode(), digest_size=16).digest()

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise EngineFailed("the engine has stopped; the server must be restarted")

    def _check_dimensions(self, request: EmbedRequest) -> None:
        width = self.engine.runner.width
        if request.dimensions is not None and request.dimensions > width:
            raise BadRequest(
                f"dimensions is {request.dimensions}, this model's vectors have {width}", param="dimensions"
            )

    def _take_places(self, count: int, param: str) -> None:
        places = self.settings.max_num_seqs + self.settings.max_queue
        if count > places:
            raise BadRequest(f"{count} answers are asked for, the server has {places} places", param=param)
        if self._num_active + count > places:
            waiting = max(0, self._num_active - self.settings.max_num_seqs)
            raise Overloaded(f"all {places} places are taken", retry_after_s=min(30, 1 + waiting // 8))
        self._num_active += count

    def _prepare(self, request: GenerateRequest) -> list[_Prepared]:
        """Everything about a request that may take a while, or be refused. One entry for each prompt."""
        asked, sampling = request.prompt, request.sampling
        self._check_ids(sampling)
        room = self._prompts.room(sampling.max_tokens, sampling.truncate_prompt_tokens)
        if isinstance(asked, Texts):
            prompts = self._prompts.of_texts(asked, room)
        else:
            prompts = [self._prompts.of_conversation(asked, room)]
        prepared = []
        for prompt in prompts:
            check_wanted()
            rules = self._rules.constraints(request, prompt)
            params = self._resolve(sampling, prompt, is_constrained=rules[0] is not None)
            prepared.append(_Prepared(prompt, params, rules))
        return prepared

    def _check_ids(self, sampling: Sampling) -> None:
        size = self._tokenizer.vocabulary
        bad = next((token for token, _ in sampling.logit_bias if token >= size), None)
        if bad is not None:
            raise _no_token(bad, size, f"logit_bias.{bad}")
        for index, token in enumerate(sampling.stop_token_ids):
            if token >= size:
                raise _no_token(token, size, f"stop_token_ids.{index}")

    def _embedded(self, request: EmbedRequest) -> list[list[int]]:
        keep, longest = request.truncate_prompt_tokens, self.max_model_len
        room = Room(longest, keep=longest if keep is not None and keep < 0 else keep)
        prompts = []
        for index, text in enumerate(request.inputs):
            check_wanted()
            prompts.append(self._prompts.of_text(text, f"input.{index}", room))
        return prompts

    def _open(self, prepared: list[_Prepared], request: GenerateRequest) -> Stream:
        choices = []
        for number, (prompt, params, rules) in enumerate((p.prompt, p.params, p.rules) for p in prepared):
            leader: Sequence | None = None
            reading = self._reading(prompt, request)
            for index in range(request.n):
                tokens, asked = (
                    list(prompt.tokens),
                    replace(params, prompt_logprobs=False) if leader else params,
                )
                sequence = Sequence(
                    tokens, asked, request.priority, index, leader, rules[index],
                    salt=self._salt(request.owner),
                )  # fmt: skip
                leader = leader or sequence
                choices.append(Choice(sequence, number * request.n + index, reading, prompt.echo))
        stream = Stream(choices, self._thread_of().abort)
        self._add(stream)
        return stream

    def _reading(self, prompt: Prompt, request: GenerateRequest) -> Reading:
        prompts, tools, thinking, is_open = (
            self._prompts,
            prompt.tools,
            self._prompts.thinking,
            prompt.is_open,
        )
        asked = request.prompt
        is_forced = bool(tools) and isinstance(asked, Conversation) and asked.tool_choice.mode == "required"
        return Reading(
            self._tokenizer,
            () if is_forced else request.sampling.stop,  # a forced call has no text that could be stopped
            prompts.shown(all_special=not request.sampling.skip_special_tokens, tools=bool(tools)),
            (lambda: Splitter(thinking, is_open=bool(is_open))) if thinking and is_open is not None else None,
            (lambda: prompts.tool_format.parser(tools)) if tools else None,
        )

    def _resolve(self, asked: Sampling, prompt: Prompt, *, is_constrained: bool) -> SamplingParams:
        """asked for → recommended by the model → OpenAI's default."""
        room = self.max_model_len - len(prompt.tokens)
        if asked.max_tokens is not None and asked.min_tokens > asked.max_tokens:
            raise BadRequest("min_tokens is more than max_tokens", param="min_tokens")

        def first(given: float | None, name: str, default: float) -> float:
            return given if given is not None else float(self._recommended.get(name, default))

        max_tokens = room if asked.max_tokens is None else min(asked.max_tokens, room)
        # what has a form ends where the form does; until then an end is as good as impossible
        goes_on = asked.ignore_eos and is_constrained
        ends = () if asked.ignore_eos and not is_constrained else self.model.eos_token_ids
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=first(asked.temperature, "temperature", 1.0),
            top_p=first(asked.top_p, "top_p", 1.0),
            top_k=int(first(asked.top_k, "top_k", 0)),
            min_p=first(asked.min_p, "min_p", 0.0),
            frequency_penalty=asked.frequency_penalty,
            presence_penalty=asked.presence_penalty,
            repetition_penalty=first(asked.repetition_penalty, "repetition_penalty", 1.0),
            logit_bias=asked.logit_bias,
            seed=asked.seed,
            stop_token_ids=frozenset((*ends, *asked.stop_token_ids)),
            min_tokens=max_tokens if goes_on else asked.min_tokens,
            logprobs=asked.logprobs,
            prompt_logprobs=prompt.echo is not None and asked.logprobs is not None,
        )

    def _add(self, waiter: Waiter) -> None:
        for sequence in waiter.sequences:
            self._waiters[sequence] = waiter
            self._thread_of().add(sequence)

    def _close(self, waiter: Waiter) -> None:
        for sequence in waiter.sequences:
            del self._waiters[sequence]
            if sequence.finish_reason is None and self._thread is not None:
                self._thread.abort(sequence)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            waiter = self._waiters.get(output.sequence)
            if waiter is not None:
                waiter.push(output)

    def _on_death(self, exc: BaseException) -> None:
        for waiter in set(self._waiters.values()):
            waiter.fail(EngineFailed("the engine has stopped"))

    def _thread_of(self) -> EngineThread:
        assert self._thread is not None, "start() comes first"
        return self._thread


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One prompt, ready to run: `rules` has a constraint, or None, for each of its answers."""

    prompt: Prompt
    params: SamplingParams
    rules: list[Constraint | None]


def _no_token(token: int, vocabulary: int, param: str) -> BadRequest:
    return BadRequest(f"{param}: {token} is no token of this model, which has {vocabulary}", param=param)


def _work(request: GenerateRequest) -> int:
    """What preparing it costs. A grammar is always compiled in a thread."""
    prompt, sampling = request.prompt, request.sampling
    listed = len(sampling.logit_bias) + len(sampling.stop_token_ids) + sum(map(len, sampling.stop))
    if request.format is not None:
        return COMPILED
    if isinstance(prompt, Texts):
        return _work_on(*prompt.prompts, prompt.suffix or "") + listed * TOKEN
    return _work_of(prompt) + listed * TOKEN


def _work_of(asked: Conversation) -> int:
    if asked.tools or asked.template_kwargs:
        return COMPILED
    texts = sum(len(message.text) + len(message.reasoning or "") for message in asked.messages)
    calls = sum(len(call.arguments) for message in asked.messages for call in message.tool_calls)
    return (texts + calls) * CHARACTER + len(asked.messages) * MESSAGE


def _work_on(*texts: str | tuple[int, ...]) -> int:
    return sum(map(len, texts)) * CHARACTER + len(texts) * TOKEN


def _vector(sequence: Sequence, request: EmbedRequest) -> NDArray[np.float32]:
    """float32[dimensions]: pooled, cut off, and of length 1 if that is asked for."""
    assert sequence.pooled is not None
    vector = sequence.pooled / (sequence.num_prompt if request.pooling == "mean" else 1)
    vector = vector[: request.dimensions]
    length = np.linalg.norm(vector)
    if request.normalize and length:
        vector = vector / length
    return vector.astype(np.float32)
