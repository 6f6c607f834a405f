"""/v1/steering: profiles, the profile of requests that name none, a check, and what can be steered. Changes
need an administrator's key.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_args

from fastapi import APIRouter, Depends, Request

from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES
from headrace.api.libraries import library_of, named_libraries, steering_of
from headrace.api.request import Caller, Stored, in_time
from headrace.api.routes import V1, route
from headrace.errors import BadRequest, ProfileNotFound, SteeringRefused
from headrace.offload import aside
from headrace.steering.types import Exemption, Mode, Unit
from headrace.store import Store, StoredProfile
from headrace.turns.steering import EVERYONE, work_of
from headrace.types import Conversation, GenerateRequest, Message, Sampling, Started, Texts
from headrace.wire import steering_objects as wire
from headrace.wire.activations import receipt_body
from headrace.wire.limits import MAX_OPS, MAX_PROBES
from headrace.wire.steering import Steered, SteeringMembers, to_steering

if TYPE_CHECKING:  # it needs numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary

router = APIRouter(tags=["steering"], responses=RESPONSES)

PROFILES = "/steering/profiles"


async def _known(http: Request, name: str) -> StoredProfile:
    """The profile that the path names. Raises ProfileNotFound, StoreUnavailable."""
    profiles = steering_of(http).profiles
    if name not in profiles.all:
        await profiles.refresh()
    if name not in profiles.all:
        raise ProfileNotFound(f"No steering profile with name '{name[:64]}' found.", param="name")
    return profiles.all[name].stored


Known = Annotated[StoredProfile, Depends(_known)]


@route(router, "GET", PROFILES, under=V1, summary="List steering profiles")
async def list_profiles(http: Request, _: Caller) -> wire.WholeList[wire.ProfileObject]:
    profiles = steering_of(http).profiles
    await profiles.refresh()
    return wire.whole_list([wire.profile(profile.stored) for profile in profiles.all.values()])


@route(router, "POST", PROFILES, under=V1, summary="Create a steering profile")
async def create_profile(
    http: Request, _: Admin, store: Stored, body: wire.ProfileCreation
) -> wire.ProfileObject:
    return await _save(http, store, body, body.name, is_new=True)


@route(
    router, "POST", PROFILES + "/import", under=V1, summary="Create a profile that another server exported"
)
async def import_profile(http: Request, _: Admin, store: Stored, body: wire.ImportBody) -> wire.ProfileObject:
    profile = body.profile
    library = await library_of(http, profile.model)
    known = _digests(library)
    for name, digest in body.requires.items():
        if known.get(name) != digest:
            problem = "is not loaded here" if name not in known else "has other numbers here"
            raise SteeringRefused(
                f"requires.{name[:64]}: {name[:64]!r} {problem}; the profile would do something else",
                code="steering_unknown_sae",
                param=f"requires.{name[:64]}",
            )
    return await _save(http, store, profile, profile.name, is_new=True)


@route(router, "GET", PROFILES + "/{name}", under=V1, summary="Retrieve a steering profile")
async def retrieve_profile(_: Caller, profile: Known) -> wire.ProfileObject:
    return wire.profile(profile)


@route(router, "PUT", PROFILES + "/{name}", under=V1, summary="Replace a steering profile")
async def replace_profile(
    http: Request, _: Admin, store: Stored, profile: Known, body: wire.ProfileChange
) -> wire.ProfileObject:
    return await _save(http, store, body, profile.name, is_new=False)


@route(router, "DELETE", PROFILES + "/{name}", under=V1, summary="Delete a steering profile")
async def delete_profile(http: Request, _: Admin, store: Stored, profile: Known) -> wire.DeletedObject:
    await store.steering.delete(profile.name)
    await steering_of(http).profiles.refresh()
    return {"id": profile.name, "object": "steering.profile", "deleted": True}


@route(
    router, "GET", PROFILES + "/{name}/export", under=V1, answer=dict[str, Any],
    summary="Export a profile, with digests of what it needs",
)  # fmt: skip
async def export_profile(http: Request, _: Caller, profile: Known) -> dict[str, Any]:
    known = _digests(await library_of(http, profile.model))
    parsed = steering_of(http).profiles.all[profile.name].body
    return wire.export(profile, {name: known[name] for name in wire.needed(parsed) if name in known})


@route(
    router, "GET", "/steering/default", under=V1, summary="Retrieve the profile of requests that name none"
)
async def retrieve_default(http: Request, caller: Caller) -> wire.DefaultObject:
    await steering_of(http).profiles.refresh()
    return _default(http, caller.id)


@route(router, "PUT", "/steering/default", under=V1, summary="Set the profile of requests that name none")
async def set_default(
    http: Request, caller: Admin, store: Stored, body: wire.DefaultBody
) -> wire.DefaultObject:
    owner = caller.id if body.scope == "me" else EVERYONE
    await store.steering.set_default(owner, body.profile)
    await steering_of(http).profiles.refresh()
    return _default(http, caller.id)


@route(
    router, "DELETE", "/steering/default", under=V1, summary="Remove the profile of requests that name none"
)
async def delete_default(http: Request, caller: Admin, store: Stored) -> wire.DefaultObject:
    scope = http.query_params.get("scope", "everyone")
    if scope not in ("everyone", "me"):
        raise BadRequest("scope must be everyone or me", param="scope")
    await store.steering.set_default(caller.id if scope == "me" else EVERYONE, None)
    await steering_of(http).profiles.refresh()
    return _default(http, caller.id)


@route(
    router, "POST", "/steering/validate", under=V1,
    summary="Check steering, and return what it amounts to in raw numbers",
)  # fmt: skip
async def validate(http: Request, caller: Caller, body: wire.ValidateBody) -> wire.ValidatedObject:
    library = await library_of(http, body.model)
    members = _SteeringOfModel(model=library.model, steering=body.steering, profile=None, probe=None)
    resolved = await steering_of(http).steered(caller.id, members)
    steered = _unconditional(resolved.steered)
    # A short prompt shows what the engine makes of it: the same code as for any request.
    prompt = Conversation((Message("user", "a"),)) if _has_roles(steered) else Texts(("a b c",))
    request = GenerateRequest(library.model, prompt, Sampling(max_tokens=1), owner=caller.id)
    async with in_time(http):
        generation = await http.app.state.gateway.start(steered.applied(request))
    try:
        first = await generation.first()
    finally:
        await asyncio.shield(generation.aclose())
    assert isinstance(first, Started)
    if first.receipt is None:
        raise BadRequest.at("steering", "it does nothing")
    return {
        "object": "steering.validation",
        "model": library.model,
        "valid": True,
        "receipt": receipt_body(replace(first.receipt, condition=None), {}),
    }


@route(router, "GET", "/steering/capabilities", under=V1, summary="What can be steered, and how")
async def capabilities(http: Request, _: Caller) -> wire.CapabilitiesObject:
    return {
        "object": "steering.capabilities",
        "models": [_steerable(library) for library in await named_libraries(http)],
        "modes": list(get_args(Mode)),
        "units": list(get_args(Unit)),
        "exceptions": list(get_args(Exemption)),
        "max_ops": MAX_OPS,
        "max_probes": MAX_PROBES,
    }


async def _save(
    http: Request, store: Store, body: wire.ProfileCreation | wire.ProfileChange, name: str, *, is_new: bool
) -> wire.ProfileObject:
    """Store a profile. Raises BadRequest for one that every request would be refused for."""
    await aside(work_of(body.steering), partial(to_steering, None, body.steering, name))
    saved = await store.steering.save(wire.to_stored(body, name), is_new=is_new)
    await steering_of(http).profiles.refresh()
    return wire.profile(saved)


class _SteeringOfModel(SteeringMembers):
    model: str


def _has_roles(steered: Steered) -> bool:
    """Whether only a conversation has the tokens that are steered."""
    steering = steered.steering
    applies = [] if steering is None else [op.apply or steering.apply for op in steering.ops]
    return any(apply.roles is not None for apply in applies)


def _unconditional(steered: Steered) -> Steered:
    """Replace the condition by one that every prompt meets; the feature that it names is still checked."""
    steering = steered.steering
    if steering is None or steering.when is None:
        return steered
    when = replace(steering.when, above=None, below=None)
    return replace(steered, steering=replace(steering, when=when))


def _steerable(library: ModelLibrary) -> wire.SteerableModel:
    return {
        "model": library.model,
        "width": library.width,
        "num_layers": library.num_layers,
        "attached_layers": list(library.layers),
        "saes": [info.id for info in library.saes()],
        "vectors": [info.id for info in library.vectors()],
    }


def _digests(library: ModelLibrary) -> dict[str, str]:
    """The digest of each SAE's and each vector's numbers, by id."""
    saes = {info.id: info.digest for info in library.saes()}
    return saes | {info.id: info.digest for info in library.vectors()}


def _default(http: Request, owner: str) -> wire.DefaultObject:
    defaults = steering_of(http).profiles.defaults
    return {
        "object": "steering.default",
        "everyone": defaults.get(EVERYONE),
        "me": None if owner == EVERYONE else defaults.get(owner),
    }
