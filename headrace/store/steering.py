"""Steering profiles, the profiles of requests that name none, and the files that are loaded at the start.
They belong to the server, not to an owner.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from headrace.errors import BadRequest, ProfileNotFound
from headrace.store.database import Database, reads, writes
from headrace.store.hashing import to_json
from headrace.store.records import StoredAttachment, StoredProfile
from headrace.store.tables import attachments, defaults, profiles

MAX_PROFILES = 1_000
EVERYONE = ""  # the owner of the default of those who have no own


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles, by name, and the name of each owner's default."""

    profiles: Mapping[str, StoredProfile]
    defaults: Mapping[str, str]


class Steering:
    """Methods that name a profile raise ProfileNotFound (404)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @reads
    def all(self, c: Connection) -> Profiles:
        every = [_profile(row) for row in c.execute(select(profiles).order_by(profiles.c.name))]
        owners = {row.owner: row.profile for row in c.execute(select(defaults))}
        return Profiles({profile.name: profile for profile in every}, owners)

    @writes
    def save(self, c: Connection, profile: StoredProfile, *, is_new: bool) -> StoredProfile:
        """Create or change a profile. Raises BadRequest if a new one exists, or there are too many."""
        now = int(time.time())

        row = c.execute(select(profiles).where(profiles.c.name == profile.name)).first()
        if is_new and row is not None and json.loads(row.body) != dict(profile.body):
            raise BadRequest(f"there is a profile {profile.name!r}: change it with PUT", param="name")
        if row is None and (c.scalar(select(func.count()).select_from(profiles)) or 0) >= MAX_PROFILES:
            raise BadRequest(f"there are {MAX_PROFILES} profiles already", param="name")
        saved = replace(profile, created_at=now if row is None else row.created_at, changed_at=now)
        values = {**asdict(saved), "body": to_json(dict(saved.body))}
        if row is None:
            c.execute(insert(profiles).values(values))
        else:
            c.execute(update(profiles).where(profiles.c.name == saved.name).values(values))
        return saved

    @writes
    def delete(self, c: Connection, name: str) -> None:
        if not c.execute(delete(profiles).where(profiles.c.name == name)).rowcount:
            raise ProfileNotFound(f"No steering profile with name '{name}' found.", param="name")
        c.execute(delete(defaults).where(defaults.c.profile == name))

    @writes
    def set_default(self, c: Connection, owner: str, profile: str | None) -> None:
        """Set the profile of an owner's requests, or EVERYONE's; None: none."""
        c.execute(delete(defaults).where(defaults.c.owner == owner))
        if profile is None:
            return
        if c.execute(select(profiles.c.name).where(profiles.c.name == profile)).first() is None:
            raise ProfileNotFound(f"No steering profile with name '{profile}' found.", param="profile")
        c.execute(insert(defaults).values(owner=owner, profile=profile))

    @reads
    def attachments(self, c: Connection) -> Sequence[StoredAttachment]:
        rows = c.execute(select(attachments).order_by(attachments.c.id)).all()
        return [
            StoredAttachment(**{**row._mapping, "layers": tuple(json.loads(row.layers or "[]"))})
            for row in rows
        ]

    @writes
    def save_attachment(self, c: Connection, attachment: StoredAttachment) -> None:
        _forget(c, attachment.model, attachment.id)
        layers = json.dumps(attachment.layers)
        c.execute(insert(attachments).values({**asdict(attachment), "layers": layers}))

    async def delete_attachment(self, model: str, id: str) -> None:
        await self._database.write(lambda c: _forget(c, model, id))


def _forget(c: Connection, model: str, id: str) -> None:
    c.execute(delete(attachments).where(attachments.c.id == id, attachments.c.model == model))


def _profile(row: Row[tuple[object, ...]]) -> StoredProfile:
    return StoredProfile(**{**row._mapping, "body": json.loads(row.body)})
