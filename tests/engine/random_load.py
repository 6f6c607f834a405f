"""Random load for an engine, and what must hold while it is served and when it is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.disk import BlockFiles
from headrace.engine.engine import Engine, Output
from headrace.engine.phrases import Phrases
from headrace.engine.runner import Runner
from headrace.engine.sequence import BATCH, INTERACTIVE, SamplingParams, Sequence
from headrace.steering.plan import Plan
from tests.engine.fakes import PassingRunner

LONGEST = 40  # tokens of an answer
NEAR_TIE = 1e-4  # two logits so close that the order of summation decides
FUSE = 100_000  # steps: a mix that needs more makes no progress

Prompt = tuple[int, ...]


class Oracle(Protocol):
    def continuation(self, prompt: Prompt, count: int) -> list[int]:
        """The greedy tokens after `prompt`."""
        ...

    def gap(self, tokens: list[int]) -> float:
        """By how much the best next token of `tokens` beats the second."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A request of a mix."""

    prompt: Prompt
    max_tokens: int
    stop_at: int | None  # the oracle's token at this place of the answer is a stop token
    priority: int
    arrives: int  # step
    aborts_after: int | None  # steps
    num_siblings: int  # further choices, which wait for the first one's prompt
    mistake_every: int | None  # the prediction is the answer with so frequent mistakes; None: no prediction
    style: int = 0  # how it is steered, in the tests that steer


@dataclass(frozen=True, slots=True)
class Mix:
    jobs: tuple[Job, ...]
    max_num_seqs: int
    max_batch_tokens: int
    spare_blocks: int  # beyond what the longest sequence alone needs

    def num_blocks(self, block_size: int) -> int:
        longest = max(len(job.prompt) + job.max_tokens for job in self.jobs)
        return -(-longest // block_size) + self.spare_blocks


@st.composite
def jobs(draw: st.DrawFn, prompts: st.SearchStrategy[Prompt], longest: int, num_styles: int) -> Job:
    max_tokens = draw(st.integers(1, longest))
    return Job(
        prompt=draw(prompts),
        max_tokens=max_tokens,
        stop_at=draw(st.none() | st.integers(0, longest - 1)),
        priority=draw(st.sampled_from([INTERACTIVE, INTERACTIVE, BATCH])),
        arrives=draw(st.integers(0, 40)),
        aborts_after=draw(st.none() | st.none() | st.integers(0, 60)),
        num_siblings=draw(st.sampled_from([0, 0, 0, 1, 3])),
        mistake_every=draw(st.sampled_from([None, 2, 3, 7, LONGEST])),
        style=draw(st.integers(0, num_styles - 1)) if num_styles else 0,
    )


@st.composite
def mixes(
    draw: st.DrawFn,
    prompts: st.SearchStrategy[Prompt],
    *,
    longest: int = LONGEST,
    most_spare: int = 12,
    num_styles: int = 0,
) -> Mix:
    max_num_seqs = draw(st.integers(1, 8))
    return Mix(
        jobs=tuple(draw(st.lists(jobs(prompts, longest, num_styles), min_size=1, max_size=12))),
        max_num_seqs=max_num_seqs,
        max_batch_tokens=draw(st.sampled_from([max_num_seqs, 9, 16, 50, 512])),
        spare_blocks=draw(st.integers(0, most_spare)),
    )


def shared_prefixes(bases: list[Prompt], *, most: int) -> st.SearchStrategy[Prompt]:
    """Prompts of 1 to `most` tokens that begin alike: a common text, cut, some with a tail of their own."""
    longest = min(most, min(map(len, bases)))
    heads = st.builds(lambda base, cut: base[:cut], st.sampled_from(bases), st.integers(1, longest))
    tails = st.sampled_from([(), (), (7,), (7, 8, 9), tuple(range(40))])
    return st.builds(lambda head, tail: (head + tail)[:most], heads, tails)


class Watched(PassingRunner):
    """A runner seen from outside: fewer blocks than it has, and every batch inspected.

    The engine survives whatever a runner raises, so what is wrong with a batch is kept in `broken`.
    """

    def __init__(self, runner: Runner, mix: Mix) -> None:
        super().__init__(runner)
        self.mix, self.num_blocks = mix, mix.num_blocks(runner.block_size)
        assert self.num_blocks <= runner.num_blocks, "the mix needs a larger cache"
        self.seen: Counter[str] = Counter()
        self.decoding: dict[
            Sequence, int
        ] = {}  # what decoded before the step, and how often it was preempted
        self.broken: AssertionError | None = None

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        try:
            self._inspect(batch)
        except AssertionError as exc:
            self.broken = exc
        return self.runner.forward(batch)

    def _inspect(self, batch: Batch) -> None:
        counts = np.diff(batch.subsequence_begins).tolist()[: len(batch.sequences)]  # without a companion
        assert len(batch.sequences) <= self.mix.max_num_seqs
        most = max(self.mix.max_batch_tokens, self.mix.max_num_seqs + 2)
        assert 0 < sum(counts) <= most, counts
        assert all(count > 0 for count in counts)
        decodes = [self.decoding.get(sequence) == sequence.num_preemptions for sequence in batch.sequences]
        assert decodes == sorted(decodes, reverse=True), "decodes come first"
        pending = [sequence.num_pending + len(sequence.draft) for sequence in batch.sequences]
        self.seen["chunks"] += sum(count < whole for count, whole in zip(counts, pending, strict=True))
        self.seen["mixed steps"] += any(decodes) and not all(decodes)
        self.seen["drafted"] += sum(len(sequence.draft) for sequence in batch.sequences)
        self._expect_separate_writes(batch)

    def _expect_separate_writes(self, batch: Batch) -> None:
        written = [
            block
            for sequence in batch.sequences
            for block in sequence.blocks[sequence.num_computed // self.block_size :]
        ]
        assert len(written) == len(set(written)), "two sequences write one block"


@dataclass(slots=True)
class Life:
    """A sequence of a mix: what it should become, and what became of it."""

    sequence: Sequence
    job: Job
    expected: list[int]
    tokens: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Drive:
    """Serves one mix to its end, checking after every step."""

    def __init__(self, runner: Runner, mix: Mix, oracle: Oracle, *, files: BlockFiles | None = None) -> None:
        self.watched = Watched(runner, mix)
        self.oracle, self.seen = oracle, self.watched.seen
        self.lives = [life for job in mix.jobs for life in self._births(job)]
        usual = [token for life in self.lives for token in life.expected]
        self.engine = Engine(
            self.watched,
            max_num_seqs=mix.max_num_seqs,
            max_batch_tokens=mix.max_batch_tokens,
            phrases=Phrases(np.array([0, 1, 2, 3, *usual], np.uint32)),
            files=files,
        )
        self._by_sequence = {life.sequence: life for life in self.lives}

    def run(self) -> Counter[str]:
        """What happened, counted."""
        last = max(life.job.arrives for life in self.lives)
        for now in range(FUSE):
            self._arrivals(now)
            self._aborts(now)
            if now > last and not self.engine.has_work:
                break
            self._step()
        self._expect_all_done()
        self.seen["preemptions"] = self.engine.scheduler.counters.num_preemptions
        self.seen["prefix hits"] = sum(life.sequence.num_cached > 0 for life in self.lives)
        self.seen["sequences"] = len(self.lives)
        self.engine.close()
        if self.engine.disk is not None:
            self.seen["read"], self.seen["written"] = self.engine.disk.num_read, self.engine.disk.num_written
        return self.seen

    def answer(self, job: Job) -> list[int]:
        """The oracle's."""
        return self.oracle.continuation(job.prompt, job.max_tokens)

    def plan(self, job: Job) -> Plan | None:
        """How the job's sequences are steered: not at all."""
        return None

    def gap(self, job: Job, tokens: list[int]) -> float:
        return self.oracle.gap(tokens)

    def _births(self, job: Job) -> list[Life]:
        answer, plan = self.answer(job), self.plan(job)
        stops: frozenset[int] = (
            frozenset() if job.stop_at is None else frozenset(answer[job.stop_at : job.stop_at + 1])
        )
        params = SamplingParams(job.max_tokens, temperature=0, stop_token_ids=stops)
        prediction = predicted(answer, job.mistake_every) if job.mistake_every else []
        leader = Sequence(list(job.prompt), params, job.priority, prediction=prediction, plan=plan)
        others = [
            Sequence(
                list(job.prompt),
                params,
                job.priority,
                index=1 + i,
                leader=leader,
                prediction=prediction,
                plan=plan,
            )
            for i in range(job.num_siblings)
        ]
        expected = cut(answer, stops)
        return [Life(sequence, job, expected) for sequence in (leader, *others)]

    def _arrivals(self, now: int) -> None:
        for life in self.lives:
            if life.job.arrives == now:
                self.engine.add(life.sequence)

    def _aborts(self, now: int) -> None:
        for life in self.lives:
            if life.job.aborts_after is not None and life.job.arrives + life.job.aborts_after == now:
                self.seen["aborts"] += life.sequence.finish_reason is None
                self.engine.abort(life.sequence)
                self.engine.check()

    def _step(self) -> None:
        decoding = {s: s.num_preemptions for s in self.engine.scheduler.running if s.is_decoding}
        self.watched.decoding = decoding
        outputs = self.engine.step()
        self.engine.check()
        if self.watched.broken is not None:
            raise self.watched.broken
        heard = Counter(output.sequence for output in outputs)
        for sequence, count in heard.items():
            assert count <= 1 + len(sequence.draft), "more tokens in one step than were drafted, and one"
            self.seen["accepted"] += count - 1
        for sequence, before in decoding.items():
            assert sequence in heard or sequence.num_preemptions > before, "a decode was left out"
        for output in outputs:
            self._record(output)

    def _record(self, output: Output) -> None:
        life = self._by_sequence[output.sequence]
        assert not life.reasons, "a token after the end"
        assert output.token is not None, output.sequence.error
        life.tokens.append(output.token)
        if output.finish_reason is not None:
            life.reasons.append(output.finish_reason)

    def _expect_all_done(self) -> None:
        scheduler = self.engine.scheduler
        assert not scheduler.running
        assert not scheduler.waiting
        assert self.engine.pool.num_held == 0
        for life in self.lives:
            self._expect_answer(life)

    def _expect_answer(self, life: Life) -> None:
        aborted = life.sequence.finish_reason == "aborted"
        assert life.sequence.tokens == [*life.job.prompt, *life.tokens]
        assert life.reasons == [] if aborted else life.reasons == [life.sequence.finish_reason]
        expected = life.expected[: len(life.tokens)] if aborted else life.expected
        self.seen["tokens"] += len(life.tokens)
        if life.tokens != expected:
            self._expect_near_tie(life)
        elif not aborted:
            is_stop = life.tokens[-1] in life.sequence.params.stop_token_ids
            assert life.reasons == ["stop" if is_stop else "length"]
            self.seen[life.reasons[0]] += 1

    def _expect_near_tie(self, life: Life) -> None:
        """Two answers may part only where the oracle itself hardly knows."""
        pairs = zip(life.tokens, life.expected, strict=False)
        place = next(i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
        gap = self.gap(life.job, [*life.job.prompt, *life.expected[:place]])
        assert gap < NEAR_TIE, f"token {place} of {life.tokens} should be of {life.expected}, gap {gap}"
        self.seen["near ties"] += 1


def predicted(answer: list[int], mistake_every: int) -> list[int]:
    return [0 if i % mistake_every == mistake_every - 1 else token for i, token in enumerate(answer)]


def cut(answer: list[int], stops: frozenset[int]) -> list[int]:
    """Up to the first stop token, which belongs to it."""
    ends = [i for i, token in enumerate(answer) if token in stops]
    return answer[: ends[0] + 1] if ends else answer
