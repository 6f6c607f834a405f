"""Models that were created of served ones: the store has them, and the gateway's router finds them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import BadRequest, ModelNotFound
from headrace.gateway.gateway import Gateway
from headrace.gateway.routing import Preset
from headrace.models.references import ALIASES
from headrace.store import Store, StoredPreset
from headrace.turns.refreshed import Refreshed
from headrace.wire.ollama.models import CreateBody, checked_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Created:
    stored: StoredPreset
    body: CreateBody
    preset: Preset


class Presets(Refreshed):
    """The created models, by name."""

    def __init__(self, gateway: Gateway, store: Store) -> None:
        self._router, self._store = gateway.router, store
        self._all: Mapping[str, Created] = {}

    @property
    def all(self) -> Mapping[str, Created]:
        return self._all

    async def refresh(self) -> None:
        """Read all presets from the store. Raises StoreUnavailable."""
        presets: dict[str, Created] = {}
        for stored in await self._store.presets.all():
            known = self._all.get(stored.name)
            if known is not None and known.stored == stored:
                presets[stored.name] = known
            elif (read := _read(stored)) is not None:
                presets[stored.name] = read
        self._show(presets)

    def checked(self, body: CreateBody) -> Created:
        """The model that the body describes, with a name that is free, made of a model that was not created
        itself. Raises BadRequest, ModelNotFound.
        """
        name = checked_name(body.id, "model")
        if name not in self._all and (self._router.is_taken(name) or name in ALIASES):
            raise BadRequest.at("model", f"{name} is the name of another model or of a provider")
        origin = self._all.get(body.base)
        if origin is not None:
            body = body.over(origin.body)
        body = body.model_copy(update={"model": name, "name": None})
        return _made(StoredPreset(name, body.stored()), body)

    async def create(self, preset: Created) -> None:
        """Store what `checked` has returned. Raises StoreUnavailable, BadRequest."""
        saved = await self._store.presets.save(preset.stored)
        self._show({**self._all, saved.name: _made(saved, preset.body)})

    async def delete(self, name: str) -> None:
        """Delete a created model. Raises ModelNotFound, StoreUnavailable."""
        if name not in self._all:
            raise ModelNotFound(f"the model {name[:200]!r} was not created here", param="model")
        await self._store.presets.delete(name)
        self._show({other: preset for other, preset in self._all.items() if other != name})

    def _show(self, presets: Mapping[str, Created]) -> None:
        self._all = presets
        self._router.presets = {name: preset.preset for name, preset in presets.items()}


def _made(stored: StoredPreset, body: CreateBody) -> Created:
    preset = Preset(
        stored.name,
        body.base,
        body.system or "",
        body.opening(),
        body.sampling(),
        body.foreign(),
        stored.created_at,
    )
    return Created(stored, body, preset)


def _read(stored: StoredPreset) -> Created | None:
    """Parse a stored preset; None if it cannot be read, because another version of this program wrote it."""
    try:
        return _made(stored, CreateBody.model_validate({**stored.body, "model": stored.name}))
    except (ValueError, BadRequest) as exc:
        log.warning("the created model %s cannot be read: %s", stored.name, exc)
        return None
