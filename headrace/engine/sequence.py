"""One sequence: its tokens, how many of them are in the KV cache, where, and how the next one is to be
chosen.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "error", "aborted"]
Pooling = Literal["mean", "last", "cls"]
INTERACTIVE, BATCH = 0, 10  # priorities: less is sooner

_arrivals = itertools.count()


class Constraint(Protocol):
    """Which tokens may come next in one sequence. Both methods may raise: then the sequence fails, alone."""

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Write one bit for each token of the vocabulary, lowest bit first. Changes nothing else."""
        ...

    def accept(self, token: int) -> bool:
        """Take note of the token that was chosen; True when nothing but an end may follow."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is continued. Every number is resolved: no default is looked up in the engine."""

    max_tokens: int  # 0: the prompt is computed, and that is all
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # 1 keeps all
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0  # 0 keeps all
    frequency_penalty: float = 0.0  # OpenAI's: off the logit for each time a token was generated
    presence_penalty: float = 0.0  # and once if it was generated at all
    repetition_penalty: float = 1.0  # CTRL's (Keskar et al. 2019): tokens of prompt and answer
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None  # None: fresh entropy
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0  # stop tokens are impossible before this many
    logprobs: int | None = None  # of each token, and of this many most probable ones beside it
    prompt_logprobs: bool = False  # the same for the prompt's tokens
    invariant: bool = False  # computed so that its tokens do not depend on what else runs, or is cached

    # the same, as a step wants it: made once, however many sequences and steps there are
    biased: NDArray[np.int64] = field(init=False, repr=False, compare=False)  # logit_bias's tokens, ascending
    bias: NDArray[np.float32] = field(init=False, repr=False, compare=False)  # of each of those
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
    leader: Sequence | None = None  # wait until this one's prompt is computed, to share its blocks
    constraint: Constraint | None = None
    pooling: Pooling | None = None  # what is wanted is a vector, not a continuation
    salt: bytes = b""  # sequences find each other's blocks in the prefix cache only if their salts are equal
    num_prompt: int = 0
    num_computed: int = 0  # tokens whose keys and values are in `blocks`
    num_exact: int = 0  # leading ones of those that every computation of a prompt gives bit for bit
    num_cached: int = 0  # prompt tokens that were found in the prefix cache at first admission
    num_observed: int = 0  # leading prompt tokens whose rows have been looked at
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(
        default_factory=list
    )  # chained content hash of each full block, as far as known
    prompt_logprobs: list[Logprobs] = field(default_factory=list)  # of the second token and on
    pooled: NDArray[np.float64] | None = None  # the sum of the hidden rows observed, or the one that counts
    counts: Counter[int] = field(default_factory=Counter)  # how often each token was generated
    seen: NDArray[np.bool_] | None = None  # by token, whether it has come; for the repetition penalty
    queued_at: float = field(default_factory=time.perf_counter)  # seconds, all three of the same clock
    started_at: float = 0.0
    first_token_at: float = 0.0
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_preemptions: int = 0
    arrival: int = field(default_factory=lambda: next(_arrivals))
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        assert self.tokens, "a sequence has at least one token"
        self.num_prompt = len(self.tokens)
        seed = self.params.seed
        # `index` keeps the n choices of one seeded request apart
        self.rng = np.random.default_rng(None if seed is None else [seed & (2**64 - 1), self.index])

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
    def observes_prompt(self) -> bool:
        """Whether a row of every prompt token is wanted, so that none may be taken from the prefix cache."""
        return self.params.prompt_logprobs or self.pooling in ("mean", "cls")

    @property
    def rank(self) -> tuple[int, int]:
        """Order of service: priority, then arrival."""
        return (self.priority, self.arrival)

    def accept(self, token: int) -> FinishReason | None:
        """Append a sampled token; the reason to stop, if this is the last. Raises what the constraint
        raises.
        """
        self.tokens.append(token)
        if self.params.counts_tokens:
            self.counts[token] += 1
        if token in self.params.stop_token_ids:
            return "stop"
        if self.constraint is not None and self.constraint.accept(token):
            return "stop"
        return "length" if self.num_generated >= self.params.max_tokens else None
