"""Prepares what a request steers and probes: for each of its answers a plan, and what reads it. Follows an
answer's tokens for the exceptions `tool_calls` and `thinking` of scopes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf

import numpy as np

from headrace.backends.engine.prompt import Prompt, Prompts
from headrace.engine.probing import Achieved, GuardProber, Measure, PeakProber, Prober, SAEProber
from headrace.engine.sequence import Watch
from headrace.errors import SteeringRefused
from headrace.steering.library import AttachedSAE, ModelLibrary
from headrace.steering.plan import IN_CALL, IN_THOUGHT, Plan, PromptFacts
from headrace.steering.resolution import Resolved, plan_of, resolve_request
from headrace.steering.types import Condition, ConditionResult, Probe, Receipt, SteeringRequest
from headrace.text.reasoning import Thinking
from headrace.types import Conversation, GenerateRequest

UNSTEERED = "none"  # the fingerprint of a request whose steering changes nothing


@dataclass(frozen=True, slots=True)
class Steered:
    """What one prompt's answers need. `plans`: one for each answer, None: it is not edited; `receipts`: what
    is reported of them, None: the request has no steering.
    """

    plans: tuple[Plan | None, ...]
    receipts: tuple[Receipt | None, ...]
    achieved: Callable[[Plan | None], Achieved | None]  # creates one per answer
    watch: Callable[[], Watch | None]  # creates one per answer
    probers: tuple[Prober, ...]
    guard: Callable[[], GuardProber | None]  # creates one per answer
    diverges: bool = False  # its answers are compared with unsteered ones


class Steerer:
    """Resolves the steering of requests for one model. Methods raise SteeringRefused."""

    def __init__(self, library: ModelLibrary, prompts: Prompts, max_dose: float = inf) -> None:
        self._library, self._prompts, self._max_dose = library, prompts, max_dose

    def resolve(self, request: GenerateRequest) -> Resolved | None:
        """The edits that the request asks for; None if it is not steered."""
        return resolve_request(request.steering, self._library) if request.steering is not None else None

    def peak_prober(self, condition: Condition) -> PeakProber:
        """Measures what a condition depends on."""
        entry = self._readable(condition.sae, (condition.feature,), condition.param)
        return PeakProber(entry.sae, _probed_layer(entry), condition.feature)

    def steered(
        self,
        request: GenerateRequest,
        prompt: Prompt,
        resolved: Resolved | None,
        *,
        is_formed: bool,
        place: int = 0,
    ) -> Steered:
        """`is_formed`: a grammar prescribes the whole answer; `place`: of the prompt in the request."""
        probers = tuple(self._prober(probe) for probe in request.probes)
        nothing = (None,) * request.n
        if request.steering is None or resolved is None:
            return Steered(nothing, nothing, _not_measured, _no_watch, probers, _no_guard)
        guard = self._guard_of(request.steering.abort_when, len(prompt.tokens))
        condition = _result(request.steering, place)
        if condition is not None and not condition.is_met:
            unmet = Receipt(UNSTEERED, (), 0.0, profile=request.steering.profile, condition=condition)
            return Steered(nothing, (unmet,) * request.n, _not_measured, _no_watch, probers, guard)
        watch = self._watch_of(prompt, is_formed=is_formed)
        facts = self._facts(request, prompt, watch().state)
        scales = _scales(request.steering, request.n)
        plans = {scale: plan_of(resolved, scale, facts, self._max_dose) for scale in set(scales)}
        needs_watch = any(plan is not None and plan.depends_on_answer for plan in plans.values())
        chosen = tuple(plans[scale] for scale in scales)
        receipts = tuple(replace(_receipt(plan, request.steering), condition=condition) for plan in chosen)
        achieved = self._achieved if request.steering.receipt else _not_measured
        return Steered(
            chosen, receipts, achieved, watch if needs_watch else _no_watch, probers, guard,
            diverges=request.steering.has_divergence,
        )  # fmt: skip

    def _guard_of(self, condition: Condition | None, num_prompt: int) -> Callable[[], GuardProber | None]:
        if condition is None:
            return _no_guard
        entry = self._readable(condition.sae, (condition.feature,), condition.param)
        return partial(GuardProber, entry.sae, _probed_layer(entry), condition, num_prompt)

    def _achieved(self, plan: Plan | None) -> Achieved | None:
        """Create the measurement of a plan's ops. An SAE that was removed meanwhile is not read."""
        if plan is None:
            return None
        measures = []
        for term in plan.terms:
            op = plan.ops[term.op]
            if op.sae is None:
                direction = term.slot.write.astype(np.float64)
                unit = (direction / np.linalg.norm(direction)).astype(np.float32)
                measures.append(Measure(term.op, term.layer, term.scope, unit))
            elif (entry := self._library.shelf.saes.get(op.sae)) is not None and op.feature is not None:
                measures.append(Measure(term.op, term.layer, term.scope, entry.sae, op.feature))
        layers = sorted(plan.layers)
        observed = [(layer, entry.sae) for layer in layers if (entry := self._observer(plan, layer))]
        return Achieved(plan, measures, observed)

    def _observer(self, plan: Plan, layer: int) -> AttachedSAE | None:
        """The SAE that finds side effects at a layer: the ops' first, else any that is attached there."""
        named = [op.sae for op in plan.ops if op.layer == layer]
        entries = [entry for entry in self._library.shelf.saes.values() if layer in entry.sae.info.layers]
        return min(entries, key=lambda entry: entry.sae.info.id not in named, default=None)

    def _watch_of(self, prompt: Prompt, *, is_formed: bool) -> Callable[[], AnswerWatch]:
        prompts = self._prompts
        begin = prompts.tool_format.begin if prompt.tools else None
        return lambda: AnswerWatch(
            prompts.tokenizer.token_raw,
            is_formed=is_formed,
            begin=begin,
            thinking=prompts.thinking,
            is_open=bool(prompt.is_open),
        )

    def _facts(self, request: GenerateRequest, prompt: Prompt, state: int) -> PromptFacts:
        assert request.steering is not None
        steering = request.steering
        applies = [op.apply or steering.apply for op in steering.ops]
        roles = None
        if any(apply.roles is not None for apply in applies):
            if not isinstance(request.prompt, Conversation):
                raise SteeringRefused(
                    "only conversations have roles", code="steering_unsupported", param="steering.apply.roles"
                )
            if request.sampling.truncate_prompt_tokens is not None:
                raise SteeringRefused(
                    "the roles of a truncated prompt are not known", code="steering_unsupported",
                    param="steering.apply.roles",
                )  # fmt: skip
            roles = self._prompts.roles(request.prompt, prompt.tokens)
        return PromptFacts(prompt.tokens, roles, self._special, None, bool(state & 1), bool(state & 2))

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self._prompts.tokenizer.special.values())

    def _readable(
        self, name: str, features: tuple[int, ...], param: str, member: str = "feature"
    ) -> AttachedSAE:
        """An attached SAE that has these features. `param`, `member`: where the body names them."""
        sae, named = (f"{param}.{last}".lstrip(".") for last in ("sae", member))
        entry = self._library.shelf.saes.get(name)
        if entry is None:
            raise SteeringRefused(
                f"{sae}: there is no SAE {name[:80]!r}", code="steering_unknown_sae", param=sae
            )
        info = entry.sae.info
        if not info.layers:
            raise SteeringRefused(f"{sae}: {name} is not attached", code="steering_layer_mismatch", param=sae)
        bad = next((feature for feature in features if not 0 <= feature < info.num_features), None)
        if bad is not None:
            raise SteeringRefused(
                f"{named}: {name} has the features 0 to {info.num_features - 1}, not {bad}",
                code="steering_feature_out_of_range", param=named,
            )  # fmt: skip
        return entry

    def _prober(self, probe: Probe) -> SAEProber:
        entry = self._readable(probe.sae, probe.features, probe.param, "features")
        return SAEProber(probe, entry.sae, _probed_layer(entry), entry.statistics)


def _result(steering: SteeringRequest, place: int) -> ConditionResult | None:
    """Whether the condition is met by this prompt; None without a condition."""
    when = steering.when
    if when is None:
        return None
    activation = when.measured[place]
    return ConditionResult(activation, when.is_met(activation))


def _receipt(plan: Plan | None, steering: SteeringRequest) -> Receipt:
    if plan is None:
        return Receipt(UNSTEERED, (), 0.0, profile=steering.profile)
    return Receipt(plan.fingerprint, plan.ops, plan.relative_dose, profile=steering.profile)


def _probed_layer(entry: AttachedSAE) -> int:
    """The SAE's own layer if it is attached there, else the first."""
    info = entry.sae.info
    return info.layer if info.layer in info.layers else info.layers[0]


def _scales(steering: SteeringRequest, n: int) -> tuple[float, ...]:
    """The scale of each answer."""
    if not steering.sweep:
        return (steering.scale,) * n
    if len(steering.sweep) != n:
        raise SteeringRefused(
            f"there are {len(steering.sweep)} scales for {n} answers", code="steering_unsupported",
            param="steering.sweep",
        )  # fmt: skip
    return steering.sweep


def _not_measured(plan: Plan | None) -> Achieved | None:
    return None


def _no_guard() -> GuardProber | None:
    return None


def _no_watch() -> Watch | None:
    return None


class AnswerWatch:
    """`raw`: the bytes of a token. `is_formed`: a grammar prescribes all that is not a thought. `begin`: the
    mark with which a call begins, if the answer may have calls; what follows the first one is calls.
    """

    def __init__(
        self,
        raw: Callable[[int], bytes],
        *,
        is_formed: bool,
        begin: str | None,
        thinking: Thinking | None,
        is_open: bool,
    ) -> None:
        self._raw, self._is_formed, self._thinking = raw, is_formed, thinking
        self._begin = None if begin is None else begin.encode()
        self._is_thinking, self._is_in_call = is_open and thinking is not None, False
        self._text = b""
        marks = [begin or "", *(thinking.markers if thinking is not None else ())]
        self._longest = max(len(mark.encode()) for mark in marks)

    @property
    def state(self) -> int:
        """The flags of what comes next."""
        if self._is_thinking:
            return IN_THOUGHT
        return IN_CALL if self._is_formed or self._is_in_call else 0

    def flag(self, token: int) -> int:
        """See sequence.Watch."""
        self._text += self._raw(token)
        if self._thinking is not None:
            mark = self._thinking.end if self._is_thinking else self._thinking.begin
            if self._skip(mark.encode()):
                self._is_thinking = not self._is_thinking
        if self._begin is not None and not self._is_thinking and self._skip(self._begin):
            self._is_in_call = True
        self._text = self._text[-self._longest :] if self._longest else b""
        return self.state

    def _skip(self, mark: bytes) -> bool:
        """Drop the text up to the end of the mark. Returns False if the text does not have it."""
        place = self._text.find(mark)
        if place >= 0:
            self._text = self._text[place + len(mark) :]
        return place >= 0
