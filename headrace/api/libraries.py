"""The SAEs and control vectors of served models, for the handlers of /v1/saes and /v1/vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from fastapi import Request

from headrace.api.request import in_time
from headrace.errors import NotFound, SteeringRefused
from headrace.pool import Pool
from headrace.steering.types import SAEInfo, VectorInfo
from headrace.store import Store, StoredAttachment
from headrace.turns.steering import Steering
from headrace.wire.steering_objects import DeletedObject, SAEObject, VectorObject, WholeList, whole_list

if TYPE_CHECKING:  # it needs numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary

Info = TypeVar("Info", SAEInfo, VectorInfo)
Written = TypeVar("Written", SAEObject, VectorObject)


def steering_of(http: Request) -> Steering:
    steering: Steering = http.app.state.steering
    return steering


async def library_of(http: Request, model: str | None = None) -> ModelLibrary:
    """The library of a model, which is loaded first if need be; of the first that can be steered, if none is
    named. Raises ModelNotFound, SteeringRefused, and what loading raises.
    """
    gateway, steering = http.app.state.gateway, steering_of(http)
    name = model if model is not None else http.query_params.get("model")
    if name is None and (loaded := libraries(http)):
        return loaded[0]
    if name is not None:
        gateway.router.first(name)
    every = [info.id for backend in gateway.backends for info in backend.models()]
    able = next((id for id in ([name] if name is not None else every) if steering.can_steer(id)), None)
    library = None if able is None else await _loaded(http, able)
    if library is None:
        named = "no model here" if name is None else f"the model {name[:100]!r}"
        raise SteeringRefused(
            f"{named} can be steered" if name is None else f"{named} cannot be steered",
            code="steering_unsupported",
            param="model",
        )
    return library


async def _loaded(http: Request, model: str) -> ModelLibrary | None:
    target = http.app.state.gateway.router.first(model)
    library: ModelLibrary | None = target.backend.library(target.info.id)
    if library is None and isinstance(target.backend, Pool):
        async with in_time(http):
            await target.backend.load(target.info.id)
        library = target.backend.library(target.info.id)
    return library


def libraries(http: Request) -> list[ModelLibrary]:
    """The libraries of all models in memory that can be steered."""
    backends = http.app.state.gateway.backends
    every = [backend.library(info.id) for backend in backends for info in backend.models()]
    return [library for library in every if library is not None]


async def named_libraries(http: Request) -> list[ModelLibrary]:
    """The library of the model that the query names; if it names none, those of all models in memory."""
    return [await library_of(http)] if "model" in http.query_params else libraries(http)


@dataclass(frozen=True, slots=True)
class Files(Generic[Info, Written]):
    """The files of one kind that requests steer with. `infos`: those of a library; `write`: one as JSON, with
    the name of its model. Methods with an `id` raise NotFound.
    """

    kind: Literal["sae", "vector"]
    name: str  # in errors
    infos: Callable[[ModelLibrary], Sequence[Info]]
    write: Callable[[Info, str], Written]

    async def every(self, http: Request) -> WholeList[Written]:
        named = await named_libraries(http)
        return whole_list(
            [self.write(info, library.model) for library in named for info in self.infos(library)]
        )

    def info(self, library: ModelLibrary, id: str, *, param: str = "id") -> Info:
        infos: dict[str, Info] = {info.id: info for info in self.infos(library)}
        if id not in infos:
            ids = ", ".join([*infos][:20]) or "none"
            raise NotFound(f"There is no {self.name} {id[:64]!r} here; there are: {ids}.", param=param)
        return infos[id]

    def written(self, library: ModelLibrary, id: str) -> Written:
        return self.write(self.info(library, id), library.model)

    async def load(
        self, library: ModelLibrary, store: Store, work: Callable[[], object], attachment: StoredAttachment
    ) -> Written:
        """Load a file by `work`, and attach it if the attachment says so."""
        await asyncio.to_thread(work)
        if attachment.is_attached:
            await asyncio.to_thread(library.attach, attachment.id)
        await store.steering.save_attachment(attachment)
        return self.written(library, attachment.id)

    async def delete(self, http: Request, store: Store, id: str) -> DeletedObject:
        library = await library_of(http)
        self.info(library, id)
        await asyncio.to_thread(library.remove, id)
        await store.steering.delete_attachment(library.model, id)
        return {"id": id, "object": self.kind, "deleted": True}

    async def attach(self, http: Request, store: Store, id: str, layer: int | None = None) -> Written:
        library = await library_of(http)
        self.info(library, id)
        await asyncio.to_thread(library.attach, id, layer=layer)
        return await self.remember(store, library, id, is_attached=True)

    async def detach(self, http: Request, store: Store, id: str) -> Written:
        library = await library_of(http)
        self.info(library, id)
        await asyncio.to_thread(library.detach, id)
        return await self.remember(store, library, id, is_attached=False)

    async def remember(self, store: Store, library: ModelLibrary, id: str, *, is_attached: bool) -> Written:
        """Store whether a file is attached, for the next start."""
        info = self.info(library, id)
        if info.path is not None:
            layer, layers = (info.layer, info.layers) if isinstance(info, SAEInfo) else (None, ())
            await store.steering.save_attachment(
                StoredAttachment(id, library.model, self.kind, str(info.path), layer, is_attached, layers)
            )
        return self.write(info, library.model)
