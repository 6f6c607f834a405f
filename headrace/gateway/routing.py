"""Routing: from a model's name, and the provider in the path, to an ordered list of targets. The name may be
that of a preset, which comes with a system message, first messages, and parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from random import Random

from headrace.backend_types import Backend
from headrace.breaker import Breaker, State
from headrace.callers import Principal
from headrace.config import RouteConfig, TargetConfig
from headrace.errors import ConfigError, Forbidden, ModelNotFound, ProviderNotFound
from headrace.types import Conversation, GenerateRequest, Json, Message, ModelCard, ModelInfo, Sampling

LOCAL = "headrace"  # owner of routes
MAX_NAMED = 20  # models that an error lists
# members of ModelInfo.sampling
RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
UNSET = Sampling()
SYSTEM = ("system", "developer")  # roles


@dataclass(frozen=True, slots=True)
class Preset:
    """`base`: the name of the served model. A request's own parameters and system message come before these.

    `sampling`: members of Sampling; `foreign`: those of other servers.
    """

    name: str
    base: str
    system: str = ""
    messages: tuple[Message, ...] = ()
    sampling: Mapping[str, object] = field(default_factory=dict)
    foreign: Json = field(default_factory=dict)
    created: int = 0  # seconds since 1970

    def applied(self, request: GenerateRequest) -> GenerateRequest:
        """The request with what it leaves to the preset. Texts to be continued get its parameters only."""
        prompt = request.prompt
        return replace(
            request,
            prompt=self.opened(prompt) if isinstance(prompt, Conversation) else prompt,
            sampling=self._sampled(request.sampling),
            foreign={**self.foreign, **request.foreign},
        )

    def opened(self, conversation: Conversation) -> Conversation:
        """The conversation after the preset's messages."""
        messages = conversation.messages
        if not messages or messages[0].role not in SYSTEM:
            system = (Message("system", self.system),) if self.system else ()
            return replace(conversation, messages=(*system, *self.messages, *messages))
        return replace(conversation, messages=(messages[0], *self.messages, *messages[1:]))

    def _sampled(self, sampling: Sampling) -> Sampling:
        missing = {
            name: value
            for name, value in self.sampling.items()
            if getattr(sampling, name) == getattr(UNSET, name)
        }
        return replace(sampling, **missing)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a backend. `info.id` is the backend's own name for it; only a route's targets have a
    breaker.
    """

    backend: Backend
    info: ModelInfo
    breaker: Breaker | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets in order, at least one. `route` says when another target is tried; None: never.
    `is_substitute`: the target is another model than the one that was named. `preset`: what the name adds to
    requests.
    """

    targets: tuple[Target, ...]
    route: RouteConfig | None = None
    is_substitute: bool = False
    preset: Preset | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target as `Explanation` shows it. `breaker`: its state; `retry_after_s`: seconds until an open
    breaker permits a request.
    """

    provider: str
    model: str
    weight: float | None
    is_served: bool
    breaker: State | None
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """The targets that a model's name leads to. `route`: the route's name; None if the name is a model's."""

    model: str
    route: str | None
    candidates: tuple[Candidate, ...]
    fallback_on: tuple[str, ...] = ()
    retries: int = 0
    hedge_after_ms: int = 0


class Router:
    """Finds targets. `remote`: the names of the backends that are remote providers; `bare`: those of them
    whose models are listed by their own ids. `substitutes`: names that lead to a model where no route, and no
    listed model, has them. `random` draws by weight; `now` is the breakers' clock, in seconds.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        remote: Collection[str],
        bare: Collection[str],
        routes: Mapping[str, RouteConfig],
        substitutes: Mapping[str, str],
        random: Random,
        now: Callable[[], float],
    ) -> None:
        self._routes, self._random, self._now = dict(routes), random, now
        self._local = [backend for backend in backends if backend.name not in remote]
        self._backends = [*self._local, *(backend for backend in backends if backend.name in remote)]
        self._bare, self._substitutes = frozenset(bare), dict(substitutes)
        self._providers = {backend.name for backend in backends}
        self._breakers: dict[str, Breaker] = {}  # target → its breaker, shared by all routes
        self.presets: Mapping[str, Preset] = {}  # by their names; their owner replaces it

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """The breakers of the targets of routes, as far as they have been used."""
        return self._breakers

    def check(self) -> None:
        """Check that every local target is a loaded model. Raises ConfigError."""
        served = some([info.id for backend in self._local for info in backend.models()])
        for name, route in self._routes.items():
            for index, target in enumerate(route.targets):
                if self._split(target.target)[0] is None and not self._find(self._local, target.target):
                    raise ConfigError(
                        f"routes.{name}.targets.{index} = {target.target!r}: no such model is served here "
                        f"(served: {served}); a provider's is written PROVIDER:MODEL"
                    )

    def models(self, provider: str | None = None) -> list[ModelInfo]:
        """Every model and route, by ids that lead to them. Raises ProviderNotFound."""
        if provider is not None:
            return [info for backend in self._of(provider) for info in backend.models()]
        listed = [info for backend in self._backends for info in self._listed(backend)]
        routes = [self._of_route(name, route) for name, route in self._routes.items()]
        # The first one is the default of those who name none, and they want answers.
        listed.sort(key=lambda info: info.kind != "generative")
        own = [*(info for info in listed if info.id not in self._routes), *routes]
        return [*own, *self._of_presets(own)] if self.presets else own

    def local_models(self) -> list[ModelInfo]:
        """The models that run here."""
        return [info for backend in self._local for info in backend.models()]

    def model(self, id: str | None, provider: str | None = None) -> ModelInfo:
        """The model or route of this id, as `models` lists it; for None, the first one. Raises ModelNotFound,
        ProviderNotFound.
        """
        if id is None:
            first = next(iter(self.models(provider)), None)
            if first is None:
                raise ModelNotFound("no model is served, or none is listed: name one", param="model")
            return first
        if provider is None and (preset := self.presets.get(id)) is not None:
            return _named(preset, self.model(preset.base))
        if provider is None and id in self._routes:
            return self._of_route(id, self._routes[id])
        target = self._direct(id, provider)
        return target.info if provider is not None else replace(target.info, id=id)

    def card(self, id: str) -> ModelCard:
        """Facts about a model; of a route, those of its first target. Raises ModelNotFound,
        ProviderNotFound.
        """
        target = self.first(id)
        return target.backend.card(target.info.id)

    def plan(self, id: str, provider: str | None = None, caller: Principal | None = None) -> Plan:
        """The targets for a request, a route's in an order drawn by weight. Raises ModelNotFound,
        ProviderNotFound; Forbidden if the caller's key may not use the model.
        """
        if caller is not None and caller.models:
            check_model(caller, id, provider)
        route = self._routes.get(id) if provider is None else None
        if route is None:
            if provider is None and (preset := self.presets.get(id)) is not None:
                return replace(self.plan(preset.base), preset=preset)
            target = self._direct(id, provider)
            is_substitute = provider is None and self._substitutes.get(id) == target.info.id
            return Plan((target,), is_substitute=is_substitute)
        return Plan(self._served(id, self._drawn(route.targets)), route)

    def first(self, id: str, provider: str | None = None) -> Target:
        """The first served target, whose tokenizer stands for a route. Raises ModelNotFound,
        ProviderNotFound.
        """
        if provider is None and (preset := self.presets.get(id)) is not None:
            return self.first(preset.base)
        route = self._routes.get(id) if provider is None else None
        return self._direct(id, provider) if route is None else self._served(id, route.targets)[0]

    def explain(self, id: str, provider: str | None = None) -> Explanation:
        """All targets with the state of their breakers. Raises ModelNotFound, ProviderNotFound."""
        if provider is None and (preset := self.presets.get(id)) is not None:
            return replace(self.explain(preset.base), model=id)
        route = self._routes.get(id) if provider is None else None
        if route is None:
            target = self._direct(id, provider)
            only = Candidate(target.backend.name, target.info.id, None, True, None, 0.0)
            return Explanation(id, None, (only,))
        candidates = tuple(self._candidate(target) for target in route.targets)
        return Explanation(id, id, candidates, route.fallback_on, route.retries, route.hedge_after_ms)

    def is_taken(self, name: str) -> bool:
        """Whether a name leads to a model, a route or a provider without any preset."""
        if name in self._routes or name in self._substitutes or self._split(name)[0] is not None:
            return True
        return any(info.id == name for backend in self._backends for info in backend.models())

    def _of_presets(self, infos: Sequence[ModelInfo]) -> list[ModelInfo]:
        """The presets of models that are served now."""
        known = {info.id: info for info in infos}
        bases = ((preset, known.get(preset.base)) for preset in self.presets.values())
        return [_named(preset, info) for preset, info in bases if info is not None]

    def _served(self, id: str, targets: Sequence[TargetConfig]) -> tuple[Target, ...]:
        candidates = (self._target(target.target) for target in targets)
        served = tuple(target for target in candidates if target is not None)
        if not served:
            raise ModelNotFound(f"no target of the route {id[:200]!r} is served now", param="model")
        return served

    def _candidate(self, target: TargetConfig) -> Candidate:
        served, breaker = self._target(target.target), self._breaker(target.target)
        provider, model = self._split(target.target)
        if served is not None:
            provider, model = served.backend.name, served.info.id
        return Candidate(
            provider or LOCAL, model, target.weight, served is not None, breaker.state, breaker.retry_after_s
        )

    def _drawn(self, targets: Sequence[TargetConfig]) -> list[TargetConfig]:
        """Neighbours that have weights in random order; targets without a weight stay where they are.

        Sorting by exponential variates with the weights as rates is weighted sampling without replacement.
        """
        ordered: list[TargetConfig] = []
        for is_weighted, group in groupby(targets, lambda target: target.weight is not None):
            if is_weighted:
                ordered += sorted(group, key=lambda t: self._random.expovariate(t.weight or 1.0))
            else:
                ordered += group
        return ordered

    def _target(self, text: str) -> Target | None:
        provider, model = self._split(text)
        backends = self._local if provider is None else self._of(provider)
        place = self._find(backends, model)
        return None if place is None else Target(*place, self._breaker(text))

    def _breaker(self, text: str) -> Breaker:
        return self._breakers.setdefault(text, Breaker(self._now))

    def _direct(self, id: str, provider: str | None) -> Target:
        """The target of a model's id; local models come before those that providers list."""
        if provider is None and ":" in id:
            provider, id = self._split(id)
        if provider is None:
            for backend in self._backends:
                for info in backend.models():
                    if info.id == id:
                        return Target(backend, info)
            if id in self._substitutes:
                return self._direct(self._substitutes[id], None)
            raise self._unknown(id)
        backends = self._of(provider)
        place = self._find(backends, id)
        if place is None:
            listed = some([info.id for backend in backends for info in backend.models()])
            raise ModelNotFound(f"{provider} has no model {id[:200]!r}; it has: {listed}", param="model")
        return Target(*place)

    def _of(self, provider: str) -> list[Backend]:
        backends = [backend for backend in self._backends if backend.name == provider]
        if not backends:
            known = ", ".join(sorted(self._providers)) or "none"
            raise ProviderNotFound(
                f"there is no provider {provider[:100]!r} here; known: {known}", param="provider"
            )
        return backends

    def _unknown(self, id: str) -> ModelNotFound | ProviderNotFound:
        served = some([info.id for info in self.models()])
        provider, colon, _ = id.partition(":")
        if not colon:
            return ModelNotFound(
                f"the model {id[:200]!r} does not exist here; served: {served}", param="model"
            )
        known = ", ".join(sorted(self._providers)) or "none"
        message = f"there is no model {id[:200]!r} and no provider {provider[:100]!r} here"
        return ProviderNotFound(f"{message}; providers: {known}; served: {served}", param="model")

    def _listed(self, backend: Backend) -> list[ModelInfo]:
        if backend in self._local or backend.name in self._bare:
            return backend.models()
        name = backend.name
        return [replace(info, id=f"{name}:{info.id}", owned_by=name) for info in backend.models()]

    def _of_route(self, name: str, route: RouteConfig) -> ModelInfo:
        """A route as a model; its context length is the smallest of its targets'."""
        targets = [self._target(target.target) for target in route.targets]
        lengths = [target.info.max_model_len if target is not None else None for target in targets]
        known = [length for length in lengths if length is not None]
        return ModelInfo(name, LOCAL, 0, min(known) if len(known) == len(lengths) else None, None)

    def _split(self, text: str) -> tuple[str | None, str]:
        """Split PROVIDER:MODEL if there is such a provider; else return None and the whole text."""
        provider, colon, model = text.partition(":")
        return (provider, model) if colon and provider in self._providers else (None, text)

    @staticmethod
    def _find(backends: Sequence[Backend], id: str) -> tuple[Backend, ModelInfo] | None:
        for backend in backends:
            info = backend.find(id)
            if info is not None:
                return backend, info
        return None


def _named(preset: Preset, base: ModelInfo) -> ModelInfo:
    recommended = {name: v for name in RECOMMENDED if isinstance(v := preset.sampling.get(name), int | float)}
    sampling = {**base.sampling, **recommended}
    return replace(base, id=preset.name, created=preset.created, sampling=sampling)


def some(names: Sequence[str]) -> str:
    """Names for an error's text, the first ones of many."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (", ".join(names[:MAX_NAMED]) or "none") + more


def check_model(caller: Principal, model: str, provider: str | None) -> None:
    """Check that the caller's key may use a model, by the name that the caller uses. Raises Forbidden."""
    if caller.may_use(full_name(model, provider)):
        return
    problem = f"this API key may not use the model {model[:200]!r}"
    raise Forbidden(problem, param="model", code="model_not_allowed")


def full_name(model: str, provider: str | None) -> str:
    """A model's name, with the provider that the path names, as PROVIDER:MODEL."""
    return model if provider in (None, LOCAL) else f"{provider}:{model}"
