"""One sequence: its tokens, how many of them are in the KV cache and in which blocks, and the parameters by
which the next token is chosen.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.random import default_rng  # np.random is imported at its first use, which takes 15 ms
from numpy.typing import NDArray

from headrace.engine.draft import Drafter
from headrace.engine.probing import Achieved, Divergence, GuardProber, Prober
from headrace.steering.plan import Plan
from headrace.steering.types import Reading

FinishReason = Literal["stop", "length", "error", "aborted"]
Pooling = Literal["mean", "last", "cls"]
Readings = tuple[tuple[int, tuple[Reading, ...]], ...]  # (position, one for each probe)
INTERACTIVE, BATCH = 0, 10  # priorities: the lower number runs first
Rank = tuple[int, int, int]

_arrivals = itertools.count()


class Constraint(Protocol):
    """Restricts which tokens may come next in one sequence. An exception from either method fails that
    sequence, and no other.
    """

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Write one bit for each token of the vocabulary into mask[⌈vocabulary / 32⌉], lowest bit first; 1
        allows it. The constraint itself is not changed.
        """
        ...

    def accept(self, token: int) -> bool:
        """Advance by the token that was chosen. True if the answer is complete and nothing may follow."""
        ...

    def forced(self) -> list[int]:
        """The next tokens, as far as no others are allowed. Neither changes the constraint nor raises."""
        ...


class Watch(Protocol):
    """Follows the tokens of one answer, for scopes that depend on them."""

    def flag(self, token: int) -> int:
        """Advance by the token. Returns the flags (headrace.steering.plan) of the state after it."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is continued. Defaults of the model and the server are already applied."""

    max_tokens: int  # 0: compute the prompt and generate nothing
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # 1 keeps all
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0  # 0 keeps all
    frequency_penalty: float = (
        0.0  # OpenAI's: subtracted from the logit once per time the token was generated
    )
    presence_penalty: float = 0.0  # OpenAI's: subtracted once if the token was generated at all
    repetition_penalty: float = 1.0  # CTRL's (Keskar et al. 2019): for tokens of prompt and answer
    repetition_window: int | None = None  # ... that are among so many last ones, from 1; None: for all
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None  # None: from the operating system's entropy
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0  # until this many are generated, stop tokens are masked
    logprobs: int | None = None  # how many alternatives to report beside each token; None: no logprobs
    prompt_logprobs: bool = False  # report logprobs of the prompt's tokens too
    invariant: bool = False  # its tokens must not depend on the batch or the cache
    watched: tuple[int, ...] = ()  # tokens whose logits at the first generated position are kept

    # Derived arrays that every step uses, computed once.
    biased: NDArray[np.int64] = field(
        init=False, repr=False, compare=False
    )  # tokens of logit_bias, ascending
    bias: NDArray[np.float32] = field(init=False, repr=False, compare=False)  # of each of `biased`
    ends: NDArray[np.int64] = field(init=False, repr=False, compare=False)  # stop_token_ids, ascending

    def __post_init__(self) -> None:
        pairs = dict(self.logit_bias)
        biased = np.array(sorted(pairs), np.int64)
        object.__setattr__(self, "biased", biased)
        object.__setattr__(self, "bias", np.array([pairs[token] for token in biased.tolist()], np.float32))
        object.__setattr__(self, "ends", np.array(sorted(self.stop_token_ids), np.int64))

    @property
    def counts_tokens(self) -> bool:
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of probabilities under the model's own distribution."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token, logprob), most probable first


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and its continuation. Owned by the engine's thread once it has been added."""

    tokens: list[int]
    params: SamplingParams
    priority: int = INTERACTIVE
    index: int = 0  # which of a request's n choices: part of the seed
    leader: Sequence | None = None  # shares its prompt: wait until the leader has computed it
    constraint: Constraint | None = None
    pooling: Pooling | None = None  # compute an embedding instead of a continuation
    flow: str = ""  # who waits for it: the engine's time is shared between flows (see fairness.py)
    turn: int = 0  # its place among the flows; set by the scheduler
    salt: bytes = b""  # only sequences of equal salt share blocks through the prefix cache
    prediction: list[int] = field(default_factory=list)  # what the caller expects the answer to repeat
    plan: Plan | None = None  # edits of its hidden states
    watch: Watch | None = None  # says which generated tokens the plan's scopes except; None: none
    probers: tuple[Prober, ...] = ()  # what is read of its hidden states
    guard: GuardProber | None = None  # the last of the probers, if one may end the answer
    achieved: Achieved | None = None  # measures what its plan achieves
    divergence: Divergence | None = None  # gets the logits from which its tokens are chosen
    # of a steered answer, which is this one's prompt's end: compares the logits there with those of this one
    twin: Sequence | None = None
    num_prompt: int = 0
    num_computed: int = 0  # tokens whose keys and values are in `blocks`
    num_exact: int = (
        0  # leading ones of those whose keys and values do not depend on the chunks (see scheduler)
    )
    num_cached: int = 0  # prompt tokens found in the prefix cache at first admission
    num_observed: int = 0  # leading tokens whose logits or hidden states were processed
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # content keys of the full blocks, computed on demand
    draft: list[int] = field(default_factory=list)  # guesses that the step under way verifies
    prompt_logprobs: list[Logprobs] = field(default_factory=list)  # of the prompt's second token and on
    flags: list[int] = field(default_factory=list)  # of each generated token, what `watch` said
    num_read: int = 0  # leading tokens whose hidden states were read, or are not to be read
    readings: list[tuple[int, tuple[Reading, ...]]] = field(default_factory=list)  # since the last output
    pooled: NDArray[np.float64] | None = None  # [width] sum of the pooled hidden states
    watched_logits: tuple[float, ...] = ()  # of params.watched, before bias and penalties
    counts: Counter[int] = field(default_factory=Counter)  # token → times generated, if penalties need it
    seen: NDArray[np.bool_] | None = None  # [vocabulary] in prompt or answer; for the repetition penalty
    queued_at: float = field(default_factory=time.perf_counter)  # these four in seconds of perf_counter
    started_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_preemptions: int = 0
    arrival: int = field(default_factory=lambda: next(_arrivals))
    rng: np.random.Generator = field(init=False)
    drafter: Drafter = field(init=False)

    def __post_init__(self) -> None:
        assert self.tokens, "a sequence has at least one token"
        self.num_prompt = len(self.tokens)
        reads_prompt = self.achieved is not None or any(prober.probe.prompt for prober in self.probers)
        if self.probers and not reads_prompt:
            self.num_read = self.num_prompt
        self.drafter = Drafter(self.prediction, self.constraint.forced if self.constraint else None)
        seed = self.params.seed
        # With `index`, the n choices of one seeded request differ.
        self.rng = default_rng(None if seed is None else [seed & (2**64 - 1), self.index])

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens that must run through the model before the next one can be sampled."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_pending == 1 and self.num_generated > 0

    @property
    def may_draft(self) -> bool:
        """Whether guesses of its next tokens may be computed. Not where the tokens themselves decide which of
        them are steered, or which is the last.
        """
        depends_on_answer = self.plan is not None and self.plan.depends_on_answer
        return self.is_decoding and not depends_on_answer and self.guard is None

    @property
    def observes_prompt(self) -> bool:
        """Whether every prompt token's logits or hidden state is needed. The prefix cache has neither, so
        such a sequence computes its whole prompt.
        """
        return (
            self.params.prompt_logprobs
            or self.pooling in ("mean", "cls")
            or any(prober.probe.require_all for prober in self.probers)
        )

    @property
    def read_layers(self) -> tuple[int, ...]:
        """The layers at which it is read, each once."""
        measured = self.achieved.layers if self.achieved is not None else ()
        return tuple(dict.fromkeys((*(prober.source.layer for prober in self.probers), *measured)))

    @property
    def layers(self) -> frozenset[int]:
        """The layers at which it is edited or read."""
        edited = self.plan.layers if self.plan is not None else frozenset[int]()
        return edited.union(self.read_layers)

    def effect(self, start: int, end: int) -> bytes:
        """What its plan does to the positions start … end: part of the key of a block; see Plan.effect."""
        return b"" if self.plan is None else self.plan.effect(self.tokens[start:end], start, end, self.flags)

    @property
    def rank(self) -> Rank:
        """Order of service: priority, then the flows' turns, then arrival."""
        return (self.priority, self.turn, self.arrival)

    def accept(self, token: int) -> FinishReason | None:
        """Append a sampled token. Returns the finish reason if it is the last one. Raises what the constraint
        raises.
        """
        self.tokens.append(token)
        if self.watch is not None:
            self.flags.append(self.watch.flag(token))
        if self.params.counts_tokens:
            self.counts[token] += 1
        if token in self.params.stop_token_ids:
            return "stop"
        if self.constraint is not None and self.constraint.accept(token):
            return "stop"
        return "length" if self.num_generated >= self.params.max_tokens else None
