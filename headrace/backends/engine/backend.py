"""Our own engine as a backend: text in, events out, over one engine thread. Tokens are its business, HTTP is
not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace import __version__
from headrace.backend_types import Backend, EngineStats, with_ignored
from headrace.backends.concurrency import Places, check_choices
from headrace.backends.engine.choice import Choice
from headrace.backends.engine.editor import EngineEditor, ordinary_text
from headrace.backends.engine.judge import probability
from headrace.backends.engine.preparation import (
    TOKEN,
    EngineSettings,
    Preparation,
    cost_of_ranking,
    cost_of_request,
    cost_of_texts,
    cost_of_tokenizing,
)
from headrace.backends.engine.prompt import Prompts
from headrace.backends.engine.steering import Steerer
from headrace.backends.engine.stream import Compared, Pooling, Stream, Waiter
from headrace.backends.engine.thread import EngineThread
from headrace.backends.model_card import card_of
from headrace.backends.ranking import by_embeddings
from headrace.encoder_types import Ranking, RerankRequest
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import Sequence
from headrace.errors import BadRequest, ConfigError, EngineFailed, Overloaded, ServerError
from headrace.features import OWN_ENGINE
from headrace.free_memory import trim
from headrace.models.catalog import Model
from headrace.offload import aside
from headrace.steering.library import ModelLibrary
from headrace.steering.types import Capture, Condition, SteeringRequest
from headrace.text.structured.formats import unenforced
from headrace.text.tokenizer import Tokenizer
from headrace.types import (
    TEXT_ONLY,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelCard,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
)

VECTOR = 1024  # the work of scaling an embedding, in bytes, the unit of `aside`


class EngineBackend(Backend):
    """One local model. Heavy libraries are loaded in `start`."""

    features = OWN_ENGINE
    by_us = OWN_ENGINE

    def __init__(self, model: Model, settings: EngineSettings, tool_format: str | None = None) -> None:
        """`tool_format`: a key of toolcalls.FORMATS; None: the format that the chat template uses."""
        super().__init__("headrace")
        self.model, self.settings, self._tool_format = model, settings, tool_format
        self._waiters: dict[Sequence, Waiter[Any]] = {}  # every sequence that the engine has, until it ends
        self._places = Places(settings.max_num_seqs, settings.max_queue, self._begin)
        self._thread: EngineThread | None = None
        self._card = card_of(model, self.features)

    async def start(self) -> None:
        engine = await asyncio.to_thread(self._load)
        self.engine = engine
        self._thread = EngineThread(engine, deliver=self._deliver, died=self._on_death)
        await asyncio.to_thread(self._attach, self.settings.steering_attach)

    async def aclose(self) -> None:
        if self._thread is not None:
            was_alive = self._thread.is_alive
            await asyncio.to_thread(self._thread.stop)
            if was_alive:  # else its blocks are not to be trusted
                await asyncio.to_thread(self.engine.close)

    def card(self, model: str) -> ModelCard:
        return self._card

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together; known once started."""
        return self._prompts.max_model_len

    @property
    def is_alive(self) -> bool:
        thread, limit_s = self._thread, self.settings.stall_s
        if thread is None or not thread.is_alive:
            return False
        return not limit_s or thread.stalled_s < limit_s

    @property
    def has_ended(self) -> bool:
        """Whether the engine's thread has died."""
        return self._thread is not None and not self._thread.is_alive

    def stats(self) -> EngineStats | None:
        """The state of the engine; None before it has started."""
        if self._thread is None:
            return None
        scheduler, pool = self.engine.scheduler, self.engine.pool
        return EngineStats(
            self.model.name,
            len(scheduler.running),
            scheduler.num_waiting,
            pool.num_held / pool.num_blocks,
            self._thread.stalled_s,
            asdict(scheduler.counters),
            self.engine.step_tokens,
            self.engine.token_gaps,
            {
                "block_size": str(pool.block_size),
                "num_gpu_blocks": str(pool.num_blocks),
                "cache_dtype": self.settings.kv_cache_dtype,
                "enable_prefix_caching": "True",
            },
        )

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        """Answer a request: a context with the iterator of its events. Raises BadRequest, ContextTooLong,
        Overloaded, EngineFailed.
        """
        self._check_alive()
        check_choices(request)
        if request.steering is not None and request.steering.when is not None:
            request = await self._measured(request, request.steering, request.steering.when)
        async with self._placed(request.flow) as enter:
            prepared = await aside(cost_of_request(request), partial(self._preparation.prompts, request))
            diverges = request.steering is not None and request.steering.has_divergence
            started: list[Choice] | None = [] if diverges else None
            choices = self._preparation.choices(prepared, request, started)
            stream = Stream(choices, request.num_choices, self._thread_of().abort, request.flow)
            enter(stream)
            receipt = prepared[0].steered.receipts[0]
            fingerprint = None if receipt is None else receipt.fingerprint
            events = stream if started is None else Compared(stream, started, self._divergence)
            yield with_ignored(events, unenforced(request), fingerprint)

    async def _divergence(self, choice: Choice) -> float | None:
        """How far a steered answer is from unsteered ones, whose logits are computed now; None: it is not
        edited, or there is no place to compute them.
        """
        sequence = choice.sequence
        if sequence.divergence is None or not choice.num_tokens:
            return None
        num_tokens = min(choice.num_tokens, sequence.divergence.num_kept)
        twin = self._preparation.twin(sequence, num_tokens)
        try:
            async with self._placed(sequence.flow) as enter:
                measuring = Pooling(iter((twin,)), 1, sequence.flow)
                enter(measuring)
                await measuring.done
        except Overloaded:
            return None
        return sequence.divergence.mean()

    async def _measured(
        self, request: GenerateRequest, steering: SteeringRequest, when: Condition
    ) -> GenerateRequest:
        """The request with what its condition depends on, measured on its prompts as they are unsteered. They
        go into the prefix cache; so an answer that is not steered, or only later, computes them once.
        """
        async with self._placed(request.flow) as enter:
            work = cost_of_request(request)
            measurements = await aside(work, partial(self._preparation.measurements, request, when))
            measuring = Pooling((sequence for sequence, _ in measurements), len(measurements), request.flow)
            enter(measuring)
            await measuring.done
        when = replace(when, measured=tuple(prober.peak for _, prober in measurements))
        return replace(request, steering=replace(steering, when=when))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Embed the inputs; conversations come first. Raises BadRequest, ContextTooLong, Overloaded,
        EngineFailed.
        """
        self._check_alive()
        self._check_embedding(request)
        async with self._placed(request.flow) as enter:
            inputs = await aside(cost_of_texts(*request.inputs), partial(self._preparation.inputs, request))
            pooling = Pooling(self._preparation.embeddings(inputs, request), len(inputs), request.flow)
            enter(pooling)
            await pooling.done
            fit = partial(_vectors, pooling.sequences, request)
            return Embeddings(await aside(VECTOR * len(inputs), fit), sum(map(len, inputs)))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Score the documents as a judge, all in one step where they fit; by embeddings if the model has no
        chat template. Raises BadRequest, ContextTooLong, Overloaded, EngineFailed.
        """
        self._check_alive()
        async with self._placed(request.flow) as enter:
            work = cost_of_ranking(request)
            questions = await aside(work, partial(self._preparation.questions, request))
            if questions is not None:
                sequences = self._preparation.judgements(questions, request)
                judging = Pooling(sequences, len(questions), request.flow)
                enter(judging)
                await judging.done
                scores = tuple(probability(sequence.watched_logits) for sequence in judging.sequences)
                return Ranking(scores, "judge", sum(map(len, questions)))
        return await by_embeddings(self.embed, request)

    @asynccontextmanager
    async def _placed(self, flow: str) -> AsyncIterator[Callable[[Waiter[Any]], None]]:
        """Take a place for the block. The block calls `enter` with its waiter, once, to start its sequences;
        afterwards all its places and sequences are released.
        """
        self._places.take(flow)
        entered: list[Waiter[Any]] = []

        def enter(waiter: Waiter[Any]) -> None:
            # The thread may have died while the request was prepared. _on_death has already informed all
            # waiters, so one that entered now would wait forever.
            self._check_alive()
            entered.append(waiter)
            self._places.enter(waiter)

        try:
            yield enter
        finally:
            if entered:
                self._close(entered[0])
            else:
                self._places.release(flow)

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """The token ids of a text or of a rendered conversation. Raises BadRequest, TextTooLong."""
        return await aside(cost_of_tokenizing(request), partial(self._preparation.tokenize, request))

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        """Raises BadRequest for ids that are not tokens of the model."""
        return await aside(len(tokens) * TOKEN, partial(self._preparation.detokenize, tokens))

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        """The text of each token by itself. Raises BadRequest for ids that are not tokens of the model."""
        return await aside(len(tokens) * TOKEN, partial(self._preparation.token_texts, tokens))

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        prompts = self._prompts
        return TokenizerInfo(
            bos_token=prompts.bos,
            eos_token=prompts.eos,
            pad_token=None,
            chat_template=self.model.chat_template,
            vocabulary=prompts.tokenizer.vocabulary,
        )

    def _load(self) -> Engine:
        from headrace.engine.load import load_engine

        model, settings = self.model, self.settings
        tokenizer = Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos)
        longest = min(settings.max_model_len or model.context_length, model.context_length)
        engine = load_engine(
            model.folder,
            max_model_len=longest,
            kv_cache_bytes=settings.kv_cache_bytes,
            kv_cache_dtype=settings.kv_cache_dtype,
            max_num_seqs=settings.max_num_seqs,
            max_batch_tokens=settings.max_batch_tokens,
            num_threads=settings.num_threads,
            exact=settings.exact,
            speculates=settings.speculates,
            phrases=model.phrases,
            disk_cache=settings.disk_cache,
            disk_cache_bytes=settings.disk_cache_bytes,
            torch=settings.torch if model.is_checkpoint else None,
        )
        self._prompts = Prompts(model, tokenizer, min(longest, engine.max_tokens), self._tool_format)
        self._library = self._create_library(engine, tokenizer)
        steerer = Steerer(self._library, self._prompts, settings.max_dose)
        self._preparation = Preparation(model, settings, tokenizer, self._prompts, steerer)
        fingerprint, sampling = _fingerprint(model, exact=settings.exact), dict(self._preparation.recommended)
        self._models = [
            ModelInfo(
                model.name,
                self.name,
                model.created,
                self.max_model_len,
                fingerprint,
                sampling,
                runner=engine.runner.name,
                modalities=TEXT_ONLY,
            )
        ]
        trim()  # loading needed more than running does
        return engine

    def _create_library(self, engine: Engine, tokenizer: Tokenizer) -> ModelLibrary:
        """What the model can be steered with: nothing yet."""
        editor = EngineEditor(engine, self._thread_of, lambda: ordinary_text(tokenizer), self.settings.norms)
        runner = engine.runner
        return ModelLibrary(
            self.model.name,
            runner.width,
            runner.num_layers,
            self.settings.steering_root,
            editor,
            partial(self._capture, engine),
        )

    def _capture(self, engine: Engine) -> Capture:
        from headrace.backends.engine.capture import capture_of

        return capture_of(self.model, engine, self._thread_of())

    def _attach(self, names: tuple[str, ...]) -> None:
        """Attach these SAEs and vectors. Raises ConfigError."""
        for name in names:
            try:
                self._library.open(name)
            except ServerError as exc:
                raise ConfigError(f"steering.attach: {name}: {exc.message}") from exc

    def library(self, model: str) -> ModelLibrary:
        return self._library

    def _check_alive(self) -> None:
        if self._thread is None or not self._thread.is_alive:
            raise EngineFailed("the engine has stopped")

    def _check_embedding(self, request: EmbedRequest) -> None:
        """Raise BadRequest for options that only embedding models have."""
        if request.prompt_name is not None:
            raise BadRequest.at("prompt_name", f"{request.model} has no prompts of its own")
        width = self.engine.runner.width
        if request.dimensions is not None and request.dimensions > width:
            raise BadRequest(
                f"dimensions is {request.dimensions}, this model's vectors have {width}", param="dimensions"
            )

    def _begin(self, waiter: Waiter[Any]) -> None:
        """Start a waiter's next sequence. Called by Places when there is a place for it."""
        sequence = waiter.begin()
        self._waiters[sequence] = waiter
        self._thread_of().add(sequence)

    def _close(self, waiter: Waiter[Any]) -> None:
        for sequence in waiter.running:
            del self._waiters[sequence]
            if self._thread is not None:
                self._thread.abort(sequence)
        self._places.leave(waiter)

    def _deliver(self, outputs: list[Output]) -> None:
        """Pass a step's outputs to the waiters, except those of sequences that were aborted meanwhile."""
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


def _fingerprint(model: Model, *, exact: bool) -> str:
    """OpenAI's system_fingerprint: it changes with whatever may change the model's answers."""
    parts = (__version__, model.name, model.quantization or "", str(exact))
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _vectors(sequences: Iterable[Sequence], request: EmbedRequest) -> NDArray[np.float32]:
    return np.stack([_vector(sequence, request) for sequence in sequences])


def _vector(sequence: Sequence, request: EmbedRequest) -> NDArray[np.float32]:
    """The embedding, float32[dimensions]: pooled, truncated, and of length 1 if the request normalizes."""
    assert sequence.pooled is not None
    vector = sequence.pooled / (sequence.num_prompt if sequence.pooling == "mean" else 1)
    vector = vector[: request.dimensions]
    length = np.linalg.norm(vector)
    if request.normalize is not False and length:
        vector = vector / length
    return vector.astype(np.float32)
