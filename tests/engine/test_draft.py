"""Drafts: what is guessed, and that guesses change neither tokens nor random numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.draft import MOST_OF_ALL, MOST_OF_OWNER, Drafter, Experience, Memory
from headrace.engine.engine import Engine, Output
from headrace.engine.phrases import Phrases, read, write
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.speculation import MAX_ROWS
from tests.engine.fakes import VOCABULARY, FakeRunner, PassingRunner
from tests.engine.random_load import predicted

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def proposal(
    tokens: list[int], num_prompt: int, prediction: tuple[int, ...] = (), limit: int = 15
) -> list[int]:
    return Drafter(list(prediction), None).guess(tokens, num_prompt, limit, Experience())


def test_what_followed_the_last_tokens_is_guessed() -> None:
    assert proposal([*PROMPT, 50, 2, 3], 9)[:2] == [4, 5]
    assert proposal([*PROMPT, 50, 2], 9)[:1] == [3]
    assert proposal([*PROMPT, 50, 2, 3], 9, limit=1) == [4]
    assert proposal([*PROMPT, 50], 9) == []
    assert proposal([7], 1) == []


def test_the_longest_repeated_ending_decides_and_among_equals_the_latest() -> None:
    assert proposal([9, 2, 3, 40, 8, 2, 3, 50, 9, 2, 3], 8)[0] == 40
    assert proposal([9, 2, 3, 40, 9, 2, 3, 50, 9, 2, 3], 8)[0] == 50


def test_a_longer_ending_earns_more_guesses() -> None:
    assert len(proposal([*PROMPT, 50, 2, 3], 9)) < len(proposal([*PROMPT, 1, 2, 3, 4], 9))


def test_an_answer_begins_as_its_prediction_does_and_finds_it_again() -> None:
    prediction = tuple(range(20, 40))
    assert proposal(PROMPT, 9, prediction)[:2] == [20, 21]
    assert proposal([*PROMPT, 60, 61, 30, 31], 9, prediction)[:2] == [32, 33]


def test_guesses_that_are_wrong_become_fewer_and_recover_without_being_drafted() -> None:
    drafter, experience, tokens = Drafter([], None), Experience(), [1, 2, 3, 1, 2]

    def chances(after: list[int]) -> list[float]:
        drafter.guess(tokens, 5, 15, experience)
        found = drafter.chances
        drafter.settle(0, after)
        return found

    first = chances([9])
    for _ in range(100):
        chances([9])
    assert len(chances([9])) == 0 < len(first)
    drafter = Drafter([], None)
    assert 0 < len(chances([9])) < len(first), "others have learned from it"
    other = [1, 2, 4]
    drafter, tokens = Drafter([], None), [*other, 5, *other]
    for _ in range(200):
        chances([5, *other])
    assert len(chances([5, *other])) > 4


def test_what_was_answered_to_others_is_guessed_unless_the_owner_is_another() -> None:
    experience, answer = Experience(), list(range(30, 50))
    experience.memory.add(b"one", answer)
    tokens = [*PROMPT, 34, 35, 36]
    assert Drafter([], None).guess(tokens, 9, 3, experience, b"one") == [37, 38, 39]
    assert Drafter([], None).guess(tokens, 9, 3, experience, b"two") == []
    assert Drafter([], None).guess([*PROMPT, 48, 49], 9, 3, experience, b"one") == [], "its end"


def test_own_text_comes_before_that_of_others() -> None:
    experience = Experience()
    experience.memory.add(b"", [1, 2, 60, 61])
    experience.memory.add(b"", [7, 8, 9, 70])
    assert Drafter([], None).guess([1, 2, 50, 1, 2], 5, 1, experience) == [50]
    assert Drafter([], None).guess([8, 9, 50, 7, 8, 9], 6, 1, experience) == [70], "a longer ending"


def phrases_of(*text: int) -> Phrases:
    return Phrases(np.array(text, np.uint32))


def test_what_usually_follows_is_guessed_where_the_text_does_not_know_better() -> None:
    experience = Experience(phrases_of(*[70, 71, 2, 3, 90] * 9, 80, 3, 91, 80, 3, 91, 80, 3, 91))
    assert Drafter([], None).guess([5, 71], 2, 3, experience) == [2, 3, 90]
    assert Drafter([], None).guess([5, 2, 3], 3, 1, experience) == [90]
    assert Drafter([], None).guess([5, 80, 3], 3, 1, experience) == [91], "a longer ending that is certain"
    assert Drafter([], None).guess([5, 99], 2, 1, experience) == [], "unknown"
    assert Drafter([], None).guess([1, 2, 3, 4, 5, 6, 40, 1, 2, 3, 4, 5, 6], 7, 1, experience) == [40]
    assert Drafter([], None).guess([3, 40, 7, 3], 4, 1, experience) == [90], "of one token, phrases know more"


def test_phrases_that_come_true_seldom_are_guessed_no_more() -> None:
    experience = Experience(phrases_of(*[70, 71, 72] * 9))
    for text, expected in (([5, 70], []), ([5, 70, 9, 70], [9])):
        drafter = Drafter([], None)
        assert drafter.guess(text, 2, 1, experience) == [71]
        for _ in range(200):
            drafter.guess(text, 2, 15, experience)
            drafter.settle(0, [9])
        assert drafter.guess(text, 2, 1, experience) == expected
        experience = Experience(experience.phrases)


def test_the_phrases_of_another_model_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "phrases.bin"
    write(path, [1, 2, 3, 4, 1, 2, 3, 200_000])
    found = read(path, vocabulary=200_001)
    assert found is not None
    assert (found.find([4]) or ())[:1] == (1,)
    assert found.find([200_000]) is None
    assert not caplog.records
    assert read(path, vocabulary=200_000) is None
    path.write_bytes(b"damaged")
    assert read(path, vocabulary=200_001) is None
    assert ["another model" in record.message for record in caplog.records] == [True, False]


def test_memory_is_bounded() -> None:
    memory = Memory()
    for owner in range(30):
        for _ in range(3):
            memory.add(bytes([owner]), [owner] * 10_000)
    sizes = [sum(len(text.tokens) for text in memory.texts(bytes([owner]))) for owner in range(30)]
    assert sum(sizes) <= MOST_OF_ALL
    assert max(sizes) <= MOST_OF_OWNER + 2
    assert sizes[0] == 0 < sizes[-1]


def test_what_a_grammar_forces_comes_first() -> None:
    drafter = Drafter([20, 21], lambda: [5, 6, 7])
    assert drafter.guess(PROMPT, 9, 2, Experience()) == [5, 6]
    assert drafter.chances == [1, 1]
    drafter.settle(2, [5, 6, 7])
    assert (drafter.num_accepted, drafter.num_rejected) == (0, 0), "that was not the prediction"


class Dense(FakeRunner):
    """A distribution for each outcome of FakeRunner."""

    table = np.random.default_rng(3).standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32) * 2

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self.table[super().forward(batch).argmax(1)]
        return rows


class Counting:
    """Allows tokens that are no multiple of three; after one that is 1 modulo 10, only the one after it."""

    def __init__(self) -> None:
        self.last = 0

    def forced(self) -> list[int]:
        return [self.last + 1] if self.last % 10 == 1 else []

    def fill(self, mask: NDArray[np.int32]) -> None:
        allowed = self.forced() or [token for token in range(VOCABULARY) if token % 3]
        bits = np.isin(np.arange(VOCABULARY), allowed)
        mask[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token: int) -> bool:
        self.last = token
        return token == VOCABULARY - 1


@dataclass(frozen=True, slots=True)
class Request:
    prompt: tuple[int, ...]
    params: SamplingParams
    mistake_every: int
    is_constrained: bool

    def sequence(self, prediction: list[int]) -> Sequence:
        constraint = Counting() if self.is_constrained else None
        return Sequence(list(self.prompt), self.params, constraint=constraint, prediction=prediction)


params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 40),
    temperature=st.sampled_from([0, 0.3, 1, 2]),
    top_p=st.sampled_from([1, 0.9]),
    top_k=st.sampled_from([0, 5]),
    frequency_penalty=st.sampled_from([0, 1.5]),
    presence_penalty=st.sampled_from([0, -1.0]),
    repetition_penalty=st.sampled_from([1, 1.3]),
    logit_bias=st.sampled_from([(), ((7, 5.0), (13, -9.0))]),
    seed=st.integers(0, 99),
    stop_token_ids=st.sampled_from([frozenset[int](), frozenset({4, 11})]),
    min_tokens=st.integers(0, 20),
    logprobs=st.sampled_from([None, 0, 3]),
    prompt_logprobs=st.booleans(),
)
requests = st.builds(
    Request,
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=20).map(tuple),
    params=params,
    mistake_every=st.sampled_from([1, 2, 3, 5, 50]),
    is_constrained=st.booleans(),
)


def outputs_of(engine: Engine, sequences: list[Sequence]) -> dict[Sequence, list[Output]]:
    found: dict[Sequence, list[Output]] = {sequence: [] for sequence in sequences}
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        for output in engine.step():
            found[output.sequence].append(output)
        engine.check()
    assert engine.pool.num_held == 0
    return found


def seen(outputs: list[Output]) -> list[tuple[object, ...]]:
    return [(output.token, output.finish_reason, output.logprobs) for output in outputs]


def test_tokens_logprobs_ends_and_random_numbers_are_those_without_drafts() -> None:
    accepted = rejected = 0

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.lists(requests, min_size=1, max_size=4))
    def holds(load: list[Request]) -> None:
        nonlocal accepted, rejected
        plain = [request.sequence([]) for request in load]
        expected = outputs_of(Engine(Dense(64), speculates=False), plain)
        drafted = [
            request.sequence(predicted(one.tokens[one.num_prompt :], request.mistake_every))
            for request, one in zip(load, plain, strict=True)
        ]
        usual = [*plain[0].tokens[-9:], 0, 1, 2, 3]
        found = outputs_of(Engine(Dense(64), phrases=phrases_of(*usual)), drafted)
        for one, other in zip(plain, drafted, strict=True):
            assert seen(expected[one]) == seen(found[other])
            assert one.prompt_logprobs == other.prompt_logprobs
            assert one.rng.bit_generator.state == other.rng.bit_generator.state
            accepted += other.drafter.num_accepted
            rejected += other.drafter.num_rejected

    holds()
    assert accepted > 1000
    assert rejected > 1000


def drafts_of(engine: Engine, sequences: list[Sequence]) -> list[int]:
    """How many tokens are drafted in each step."""
    for sequence in sequences:
        engine.add(sequence)
    counts = []
    while engine.has_work:
        engine.step()
        counts.append(sum(len(sequence.draft) for sequence in sequences))
    return counts


def predictable(count: int, params: SamplingParams) -> list[Sequence]:
    plain = [Sequence([i, i + 1, i + 2], params) for i in range(count)]
    outputs_of(Engine(FakeRunner(128), speculates=False), plain)
    return [Sequence(one.tokens[:3], params, prediction=one.tokens[3:]) for one in plain]


def test_a_predicted_answer_takes_few_steps_and_a_full_step_gets_no_drafts() -> None:
    params = SamplingParams(max_tokens=40, temperature=0)
    assert len(drafts_of(Engine(FakeRunner(128)), predictable(1, params))) < 12
    assert max(drafts_of(Engine(FakeRunner(128)), predictable(4, params))) <= MAX_ROWS - 4
    full = drafts_of(Engine(FakeRunner(256)), predictable(MAX_ROWS // 2 + 1, params))
    assert full == [0] * 40


class PieceSizes(PassingRunner):
    """Keeps how many tokens the runtime computed of each sequence, as the runtime sees them."""

    def __init__(self, runner: FakeRunner) -> None:
        super().__init__(runner)
        self.sizes: list[list[int]] = []

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        self.sizes.append(np.diff(batch.subsequence_begins).tolist())
        return self.runner.forward(batch)


def test_the_draft_of_an_invariant_sequence_is_computed_one_token_at_a_time() -> None:
    params = SamplingParams(max_tokens=40, temperature=0, invariant=True)
    runner = PieceSizes(FakeRunner(128))
    (sequence,) = predictable(1, params)
    expected = [*sequence.tokens, *sequence.prediction]
    assert len(drafts_of(Engine(runner), [sequence])) < 12
    assert sequence.tokens == expected
    assert runner.sizes[0] == [3]
    assert all(set(sizes) == {1} and len(sizes) > 1 for sizes in runner.sizes[1:])


def test_a_rejected_token_is_never_found_in_the_prefix_cache() -> None:
    params = SamplingParams(max_tokens=40, temperature=0)
    (plain,) = predictable(1, params)
    wrong = replace_every(plain.prediction, 5)
    engine = Engine(FakeRunner(128))
    first = Sequence(list(plain.tokens), params, prediction=wrong)
    outputs_of(engine, [first])
    assert first.drafter.num_rejected > 5
    for end in range(4, len(first.tokens)):  # whatever is found there continues as the true text does
        again = Sequence(first.tokens[:end], replace(params, max_tokens=1))
        outputs_of(engine, [again])
        assert again.tokens == first.tokens[: end + 1]


def replace_every(tokens: list[int], distance: int) -> list[int]:
    return [(t + 1) % VOCABULARY if i % distance == distance - 1 else t for i, t in enumerate(tokens)]
