"""Turns requests into the engine's sequences: prompts, sampling parameters, constraints, and how the answers
are read. It may take long and runs in a thread; it refuses what the model cannot do. How long is estimated in
headrace.offload's unit (bytes of text): work of more than a few milliseconds is moved to a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from headrace.backends.engine.choice import AnswerOptions, Choice
from headrace.backends.engine.judge import judge_of
from headrace.backends.engine.prompt import Prompt, Prompts, Room
from headrace.backends.engine.rules import Rules
from headrace.backends.engine.steering import Steered, Steerer
from headrace.config.memory import CacheType
from headrace.encoder_types import RerankRequest
from headrace.engine.probing import COMPARED, Divergence, PeakProber
from headrace.engine.sequence import BATCH, Constraint, SamplingParams, Sequence
from headrace.engine.torch.options import TorchOptions
from headrace.errors import BadRequest
from headrace.models.catalog import Model
from headrace.offload import SMALL, check_wanted
from headrace.steering.types import Condition
from headrace.text.bounds import check_size
from headrace.text.reasoning import Splitter
from headrace.text.stops import NO_STOPS, Stops
from headrace.text.tokenizer import Tokenizer
from headrace.text.toolcalls import Parser
from headrace.types import Conversation, EmbedRequest, GenerateRequest, Sampling, Texts, TokenizeRequest

CHARACTER, TOKEN, MESSAGE = 64, 16, 2048  # of each character, token id, text or message, and edit of a layer
COMPILED = SMALL + 1  # of grammars, and of templates with variables of the caller: always in a thread


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the configuration sets for one engine."""

    max_model_len: int = 0  # 0: the model's own
    kv_cache_bytes: int = 0  # 0: a share of the free memory
    kv_cache_dtype: CacheType = "auto"
    max_num_seqs: int = 32
    max_queue: int = 256
    max_batch_tokens: int = 512
    num_threads: int = 0
    exact: bool = False
    torch: TorchOptions = field(default_factory=TorchOptions)  # for folders of safetensors
    use_generation_config: bool = True
    max_tokens_default: int = 0  # of an answer whose request sets no limit; 0: what fits
    loop_tokens: int = 1024  # length of a loop that ends an answer without a limit; 0: never
    deterministic: bool = False  # compute every request as if it had a seed
    speculates: bool = True  # compute guesses of the next tokens, too
    max_tokenize_bytes: int = 2**20  # limit of /tokenize
    disk_cache: Path | None = None  # the folder for prefix blocks that leave the memory; None: nowhere
    disk_cache_bytes: int = 0  # what that folder may hold, of all models; 0: nothing
    share_prefix_cache: bool = False  # between owners (API keys)
    steering_root: Path = Path()  # SAEs and control vectors are read from files below it
    steering_attach: tuple[str, ...] = ()  # names of those that are attached from the start
    norms: Path | None = None  # the folder for measured norms of hidden states; None: measured at each start
    max_dose: float = inf  # of a request's edits at one layer, in median norms of the hidden states
    stall_s: float = 0.0  # without a finished step, while there is work: then it is not alive; 0: never


@dataclass(frozen=True, slots=True)
class Prepared:
    """One prompt with all that its answers need. `constraints`: one for each answer; None: anything."""

    prompt: Prompt
    params: SamplingParams  # of the first answer, which scores the prompt if that is wanted
    unscored: SamplingParams  # of the others
    constraints: list[Constraint | None]
    options: AnswerOptions
    prediction: list[int]  # tokens that the answers may repeat
    steered: Steered


Measurement = tuple[Sequence, PeakProber]


class Preparation:
    """Prepares the requests to one loaded model. Methods raise BadRequest, ContextTooLong, TextTooLong."""

    def __init__(
        self, model: Model, settings: EngineSettings, tokenizer: Tokenizer, prompts: Prompts, steerer: Steerer
    ) -> None:
        self._model, self._settings, self._tokenizer, self._prompts = model, settings, tokenizer, prompts
        self._steerer = steerer
        self._rules = Rules(tokenizer, model.eos_token_ids, prompts)
        self._judge = judge_of(prompts)
        self.recommended: Mapping[str, float] = model.sampling if settings.use_generation_config else {}

    def prompts(self, request: GenerateRequest) -> list[Prepared]:
        """Tokenize the request's prompts, and compile what constrains and steers their answers."""
        sampling = request.sampling
        self._check_ids(sampling)
        prompts = self._written(request)
        stops, prediction, prepared = Stops(sampling.stop), self._predicted(request.prediction), []
        resolved = self._steerer.resolve(request)
        for place, prompt in enumerate(prompts):
            check_wanted()
            constraints = self._rules.constraints(request, prompt)
            is_constrained = constraints[0] is not None
            params = self._params(request, prompt, is_constrained=is_constrained)
            has_format = is_constrained and request.format is not None
            options = self._options(prompt, request, stops, has_format=has_format)
            is_formed = has_format or options.is_forced
            steered = self._steerer.steered(request, prompt, resolved, is_formed=is_formed, place=place)
            unscored = replace(params, prompt_logprobs=False) if params.prompt_logprobs else params
            prepared.append(Prepared(prompt, params, unscored, constraints, options, prediction, steered))
        return prepared

    def _written(self, request: GenerateRequest) -> list[Prompt]:
        sampling, content = request.sampling, request.prompt
        room = self._prompts.room(sampling.max_tokens, sampling.truncate_prompt_tokens)
        if isinstance(content, Texts):
            return self._prompts.of_texts(content, room)
        return [self._prompts.of_conversation(content, room)]

    def measurements(self, request: GenerateRequest, condition: Condition) -> list[Measurement]:
        """Sequences that measure what the request's condition depends on, one for each prompt, with what
        keeps the result.
        """
        is_invariant = self._settings.deterministic or request.sampling.seed is not None
        params, salt, measurements = SamplingParams(0, invariant=is_invariant), self._salt(request.owner), []
        for prompt in self._written(request):
            prober = self._steerer.peak_prober(condition)
            sequence = Sequence(
                list(prompt.tokens), params, request.priority, salt=salt, flow=request.flow, probers=(prober,)
            )
            measurements.append((sequence, prober))
        return measurements

    def choices(
        self, prepared: list[Prepared], request: GenerateRequest, started: list[Choice] | None
    ) -> Iterator[Choice]:
        """Create the request's sequences one by one, as each is started: all `n` of a prompt, then the next
        prompt's. `started` gets each; None: those that have ended need not stay in memory.
        """
        salt, most = self._salt(request.owner), max(1, COMPARED // request.num_choices)
        for number, entry in enumerate(prepared):
            prompt, params, leader = entry.prompt, entry.params, None
            for index, constraint in enumerate(entry.constraints):
                tokens, steered = list(prompt.tokens), entry.steered
                guard = steered.guard()
                sequence = Sequence(
                    tokens, params, request.priority, index, leader, constraint,
                    salt=salt, prediction=entry.prediction, plan=steered.plans[index],
                    watch=steered.watch(), flow=request.flow,
                    probers=steered.probers if guard is None else (*steered.probers, guard), guard=guard,
                    achieved=steered.achieved(steered.plans[index]),
                    divergence=Divergence(most) if steered.diverges and steered.plans[index] else None,
                )  # fmt: skip
                receipt, place = steered.receipts[index], number * request.n + index
                choice = Choice(sequence, place, entry.options, prompt.echo, receipt)
                if started is not None:
                    started.append(choice)
                yield choice
                leader, params = leader or sequence, entry.unscored

    def twin(self, sequence: Sequence, num_tokens: int) -> Sequence:
        """The sequence that computes a steered answer of so many tokens again, unsteered, to compare it."""
        tokens = sequence.tokens[: sequence.num_prompt + num_tokens]
        params = SamplingParams(0, prompt_logprobs=True, invariant=sequence.params.invariant)
        return Sequence(
            tokens, params, sequence.priority, salt=sequence.salt, flow=sequence.flow, twin=sequence
        )

    def inputs(self, request: EmbedRequest) -> list[list[int]]:
        """The token ids of each input."""
        keep, longest = request.truncate_prompt_tokens, self._prompts.max_model_len
        room = Room(longest, keep=longest if keep is not None and keep < 0 else keep)
        inputs = []
        for index, text in enumerate(request.inputs):
            check_wanted()
            inputs.append(self._prompts.of_text(text, f"input.{index}", room))
        return inputs

    def embeddings(self, inputs: list[list[int]], request: EmbedRequest) -> Iterator[Sequence]:
        """Create the sequences that embed the inputs, as each is started. Conversations come before them."""
        params = SamplingParams(max_tokens=0, invariant=self._settings.deterministic)
        salt, pooling = self._salt(request.owner), request.pooling or "mean"
        return (
            Sequence(tokens, params, BATCH, pooling=pooling, flow=request.flow, salt=salt)
            for tokens in inputs
        )

    def questions(self, request: RerankRequest) -> list[list[int]] | None:
        """For each document, the token ids of the prompt that asks whether it is relevant; None if the model
        has no tokens for yes and no.
        """
        return None if self._judge is None else self._judge.questions(request)

    def judgements(self, questions: list[list[int]], request: RerankRequest) -> Iterator[Sequence]:
        """Create the sequences that answer the questions, as each is started."""
        assert self._judge is not None
        salt, invariant = self._salt(request.owner), self._settings.deterministic
        return self._judge.sequences(questions, invariant=invariant, salt=salt, flow=request.flow)

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        prompt, max_bytes = request.prompt, self._settings.max_tokenize_bytes
        if isinstance(prompt, Conversation):
            # Every conversation that can be answered can be counted too.
            max_bytes = max(max_bytes, self._tokenizer.bound.size(self._prompts.max_model_len))
            return self._prompts.counted(prompt, max_bytes)
        check_size(prompt, max_bytes, "prompt")
        return (
            self._tokenizer.encode_prompt(prompt)
            if request.add_special_tokens
            else self._tokenizer.encode(prompt)
        )

    def detokenize(self, tokens: list[int]) -> str:
        self._check_tokens(tokens)
        return self._tokenizer.decode(tokens)

    def token_texts(self, tokens: list[int]) -> list[str]:
        self._check_tokens(tokens)
        return [self._tokenizer.shown([token]) for token in tokens]

    def _predicted(self, text: str) -> list[int]:
        """The tokens of a prediction, as many as an answer can have."""
        longest = self._prompts.max_model_len
        return self._tokenizer.encode(text, longest)[:longest] if text else []

    def _check_tokens(self, tokens: list[int]) -> None:
        if tokens:
            self._prompts.check_ids(tuple(tokens), "tokens")

    def _check_ids(self, sampling: Sampling) -> None:
        size = self._tokenizer.vocabulary
        bad = next((token for token, _ in sampling.logit_bias if token >= size), None)
        if bad is not None:
            raise _unknown_token(bad, size, f"logit_bias.{bad}")
        for index, token in enumerate(sampling.stop_token_ids):
            if token >= size:
                raise _unknown_token(token, size, f"stop_token_ids.{index}")

    def _salt(self, owner: str | None) -> bytes:
        """The owner's salt for the prefix cache: one owner's prompts must not be found by another, who could
        tell from the time to the first token what was cached.
        """
        if owner is None or self._settings.share_prefix_cache:
            return b""
        return hashlib.blake2b(owner.encode(), digest_size=16).digest()

    def _params(self, request: GenerateRequest, prompt: Prompt, *, is_constrained: bool) -> SamplingParams:
        """The request's value where there is one, else the model's recommendation, else OpenAI's default."""
        sampling, window = request.sampling, _repetition_window(request)
        room = self._prompts.max_model_len - len(prompt.tokens)
        if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
            raise BadRequest("min_tokens is more than max_tokens", param="min_tokens")

        def resolve(value: float | None, name: str, default: float) -> float:
            return value if value is not None else float(self.recommended.get(name, default))

        limit = sampling.max_tokens
        if limit is None:
            limit = self._settings.max_tokens_default or room
        max_tokens = min(max(limit, sampling.min_tokens), room)
        # A constrained answer can only end where its grammar does, so with ignore_eos the end is not removed
        # but postponed: until max_tokens it is masked wherever another token is allowed.
        postpones_end = sampling.ignore_eos and is_constrained
        ends = () if sampling.ignore_eos and not is_constrained else self._model.eos_token_ids
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=resolve(sampling.temperature, "temperature", 1.0),
            top_p=resolve(sampling.top_p, "top_p", 1.0),
            top_k=int(resolve(sampling.top_k, "top_k", 0)),
            min_p=resolve(sampling.min_p, "min_p", 0.0),
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            repetition_penalty=1.0
            if window == 0
            else resolve(sampling.repetition_penalty, "repetition_penalty", 1.0),
            repetition_window=window or None,
            logit_bias=sampling.logit_bias,
            seed=sampling.seed,
            invariant=self._settings.deterministic or sampling.seed is not None,
            stop_token_ids=frozenset((*ends, *sampling.stop_token_ids)),
            min_tokens=max_tokens if postpones_end else sampling.min_tokens,
            logprobs=sampling.logprobs,
            prompt_logprobs=prompt.echo is not None and sampling.logprobs is not None,
        )

    def _options(
        self, prompt: Prompt, request: GenerateRequest, stops: Stops, *, has_format: bool
    ) -> AnswerOptions:
        prompts, tools, content = self._prompts, prompt.tools, request.prompt
        thinking, is_open = prompts.thinking, prompt.is_open
        is_forced = (
            bool(tools) and isinstance(content, Conversation) and content.tool_choice.mode == "required"
        )
        return AnswerOptions(
            self._tokenizer,
            NO_STOPS if is_forced else stops,  # a forced call has no text that could be stopped
            prompts.shown(all_special=not request.sampling.skip_special_tokens, tools=bool(tools)),
            (lambda: Splitter(thinking, is_open=bool(is_open))) if thinking and is_open is not None else None,
            (lambda: Parser(prompts.tool_format, tools)) if tools else None,
            is_forced,
            self._loop_tokens(request.sampling, has_form=has_format or is_forced),
        )

    def _loop_tokens(self, sampling: Sampling, *, has_form: bool) -> int:
        """After how many tokens of a loop the answer is ended; 0: never. A prescribed form may require
        repetition, and a caller who sets a length may want it.
        """
        if has_form or sampling.ignore_eos or sampling.min_tokens or sampling.detect_loops is False:
            return 0
        is_limited = sampling.max_tokens is not None and not sampling.detect_loops
        return 0 if is_limited else self._settings.loop_tokens


def _repetition_window(request: GenerateRequest) -> int | None:
    """How many of the last tokens the repetition penalty looks at: llama.cpp's and Ollama's member for it."""
    window = request.foreign.get("repeat_last_n", -1)
    if type(window) is not int or not -1 <= window < 2**31:
        raise BadRequest.at("repeat_last_n", "must be a whole number from -1, which means all tokens")
    return None if window == -1 else window


def _unknown_token(token: int, vocabulary: int, param: str) -> BadRequest:
    return BadRequest.at(param, f"{token} is no token of this model, which has {vocabulary}")


def cost_of_request(request: GenerateRequest) -> int:
    prompt, sampling = request.prompt, request.sampling
    num_entries = len(sampling.logit_bias) + len(sampling.stop_token_ids) + sum(map(len, sampling.stop))
    if request.format is not None:
        return COMPILED
    ops = () if request.steering is None else request.steering.ops
    rest = num_entries * TOKEN + sum(len(op.layers or (0,)) for op in ops) * MESSAGE
    if isinstance(prompt, Texts):
        return cost_of_texts(*prompt.prompts, prompt.suffix or "") + rest
    return cost_of_conversation(prompt) + len(request.prediction) * CHARACTER + rest


def cost_of_tokenizing(request: TokenizeRequest) -> int:
    prompt = request.prompt
    return cost_of_texts(prompt) if isinstance(prompt, str) else cost_of_conversation(prompt)


def cost_of_conversation(conversation: Conversation) -> int:
    if conversation.tools or conversation.template_kwargs:
        return COMPILED
    messages = conversation.messages
    texts = ((one.text, one.reasoning, one.name, one.tool_call_id) for one in messages)
    calls = [(call.id, call.name, call.arguments) for one in messages for call in one.tool_calls]
    size = sum(len(text or "") for group in (*texts, *calls) for text in group)
    return size * CHARACTER + (len(messages) + len(calls)) * MESSAGE


def cost_of_ranking(request: RerankRequest) -> int:
    """An estimate of the bytes that the prompts of a reranking take: each repeats query and instruction."""
    repeated = len(request.query) + len(request.instruction or "")
    documents = request.documents
    return (sum(map(len, documents)) + len(documents) * repeated) * CHARACTER + len(documents) * MESSAGE


def cost_of_texts(*texts: str | tuple[int, ...]) -> int:
    return sum(map(len, texts)) * CHARACTER + len(texts) * MESSAGE
