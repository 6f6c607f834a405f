"""Steering of requests by name: profiles, which the store has, and what applies to a request that names none.

Precedence: the body's `steering`, its `profile`, the model's suffix (`model@profile`), the header
X-Steering-Profile, the default of the caller's key, everyone's default.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headrace.backend_types import Backend
from headrace.errors import BadRequest, HeadraceError, NotFound, SteeringRefused, StoreUnavailable
from headrace.features import Feature
from headrace.gateway.gateway import Gateway
from headrace.offload import aside
from headrace.steering.types import SteeringRequest
from headrace.store import Store, StoredAttachment, StoredProfile
from headrace.turns.refreshed import Refreshed
from headrace.types import ModelInfo
from headrace.wire.steering import (
    HEADER,
    Labels,
    ProfileBody,
    Steered,
    SteeringBody,
    SteeringMembers,
    to_probes,
    to_steering,
    use_of,
)

if TYPE_CHECKING:  # it needs numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary

log = logging.getLogger(__name__)

Body = TypeVar("Body", bound=SteeringMembers)

NUMBER = 16  # of work, in the unit of headrace.offload, for each character of a direction
EVERYONE = ""  # the owner of the default of those who have none of their own


@dataclass(frozen=True, slots=True)
class Profile:
    stored: StoredProfile
    body: ProfileBody


@dataclass(frozen=True, slots=True)
class _Choice:
    """The profile that applies to a request, and the member, header or other that chose it."""

    name: str
    param: str
    is_default: bool = False


class Profiles(Refreshed):
    """The profiles, as they were read last. Changes by this process are seen at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._profiles: Mapping[str, Profile] = {}
        self._defaults: Mapping[str, str] = {}
        self.has_defaults = False

    async def refresh(self) -> None:
        """Read the profiles. Raises StoreUnavailable."""
        every = await self._store.steering.all()
        known = self._profiles
        self._profiles = {
            name: known[name] if name in known and known[name].stored == stored else _parsed(stored)
            for name, stored in every.profiles.items()
        }
        self._defaults, self.has_defaults = every.defaults, bool(every.defaults)

    @property
    def all(self) -> Mapping[str, Profile]:
        return self._profiles

    @property
    def defaults(self) -> Mapping[str, str]:
        """The name of each owner's default."""
        return self._defaults

    def default_of(self, owner: str) -> str | None:
        """The name of the profile of an owner's requests that name none."""
        return self._defaults.get(owner) or self._defaults.get(EVERYONE)

    async def find(self, name: str, param: str) -> Profile:
        """The profile of this name. Raises SteeringRefused, StoreUnavailable."""
        if name not in self._profiles:
            await self.refresh()  # another process may have created it just now
        if name not in self._profiles:
            raise SteeringRefused(
                f"{param}: there is no steering profile {name[:64]!r}",
                code="steering_unknown_profile",
                param=param,
            )
        return self._profiles[name]


def _parsed(stored: StoredProfile) -> Profile:
    return Profile(stored, ProfileBody.model_validate(stored.body))


class Steering:
    """Resolves the steering of requests: their own members, and the defaults that apply without any."""

    def __init__(self, gateway: Gateway, store: Store) -> None:
        self._gateway, self._store, self.profiles = gateway, store, Profiles(store)
        self.lens = asyncio.Lock()  # held while the model's head is compiled and read

    async def start(self) -> None:
        """Read the profiles, and load what was loaded when the server ran last. Call it once the backends
        have started.
        """
        await self.profiles.start()
        for backend in self._gateway.backends:
            for info in backend.models():
                await self.restore(backend, info.id)

    async def aclose(self) -> None:
        await self.profiles.aclose()

    async def restore(self, backend: Backend, model: str) -> None:
        """Load what was loaded for a model when it was in memory last. A database that cannot be reached is
        logged: requests that need a file get an error.
        """
        library = backend.library(model)
        if library is None:
            return
        try:
            stored = await self._store.steering.attachments()
        except StoreUnavailable as exc:
            log.warning("what %s is steered with cannot be loaded: %s", model, exc.message)
            return
        for attachment in stored:
            if attachment.model == library.model:
                await asyncio.to_thread(_restore, library, attachment)

    def models(self, provider: str | None = None) -> list[ModelInfo]:
        """Each model with each of its profiles, as `model@profile`, for lists of models."""
        profiles = [profile.stored for profile in self.profiles.all.values()]
        infos = self._gateway.router.models(provider) if profiles else []
        return [
            _with_suffix(info, profile.name)
            for info in infos
            if self.can_steer(info.id, provider)
            for profile in profiles
            if profile.model in (None, info.id)
        ]

    def model(self, id: str, provider: str | None) -> ModelInfo | None:
        """The model that `model@profile` names; None if it is no such name."""
        base, name = self.split(id, provider)
        if name is None or name not in self.profiles.all:
            return None
        return _with_suffix(self._gateway.router.model(base, provider), name)

    def can_steer(self, model: str, provider: str | None = None) -> bool:
        """Whether a model can be steered, if need be after it was loaded."""
        try:
            target = self._gateway.router.first(model, provider)
        except NotFound:
            return False
        return Feature.STEERING in target.backend.features_of(target.info.id)

    def library(self, model: str, provider: str | None = None) -> ModelLibrary | None:
        """What a model in memory may be steered with; None: it cannot be steered, or is unknown."""
        try:
            target = self._gateway.router.first(model, provider)
        except NotFound:
            return None
        return target.backend.library(target.info.id)

    async def steered(
        self,
        owner: str,
        body: Body,
        provider: str | None = None,
        header: str | None = None,
        *,
        has_choices: bool = False,
    ) -> Body:
        """The body with what its members and the header amount to. `has_choices`: it may have n answers.
        Raises BadRequest, StoreUnavailable.
        """
        is_named = any(value is not None for value in (body.steering, body.profile, body.probe, header))
        if not is_named and "@" not in _model(body) and self.profiles.default_of(owner) is None:
            return body
        model, suffix = self.split(_model(body), provider)
        changes: dict[str, object] = {} if suffix is None else {"model": model}
        choice = _choice(body, suffix, header) or self._default(owner, body, model, provider)
        own = body.steering if isinstance(body.steering, SteeringBody) else None
        steering, uses = None, []
        if own is not None or choice is not None:
            steering = await self._request(own, choice, model)
            uses = [use_of(choice.param)] if choice is not None and choice.param in (HEADER, "model") else []
            changes |= _choices(body, steering, has_choices=has_choices)
        probes = to_probes(body.probe)
        labels = cache(partial(self._labels, model, provider))  # read once, when the answer begins
        return body.with_steered(Steered(steering, probes, tuple(uses), labels), **changes)

    async def _request(self, own: SteeringBody | None, choice: _Choice | None, model: str) -> SteeringRequest:
        if choice is None:
            return await aside(work_of(own, None), partial(to_steering, own, None, None))
        profile = await self.profiles.find(choice.name, choice.param)
        made_for = profile.stored.model
        if made_for not in (None, model):
            raise SteeringRefused(
                f"{choice.param}: the profile {choice.name!r} is for {made_for}, not for {model[:100]}",
                code="steering_unknown_profile",
                param=choice.param,
            )
        work = partial(to_steering, own, profile.body, choice.name)
        return await aside(work_of(own, profile.body), work)

    def _default(self, owner: str, body: Body, model: str, provider: str | None) -> _Choice | None:
        """The default, if it is for a model that can be steered and the body says nothing."""
        name = self.profiles.default_of(owner)
        if name is None or body.steering is not None or not self.can_steer(model, provider):
            return None
        profile = self.profiles.all.get(name)
        is_for_it = profile is not None and profile.stored.model in (None, model)
        return _Choice(name, "profile", is_default=True) if is_for_it else None

    def split(self, id: str, provider: str | None) -> tuple[str, str | None]:
        """(model, profile) of `model@profile`; an id that leads to a model as it is has no profile."""
        base, sign, name = id.rpartition("@")
        if not sign or self._has(id, provider) or not self._has(base, provider):
            return id, None
        return base, name

    def _has(self, id: str, provider: str | None) -> bool:
        try:
            self._gateway.router.model(id, provider)
        except NotFound:
            return False
        return True

    def _labels(self, model: str, provider: str | None) -> Labels:
        library = self.library(model, provider)
        return {} if library is None else {info.id: info.labels for info in library.saes()}


def _restore(library: ModelLibrary, stored: StoredAttachment) -> None:
    """Load a file again, and attach it where it was. One that is gone or unfit is logged: requests that need
    it get an error.
    """
    loaded = {info.id: info.path for info in library.saes()}
    loaded |= {info.id: info.path for info in library.vectors()}
    try:
        if stored.id not in loaded and stored.kind == "sae":
            library.load_sae(stored.id, Path(stored.path), layer=stored.layer)
        elif stored.id not in loaded:
            library.load_vector(stored.id, Path(stored.path))
        elif str(loaded[stored.id]) != stored.path:
            return  # the option steering.attach names another file
        for layer in (stored.layers or (None,)) if stored.is_attached else ():
            library.attach(stored.id, layer=layer)
    except HeadraceError as exc:
        log.warning("the %s %s cannot be loaded: %s", stored.kind, stored.id, exc.message)


def work_of(*bodies: ProfileBody | None) -> int:
    """The work of reading their directions, in the unit of headrace.offload."""
    ops = [op for body in bodies if body is not None for op in body.ops]
    return NUMBER * sum(len(op.direction.data) for op in ops if op.direction is not None)


def _model(body: SteeringMembers) -> str:
    model: str = getattr(body, "model", "")
    return model


def _choice(body: SteeringMembers, suffix: str | None, header: str | None) -> _Choice | None:
    """The profile that the request names. Raises BadRequest if its body names two."""
    steering = body.steering
    if steering is False:
        return None
    if isinstance(steering, str):
        return _Choice(steering, "steering")
    if isinstance(steering, SteeringBody):
        if steering.profile is not None and body.profile not in (None, steering.profile):
            raise BadRequest("profile and steering.profile differ", param="profile")
        if steering.profile is not None:
            return _Choice(steering.profile, "steering.profile")
        return None if body.profile is None else _Choice(body.profile, "profile")
    named = ((body.profile, "profile"), (suffix, "model"), (header, HEADER))
    return next((_Choice(name, param) for name, param in named if name is not None), None)


def _choices(body: SteeringMembers, steering: SteeringRequest, *, has_choices: bool) -> dict[str, object]:
    """The number of answers that a sweep needs, as a change of the body. Raises BadRequest."""
    count = len(steering.sweep)
    if not count:
        return {}
    if not has_choices:
        raise BadRequest.at("steering.sweep", "this endpoint has one answer: set steering.scale")
    n, best_of = getattr(body, "n", None), getattr(body, "best_of", None)
    if best_of is not None:
        raise BadRequest.at("steering.sweep", "a sweep and best_of exclude each other")
    if "n" in body.model_fields_set and n not in (None, count):
        raise BadRequest.at("steering.sweep", f"it has {count} scales for n = {n} answers")
    return {"n": count}


def _with_suffix(info: ModelInfo, name: str) -> ModelInfo:
    return replace(info, id=f"{info.id}@{name}")
