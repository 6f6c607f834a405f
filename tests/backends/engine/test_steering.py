"""Steering and probing through the engine's backend, on the real model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.backend_types import WithIgnored
from headrace.backends.engine import EngineBackend, EngineSettings
from headrace.backends.engine.capture import open_capture
from headrace.engine.probing import Divergence
from headrace.errors import SteeringRefused
from headrace.models.catalog import Model
from headrace.steering.formats.control_vector import write_vector
from headrace.steering.library import Shelf
from headrace.steering.sae import fold
from headrace.steering.types import (
    Abort,
    Activations,
    Apply,
    Capture,
    Condition,
    Direction,
    Mode,
    Op,
    Probe,
    Receipt,
    SteeringRequest,
)
from headrace.types import (
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Sampling,
    Started,
    TextDelta,
    Texts,
)
from tests.steering.sae_files import write_saelens
from tests.steering.synthetic import info_of, random_weights

LAYER, WIDTH = 15, 576
PROMPT = "The old man sat by the window and looked at the"
UNTIED = random_weights("topk", width=WIDTH)
WEIGHTS = replace(UNTIED, encoder=UNTIED.decoder.T)  # so that a feature that is written is read


@dataclass
class Answer:
    """What one choice got."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    activations: list[Activations] = field(default_factory=list)
    started: Started | None = None
    finished: Finished | None = None

    def push(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started = event
            return
        self.activations += event.activations
        if isinstance(event, TextDelta):
            self.text += event.text
            self.logprobs += [one.logprob or 0.0 for one in event.logprobs]
        if isinstance(event, Finished):
            self.finished = event

    @property
    def receipt(self) -> Receipt:
        assert self.finished is not None
        assert self.finished.receipt is not None
        return self.finished.receipt


async def ask(backend: EngineBackend, request: GenerateRequest) -> list[Answer]:
    answers = [Answer() for _ in range(request.num_choices)]
    async with backend.generate(request) as events:
        async for event in events:
            answers[event.index].push(event)
    return answers


def request(*ops: Op, probes: tuple[Probe, ...] = (), n: int = 1, **steering: object) -> GenerateRequest:
    steers = SteeringRequest(ops, **steering) if ops else None  # type: ignore[arg-type]
    sampling = Sampling(max_tokens=8, temperature=0, logprobs=0)
    return GenerateRequest("m", Texts((PROMPT,)), sampling, n, steering=steers, probes=probes)


def add(value: float, **members: object) -> Op:
    return Op("add", value, vector="v", param="steering.ops[0]", **members)  # type: ignore[arg-type]


Use = Callable[[EngineBackend], Coroutine[Any, Any, None]]


def direction() -> NDArray[np.float32]:
    values = np.random.default_rng(4).standard_normal(WIDTH)
    return (values / np.linalg.norm(values)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("steering")
    write_saelens(root / "saes" / "random", WEIGHTS, LAYER)
    for name, layer in (("w", LAYER), ("low", 3), ("high", 20)):
        write_vector(root / "vectors" / f"{name}.gguf", {layer: direction()}, model="smollm2-135m-instruct")
    return root


@dataclass(frozen=True, slots=True)
class Running:
    """A started backend, and the loop that it runs in."""

    backend: EngineBackend
    runner: asyncio.Runner

    def use(self, work: Use) -> None:
        """Run `work` with nothing loaded, and no layer that requests may edit. What is compiled stays: each
        test that attaches would wait for it again.
        """
        library = self.backend.library("m")
        library.shelf = Shelf(norms=library.shelf.norms)
        self.runner.run(work(self.backend))


@contextmanager
def started(model: Model, root: Path, **settings: object) -> Iterator[Running]:
    """A backend in float32."""
    chosen = EngineSettings(
        exact=True, kv_cache_bytes=2**27, use_generation_config=False, steering_root=root,
        speculates=False,  # a repeated answer would be guessed, and verified in steps of another size
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    backend = EngineBackend(model, chosen)
    with asyncio.Runner() as runner:
        try:
            runner.run(backend.start())
            yield Running(backend, runner)
        finally:
            runner.run(backend.aclose())


@pytest.fixture(scope="module")
def running(default_model: Model, root: Path) -> Iterator[Running]:
    """One for the module."""
    with started(default_model, root) as found:
        yield found


@pytest.fixture(scope="module")
def states(default_model: Model) -> Capture:
    return open_capture(default_model, exact=True)


def test_a_request_from_library_to_receipt(running: Running, root: Path, states: Capture) -> None:
    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        with pytest.raises(SteeringRefused, match="no control vector 'v'"):
            await ask(backend, request(add(1.0)))
        await asyncio.to_thread(library.add_vector, "v", {LAYER: direction()})
        with pytest.raises(SteeringRefused, match="layer 15 cannot be steered now"):
            await ask(backend, request(add(1.0)))
        await asyncio.to_thread(library.attach, "v")
        assert list(library.layers) == [LAYER]
        (plain,) = await ask(backend, request())
        await expect_steered_as_by_hand(backend, states, plain)
        await expect_nothing_of_strength_0(backend, plain)
        await expect_a_sweep(backend, plain)
        await asyncio.to_thread(library.detach, "v")
        assert not library.layers
        with pytest.raises(SteeringRefused, match="cannot be steered now"):
            await ask(backend, request(add(1.0)))
        (after,) = await ask(backend, request())
        assert (after.text, after.logprobs) == (plain.text, plain.logprobs)

    running.use(work)
    assert (root / "vectors" / "v.gguf").is_file()


async def expect_steered_as_by_hand(backend: EngineBackend, states: Capture, plain: Answer) -> None:
    """The first token's logprob is that of a forward pass whose hidden states were edited in NumPy."""
    (steered,) = await ask(backend, request(add(0.3, unit="relative")))
    receipt = steered.receipt
    (op,) = receipt.ops
    tokens = states.tokens(PROMPT)
    before = states.states(tokens, [LAYER])[LAYER]
    before[1:] += op.value * direction()
    row = states.logits(tokens, {LAYER: before})[-1].astype(np.float64)
    expected = row.max() - np.log(np.exp(row - row.max()).sum()) - row.max()
    assert steered.logprobs[0] == pytest.approx(expected, abs=1e-3)
    assert steered.logprobs != plain.logprobs
    assert receipt.relative_dose == pytest.approx(0.3)
    assert op.value == pytest.approx(0.3 * backend.library("m").shelf.norms[LAYER])
    assert receipt.tokens_steered == len(tokens) - 1 + 7
    assert steered.started is not None
    assert steered.started.receipt is not None
    assert steered.started.receipt.fingerprint == receipt.fingerprint


async def expect_nothing_of_strength_0(backend: EngineBackend, plain: Answer) -> None:
    for op, scale in ((add(0.0), 1.0), (add(1.0, strength=0.0), 1.0), (add(5.0), 0.0)):
        (found,) = await ask(backend, request(op, scale=scale))
        assert (found.text, found.logprobs) == (plain.text, plain.logprobs)
        assert found.receipt.fingerprint == "none"


async def expect_a_sweep(backend: EngineBackend, plain: Answer) -> None:
    """One request gives what several would, each with another scale."""
    scales = (0.0, 10.0, 20.0)
    together = await ask(backend, request(add(1.0), n=3, sweep=scales))
    for scale, found in zip(scales, together, strict=True):
        (alone,) = await ask(backend, request(add(1.0), scale=scale))
        assert found.text == alone.text
        assert found.receipt.fingerprint == alone.receipt.fingerprint
        np.testing.assert_allclose(found.logprobs, alone.logprobs, atol=1e-4)
    np.testing.assert_allclose(together[0].logprobs, plain.logprobs, atol=1e-4)
    assert len({answer.receipt.fingerprint for answer in together}) == 3


def test_the_fingerprint_is_known_before_the_first_token(running: Running) -> None:
    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        await asyncio.to_thread(library.load_vector, "v", Path("vectors/w.gguf"))
        await asyncio.to_thread(library.attach, "v")
        async with backend.generate(request(add(0.3, unit="relative"))) as events:
            assert isinstance(events, WithIgnored)
            known = events.fingerprint
            receipts = [
                event.receipt for event in [one async for one in events] if isinstance(event, Started)
            ]
        assert receipts[0] is not None
        assert known == receipts[0].fingerprint

    running.use(work)


def test_probes_read_what_the_sae_says(running: Running, states: Capture) -> None:
    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        info = await asyncio.to_thread(library.load_sae, "random", Path("saes/random"))
        assert (info.layer, info.width, info.architecture) == (LAYER, WIDTH, "topk")
        await asyncio.to_thread(library.attach, "random")
        probe = Probe("random", (3, 7), top_k=4, require_all=True)
        (found,) = await ask(backend, request(probes=(probe,)))
        tokens = states.tokens(PROMPT)
        assert [entry.position for entry in found.activations] == list(range(len(tokens) + 8))
        assert not found.activations[-1].readings  # the last token is never computed
        whole = "".join(entry.token for entry in found.activations)
        assert whole == PROMPT + found.text
        read = states.states(tokens, [LAYER])[LAYER]
        expected = fold(WEIGHTS, info_of(WEIGHTS)).encode(read)
        for row, entry in zip(expected, found.activations, strict=False):
            (reading,) = entry.readings
            assert not entry.cached
            np.testing.assert_allclose(list(reading.features.values()), row[[3, 7]], rtol=1e-3, atol=1e-2)
            top = np.sort(row)[::-1][: len(reading.top)]
            np.testing.assert_allclose([value for _, value in reading.top], top, rtol=1e-3, atol=1e-2)
        statistics = library.statistics("random")
        assert statistics[0].count == len(tokens) + 7
        assert statistics[0].active_share > 0

    running.use(work)


def test_cached_tokens_are_stated(running: Running) -> None:
    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        await asyncio.to_thread(library.open, "random")
        text = Texts(("Near by was the sea. " + "It was grey and it did not move. " * 8,))
        base = replace(request(probes=(Probe("random", (3,)),)), prompt=text)
        (first,), (second,) = [await ask(backend, base) for _ in range(2)]
        cached = [entry.cached for entry in second.activations]
        assert not any(entry.cached for entry in first.activations)
        assert second.finished is not None
        count = second.finished.usage.cached_tokens
        assert count >= 64
        assert cached == [position < count for position in range(len(cached))]
        pairs = zip(first.activations[count:-1], second.activations[count:-1], strict=True)
        for one, other in pairs:
            assert one.readings[0].features == pytest.approx(other.readings[0].features, rel=1e-3, abs=1e-3)
        whole = replace(base, probes=(Probe("random", (3,), require_all=True),))
        (third,) = await ask(backend, whole)
        assert not any(entry.cached for entry in third.activations)

    running.use(work)


def test_a_long_prompts_activations_are_all_there(running: Running) -> None:
    async def work(backend: EngineBackend) -> None:
        await asyncio.to_thread(backend.library("m").open, "random")
        text = Texts(("It was grey and it did not move. " * 60,))
        (found,) = await ask(backend, replace(request(probes=(Probe("random", (3,)),)), prompt=text))
        assert found.finished is not None
        assert [entry.position for entry in found.activations] == list(range(len(found.activations)))
        assert len(found.activations) == found.finished.usage.prompt_tokens + 8
        assert all(entry.readings for entry in found.activations[:-1])

    running.use(work)


def test_a_clamped_feature_reads_as_clamped(running: Running) -> None:
    """The probe reads what leaves the site. Decoder rows are not orthogonal, so it is close, not equal."""

    async def work(backend: EngineBackend) -> None:
        await asyncio.to_thread(backend.library("m").open, "random")
        norm = backend.library("m").shelf.norms[LAYER]
        op = Op("clamp", norm, sae="random", feature=3, param="steering.ops[0]")
        probes = (Probe("random", (3,), require_all=True),)
        (found,) = await ask(backend, request(op, probes=probes, receipt=True))
        (plain,) = await ask(backend, request(probes=(Probe("random", (3,), prompt=False),)))
        clamped = [entry.readings[0].features[3] for entry in found.activations[1:-1]]
        assert found.receipt.achieved[0] == pytest.approx(np.mean(clamped), rel=1e-4)
        assert found.receipt.tokens_steered == len(clamped)
        before = [entry.readings[0].features[3] for entry in plain.activations[:-1]]
        assert np.mean(clamped) > np.mean(before) + norm / 8

    running.use(work)


def test_roles_choose_messages(running: Running) -> None:
    messages = (
        Message("system", "You are brief."), Message("user", "Hello."), Message("assistant", "Hi."),
        Message("user", "Name a colour."),
    )  # fmt: skip

    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        await asyncio.to_thread(library.open, "w")
        base = GenerateRequest("m", Conversation(messages), Sampling(max_tokens=2, temperature=0))
        counts = {}
        for roles in (("system",), ("user",), ("assistant",), ("system", "user", "assistant")):
            apply = Apply(roles=frozenset(roles), generation=False, exceptions=frozenset())
            steering = SteeringRequest((Op("add", 1.0, vector="w"),), apply=apply)
            (found,) = await ask(backend, replace(base, steering=steering))
            counts[roles] = found.receipt.tokens_steered
        (one,) = await ask(backend, base)
        assert one.finished is not None
        singles = [count for roles, count in counts.items() if len(roles) == 1]
        assert all(singles)
        assert sum(singles) == counts["system", "user", "assistant"] == one.finished.usage.prompt_tokens

    running.use(work)


def test_attach_and_detach_under_load_drop_nothing(running: Running) -> None:
    """Unsteered and steered requests run while graphs come and go; each gets what it gets alone."""

    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        await asyncio.to_thread(library.open, "w")
        op = Op("add", 30.0, vector="w")
        (plain,), (steered,) = await ask(backend, request()), await ask(backend, request(op))
        assert plain.text != steered.text
        stop = asyncio.Event()

        async def load(base: GenerateRequest, expected: Answer) -> int:
            count = 0
            while not stop.is_set() or not count:
                (found,) = await ask(backend, base)
                assert found.text == expected.text
                count += 1
            return count

        loads = [load(request(), plain) for _ in range(4)] + [load(request(op), steered) for _ in range(4)]
        tasks = [asyncio.create_task(one) for one in loads]
        await asyncio.to_thread(library.open, "random")
        await asyncio.to_thread(library.open, "low")
        await asyncio.to_thread(library.detach, "random")
        stop.set()
        counts: Sequence[int] = await asyncio.gather(*tasks)
        assert all(counts)

    running.use(work)


CROWD = 16  # 64 are in tests/api/test_steering_load.py


def test_a_crowd_with_a_profile_each(running: Running) -> None:
    """Clients steer in as many ways while graphs come and go: each receipt's edits give the same answer to a
    client that is alone.
    """

    def of(client: int) -> GenerateRequest:
        scopes = (Apply(), Apply(prompt=False), Apply(window=(2, 9)), Apply(exceptions=frozenset()))
        ops = [Op("add", 8.0 + client, vector="w"), Op("clamp", 5.0 * client, sae="random", feature=client)]
        steering = SteeringRequest(tuple(ops[: 1 + client % 2]), apply=scopes[client % 4], receipt=True)
        return replace(request(), sampling=Sampling(max_tokens=4, temperature=0), steering=steering)

    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        for name in ("w", "random"):
            await asyncio.to_thread(library.open, name)
        tasks = [asyncio.create_task(ask(backend, of(client))) for client in range(CROWD)]
        for name in ("low", "high"):
            await asyncio.to_thread(library.open, name)
        together = [(await task)[0] for task in tasks]
        assert len({answer.receipt.fingerprint for answer in together}) == CROWD
        for client in range(0, CROWD, 3):
            (alone,) = await ask(backend, of(client))
            assert alone.text == together[client].text
            assert alone.receipt.fingerprint == together[client].receipt.fingerprint
            assert alone.receipt.tokens_steered == together[client].receipt.tokens_steered

    running.use(work)


def test_what_cannot_be_applied_is_refused(default_model: Model, root: Path) -> None:
    async def work(backend: EngineBackend) -> None:
        library = backend.library("m")
        await asyncio.to_thread(library.open, "random")
        cases = [
            (Op("clamp", 1, sae="no", feature=3), "steering_unknown_sae"),
            (Op("clamp", 1, sae="random", feature=96), "steering_feature_out_of_range"),
            (Op("clamp", 1, sae="random", feature=3, layers=(4,)), "steering_layer_mismatch"),
            (Op("scale", 2, "relative", sae="random", feature=3), "steering_mode_unsupported"),
            (Op("clamp", 1, "max", sae="random", feature=3), "steering_statistics_missing"),
            (Op("add", 9, "relative", sae="random", feature=3), "steering_dose_exceeded"),
        ]
        for op, code in cases:
            with pytest.raises(SteeringRefused) as caught:
                await ask(backend, request(replace(op, param="steering.ops[0]")))
            assert caught.value.code == code
            assert (caught.value.param or "").startswith("steering.ops[0]")
        for probe, code in (
            (Probe("no"), "steering_unknown_sae"), (Probe("random", (96,)), "steering_feature_out_of_range"),
        ):  # fmt: skip
            with pytest.raises(SteeringRefused) as caught:
                await ask(backend, request(probes=(probe,)))
            assert caught.value.code == code
        outside = root.parent / "outside.gguf"
        outside.write_bytes((root / "vectors" / "w.gguf").read_bytes())
        (root / "link.gguf").symlink_to(outside)
        for path in (outside, Path("../outside.gguf"), Path("link.gguf")):
            with pytest.raises(SteeringRefused, match="not below"):
                library.load_vector("x", path)

    with started(default_model, root, max_dose=2.0) as strict:
        strict.use(work)


def test_edits_that_the_model_cannot_compute_with_are_refused(running: Running) -> None:
    """Each is allowed; one after another they are more than float32 holds."""

    async def work(backend: EngineBackend) -> None:
        names = ("low", "w", "high")
        for name in names:
            await asyncio.to_thread(backend.library("m").open, name)
        ops = [Op("scale", 1e6, vector=name, strength=1e6, preserve_norm=name == "high") for name in names]
        with pytest.raises(SteeringRefused) as caught:
            await ask(backend, request(*ops * 8))
        assert (caught.value.code, caught.value.param) == ("steering_dose_exceeded", "steering")
        (plain,) = await ask(backend, request())
        assert plain.text

    running.use(work)


def test_the_length_of_a_direction_does_not_matter(running: Running) -> None:
    """Its square may be too large, or too small, for float32."""

    def op(mode: Mode, row: NDArray[np.float32]) -> Op:
        sent = Direction("float32", (1, WIDTH), row.tobytes())
        return Op(mode, 0.5, "relative", direction=sent, layers=(LAYER,))

    async def work(backend: EngineBackend) -> None:
        await asyncio.to_thread(backend.library("m").open, "w")
        sparse = np.zeros(WIDTH, np.float32)
        sparse[[3, 40]] = 1.0
        (plain,) = await ask(backend, request())
        modes: tuple[Mode, ...] = ("clamp", "add")
        for mode in modes:
            (expected,) = await ask(backend, request(op(mode, sparse)))
            assert expected.logprobs != pytest.approx(plain.logprobs, abs=1e-2)
            for length in (1e-42, 1e-30, 1e25, 3e38):
                (found,) = await ask(backend, request(op(mode, sparse * np.float32(length))))
                # The smallest numbers of float32 have few digits.
                assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-3), (mode, length)

    running.use(work)


def aborting(condition: Condition, *ops: Op, **members: object) -> GenerateRequest:
    steering = SteeringRequest(ops, receipt=True, abort_when=condition)
    return replace(request(), steering=steering, **members)  # type: ignore[arg-type]


def test_an_answer_ends_at_the_first_token_that_meets_a_condition(running: Running) -> None:
    async def work(backend: EngineBackend) -> None:
        await asyncio.to_thread(backend.library("m").open, "random")
        probe = Probe("random", tuple(range(len(WEIGHTS.encoder_bias))))
        (whole,) = await ask(backend, request(probes=(probe,)))
        generated = [
            (entry.position, entry.token, entry.readings[0].features)
            for entry in whole.activations
            if entry.position >= len(whole.activations) - 8 and entry.readings
        ]
        # The feature that is most active on the fourth token, compared with those before it.
        lead = {
            feature: generated[3][2][feature] - max(values[feature] for _, _, values in generated[:3])
            for feature in probe.features
        }
        feature = max(lead, key=lambda one: lead[one])
        position, _, values = generated[3]
        limit = values[feature] - lead[feature] / 2
        assert lead[feature] > 0.1
        condition = Condition("random", feature, above=limit)
        for probes in ((), (probe,)):
            found = await ask(backend, aborting(condition, n=2, probes=probes))
            for answer in found:
                assert answer.finished is not None
                assert answer.finished.reason == "content_filter"
                assert answer.text == "".join(token for _, token, _ in generated[:4])
                assert answer.finished.usage.completion_tokens == 4
                abort = answer.receipt.abort
                assert isinstance(abort, Abort)
                assert abort.position == position
                assert abort.activation == pytest.approx(values[feature], rel=1e-3)
                assert not probes or answer.activations[-1].position == position
        below = Condition("random", feature, below=limit)
        (first,) = await ask(backend, aborting(below))
        assert first.receipt.abort is not None
        assert first.text == generated[0][1]
        never = Condition("random", feature, above=1e6)
        (whole_again,) = await ask(backend, aborting(never))
        assert (whole_again.text, whole_again.receipt.abort) == (whole.text, None)
        with pytest.raises(SteeringRefused, match="no SAE 'other'"):
            await ask(backend, aborting(replace(never, sae="other")))

    running.use(work)


def test_a_dose_against_the_direction_is_negative(running: Running) -> None:
    async def work(backend: EngineBackend) -> None:
        await asyncio.to_thread(backend.library("m").open, "w")
        op = replace(add(0.2, unit="relative"), vector="w")
        for scale, sign in ((-1.0, -1), (0.5, 0.5)):
            (found,) = await ask(backend, request(op, scale=scale))
            assert found.receipt.ops[0].relative_dose == pytest.approx(0.2 * sign)
            assert found.receipt.relative_dose == pytest.approx(0.2 * abs(sign))

    running.use(work)


def test_only_the_first_distributions_of_an_answer_are_compared() -> None:
    found, rows = Divergence(2), np.eye(3, dtype=np.float32)
    for row in rows:
        found.keep(row)
    assert found.num_kept == 2
    found.compare(0, rows[0])
    found.compare(1, rows[0])
    assert found.mean() == pytest.approx(0.5 * (np.e - 1) / (np.e + 2), rel=1e-4)
    assert found.num_kept == 0


def test_a_receipt_says_how_far_the_distributions_are_moved(running: Running, states: Capture) -> None:
    async def work(backend: EngineBackend) -> None:
        await asyncio.to_thread(backend.library("m").open, "w")
        op = replace(add(0.3, unit="relative"), vector="w")
        found, unedited = await ask(
            backend, request(op, n=2, sweep=(1.0, 0.0), receipt=True, has_divergence=True)
        )
        assert unedited.receipt.divergence is None
        prompt, tokens = states.tokens(PROMPT), states.tokens(PROMPT + found.text)
        moved = states.states(tokens, [LAYER])[LAYER]
        moved[1:] += found.receipt.ops[0].value * direction()
        here, there = (logs(states.logits(tokens, each)) for each in ({LAYER: moved}, None))
        each = (np.exp(here) * (here - there)).sum(axis=1)[len(prompt) - 1 : len(tokens) - 1]
        assert len(each) == 8
        assert found.receipt.divergence == pytest.approx(each.mean(), rel=0.05)
        assert each.mean() > 0.01
        (once,) = await ask(backend, request(op, receipt=True))
        assert once.receipt.divergence is None

    running.use(work)


def logs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
