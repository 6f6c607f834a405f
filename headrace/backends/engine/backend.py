"""Our own engine as a backend: text in, text out, over one engine thread. Tokens are its business, HTTP is
not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from headrace import __version__
from headrace.backends.annotations import unenforced
from headrace.backends.engine import costs
from headrace.backends.engine.choice import Choice, Reading
from headrace.backends.engine.places import Places
from headrace.backends.engine.prompt import Prompt, Prompts, Room
from headrace.backends.engine.rules import Rules
from headrace.backends.engine.settings import EngineSettings
from headrace.backends.engine.stream import Pooling, Stream, Waiter
from headrace.backends.engine.thread import EngineThread
from headrace.backends.engine_features import FEATURES
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import BATCH, Constraint, SamplingParams, Sequence
from headrace.errors import BadRequest, EngineFailed
from headrace.features import NONE, Feature
from headrace.models.catalog import Model
from headrace.noted import noted
from headrace.offload import aside, check_wanted
from headrace.text.bounds import check_size
from headrace.text.reasoning import Splitter
from headrace.text.stops import NO_STOPS, Stops
from headrace.text.tokenizer import Tokenizer
from headrace.text.toolcalls import Parser
from headrace.types import (
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

MAX_CHOICES = 1024  # of one request: its prompts, each n times


class EngineBackend:
    """One local model. Heavy libraries are loaded in `start`."""

    features = FEATURES
    by_us = FEATURES
    unsent = NONE

    def __init__(self, model: Model, settings: EngineSettings, tool_format: str | None = None) -> None:
        """`tool_format`: a key of toolcalls.FORMATS; None: the one that the chat template means."""
        self.model, self.settings, self._tool_format = model, settings, tool_format
        self._recommended = model.sampling if settings.use_generation_config else {}
        self._waiters: dict[Sequence, Waiter] = {}
        self._places = Places(settings.max_num_seqs, settings.max_queue, self._begin)
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

    def features_of(self, model: str) -> frozenset[Feature]:
        return self.features

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
        if request.num_choices > MAX_CHOICES:
            raise BadRequest(
                f"{request.num_choices} answers are asked for; a request may have {MAX_CHOICES}",
                param="n" if request.n > 1 else "prompt",
            )
        async with self._placed() as enter:
            prepared = await aside(costs.of_request(request), partial(self._prepare, request))
            stream = Stream(self._choices(prepared, request), request.num_choices, self._thread_of().abort)
            enter(stream)
            yield noted(stream, unenforced(request))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The scheduler takes its inputs in behind the conversations. Raises BadRequest, ContextTooLong,
        Overloaded, EngineFailed.
        """
        self._check_alive()
        self._check_dimensions(request)
        async with self._placed() as enter:
            prompts = await aside(costs.of_texts(*request.inputs), partial(self._embedded, request))
            params = SamplingParams(max_tokens=0, invariant=self.settings.deterministic)
            salt = self._salt(request.owner)
            sequences = (Sequence(p, params, BATCH, pooling=request.pooling, salt=salt) for p in prompts)
            pooling = Pooling(sequences, len(prompts))
            enter(pooling)
            await pooling.done
            vectors = np.stack([_vector(sequence, request) for sequence in pooling.sequences])
            return Embeddings(vectors, sum(map(len, prompts)))

    @asynccontextmanager
    async def _placed(self) -> AsyncIterator[Callable[[Waiter], None]]:
        """A place, to be entered with a waiter; all that it holds is free after the block."""
        self._places.take()
        entered: list[Waiter] = []

        def enter(waiter: Waiter) -> None:
            self._check_alive()  # one that enters after the thread's death would hear of nothing
            entered.append(waiter)
            self._places.enter(waiter)

        try:
            yield enter
        finally:
            if entered:
                self._close(entered[0])
            else:
                self._places.release()

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Raises BadRequest, TextTooLong."""
        work = (
            costs.of_texts(request.prompt)
            if isinstance(request.prompt, str)
            else costs.of_conversation(request.prompt)
        )
        return await aside(work, partial(self._tokenized, request))

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        """Raises BadRequest for ids that are no tokens."""
        return await aside(len(tokens) * costs.TOKEN, partial(self._detokenized, tokens))

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        """Each token by itself. Raises BadRequest for ids that are no tokens."""
        return await aside(len(tokens) * costs.TOKEN, partial(self._each_detokenized, tokens))

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

    def _prepare(self, request: GenerateRequest) -> list[_Prepared]:
        """Everything about a request that may take a while, or be refused. One entry for each prompt."""
        asked, sampling = request.prompt, request.sampling
        self._check_ids(sampling)
        room = self._prompts.room(sampling.max_tokens, sampling.truncate_prompt_tokens)
        if isinstance(asked, Texts):
            prompts = self._prompts.of_texts(asked, room)
        else:
            prompts = [self._prompts.of_conversation(asked, room)]
        stops, prepared = Stops(sampling.stop), []
        for prompt in prompts:
            check_wanted()
            rules = self._rules.constraints(request, prompt)
            is_constrained = rules[0] is not None
            params = self._resolve(sampling, prompt, is_constrained=is_constrained)
            is_formed = is_constrained and request.format is not None
            reading = self._reading(prompt, request, stops, is_constrained=is_formed)
            prepared.append(_Prepared(prompt, params, rules, reading))
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

    def _choices(self, prepared: list[_Prepared], request: GenerateRequest) -> Iterator[Choice]:
        """Made one by one, as each begins."""
        salt = self._salt(request.owner)
        for number, one in enumerate(prepared):
            prompt, params, leader = one.prompt, one.params, None
            for index, rule in enumerate(one.rules):
                tokens = list(prompt.tokens)
                sequence = Sequence(tokens, params, request.priority, index, leader, rule, salt=salt)
                yield Choice(sequence, number * request.n + index, one.reading, prompt.echo)
                if leader is None:
                    leader, params = sequence, replace(params, prompt_logprobs=False)

    def _reading(
        self, prompt: Prompt, request: GenerateRequest, stops: Stops, *, is_constrained: bool
    ) -> Reading:
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
            NO_STOPS if is_forced else stops,  # a forced call has no text that could be stopped
            prompts.shown(all_special=not request.sampling.skip_special_tokens, tools=bool(tools)),
            (lambda: Splitter(thinking, is_open=bool(is_open))) if thinking and is_open is not None else None,
            (lambda: Parser(prompts.tool_format, tools)) if tools else None,
            is_forced,
            self._loop_tokens(request.sampling, is_constrained=is_constrained or is_forced),
        )

    def _loop_tokens(self, asked: Sampling, *, is_constrained: bool) -> int:
        """After how many tokens of a loop the answer is ended; 0: never. A form may want the same again and
        again, and who names a length may have it.
        """
        if is_constrained or asked.ignore_eos or asked.min_tokens or asked.detect_loops is False:
            return 0
        return self.settings.loop_tokens if asked.max_tokens is None or asked.detect_loops else 0

    def _resolve(self, asked: Sampling, prompt: Prompt, *, is_constrained: bool) -> SamplingParams:
        """asked for → recommended by the model → OpenAI's default."""
        room = self.max_model_len - len(prompt.tokens)
        if asked.max_tokens is not None and asked.min_tokens > asked.max_tokens:
            raise BadRequest("min_tokens is more than max_tokens", param="min_tokens")

        def first(given: float | None, name: str, default: float) -> float:
            return given if given is not None else float(self._recommended.get(name, default))

        limit = self.settings.max_tokens_default or room if asked.max_tokens is None else asked.max_tokens
        max_tokens = min(max(limit, asked.min_tokens), room)
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
            invariant=self.settings.deterministic or asked.seed is not None,
            stop_token_ids=frozenset((*ends, *asked.stop_token_ids)),
            min_tokens=max_tokens if goes_on else asked.min_tokens,
            logprobs=asked.logprobs,
            prompt_logprobs=prompt.echo is not None and asked.logprobs is not None,
        )

    def _begin(self, waiter: Waiter) -> None:
        sequence = waiter.begin()
        self._waiters[sequence] = waiter
        self._thread_of().add(sequence)

    def _close(self, waiter: Waiter) -> None:
        for sequence in waiter.running:
            del self._waiters[sequence]
            if self._thread is not None:
                self._thread.abort(sequence)
        self._places.leave(waiter)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            waiter = self._waiters.get(output.sequence)
            if waiter is not None and waiter.push(output):
                del self._waiters[output.sequence]
                self._places.ended(waiter)

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
    reading: Reading


def _no_token(token: int, vocabulary: int, param: str) -> BadRequest:
    return BadRequest(f"{param}: {token} is no token of this model, which has {vocabulary}", param=param)


def _vector(sequence: Sequence, request: EmbedRequest) -> NDArray[np.float32]:
    """float32[dimensions]: pooled, cut off, and of length 1 if that is asked for."""
    assert sequence.pooled is not None
    vector = sequence.pooled / (sequence.num_prompt if request.pooling == "mean" else 1)
    vector = vector[: request.dimensions]
    length = np.linalg.norm(vector)
    if request.normalize and length:
        vector = vector / length
    return vector.astype(np.float32)
