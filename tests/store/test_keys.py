"""Keys in the store: shown once, hashed, changed, rotated, revoked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import select, text

from headrace.callers import Limits
from headrace.errors import BadRequest, KeyNotFound
from headrace.store import StoredKey
from headrace.store.keys import SECRET
from headrace.store.tables import keys
from tests.store.conftest import Opened

KEY = StoredKey("", "laptop", "ann", "", 0, models=("m", "gpt-*"), limits=Limits(tokens_per_minute=5))


def test_a_key_is_found_by_its_secret_which_is_stored_nowhere(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made, secret = await store.keys.create(KEY)
            assert SECRET.fullmatch(secret)
            assert made == replace(KEY, id=made.id, hint=made.hint, created_at=made.created_at)
            assert (secret.startswith(made.hint[:9]), secret.endswith(made.hint[-4:])) == (True, True)
            row = await store._database.read(lambda c: c.execute(select(keys)).one())
            assert secret[10:-5] not in repr(row)
        async with opened() as store:  # another process
            assert await store.keys.find(secret) == made == await store.keys.get(made.id)
            assert await store.keys.find(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None

    asyncio.run(run())


def test_rotation_keeps_the_key_and_ends_the_old_secret(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made, old = await store.keys.create(KEY)
            rotated, new = await store.keys.rotate(made.id)
            assert (rotated.id, rotated.limits, old != new) == (made.id, made.limits, True)
            assert await store.keys.find(old) is None
            assert await store.keys.find(new) == rotated
            await store.keys.revoke(made.id)
            with pytest.raises(BadRequest, match="revoked"):
                await store.keys.rotate(made.id)

    asyncio.run(run())


def test_a_revoked_or_expired_key_is_found_but_not_valid(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made, secret = await store.keys.create(replace(KEY, expires_at=1000))
            assert (made.is_valid(999), made.is_valid(1000)) == (True, False)
            first = await store.keys.revoke(made.id)
            assert await store.keys.revoke(made.id) == first
            found = await store.keys.find(secret)
            assert found is not None
            assert not found.is_valid(0)

    asyncio.run(run())


def test_lists_are_paged_newest_first(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = [(await store.keys.create(replace(KEY, name=str(number))))[0] for number in range(5)]
            first = await store.keys.page(limit=3)
            assert [key.name for key in first.data] == ["4", "3", "2"]
            assert first.has_more
            rest = await store.keys.page(limit=3, after=first.data[-1].id)
            assert ([key.name for key in rest.data], rest.has_more) == (["1", "0"], False)
            changed = await store.keys.update(
                made[0].id, lambda key: replace(key, name="new", limits=Limits())
            )
            assert await store.keys.get(made[0].id) == changed
            assert (changed.name, changed.limits.exist) == ("new", False)

    asyncio.run(run())


def test_changes_at_the_same_time_do_not_undo_each_other(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as one, opened() as other:
            made, _ = await one.keys.create(KEY)
            for number in range(10):
                limits = Limits(tokens_per_minute=number)
                changes: list[dict[str, object]] = [
                    {"name": f"n{number}"},
                    {"owner": f"o{number}"},
                    {"limits": limits},
                ]
                await asyncio.gather(
                    *(store.keys.update(made.id, partial(_changed, members))
                      for store, members in zip((one, other, one), changes, strict=True))
                )  # fmt: skip
                found = await other.keys.get(made.id)
                assert (found.name, found.owner, found.limits) == (f"n{number}", f"o{number}", limits)

    asyncio.run(run())


def _changed(members: dict[str, object], key: StoredKey) -> StoredKey:
    return replace(key, **members)  # type: ignore[arg-type]


def test_a_name_may_be_any_text(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made, _ = await store.keys.create(replace(KEY, name="a\0b\ud800", owner="'; DROP TABLE keys; --"))
            assert (await store.keys.get(made.id)).owner == "'; DROP TABLE keys; --"

    asyncio.run(run())


def test_what_does_not_exist_is_404(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            for work in (store.keys.get, store.keys.revoke, store.keys.rotate):
                with pytest.raises(KeyNotFound):
                    await work("key_none")
            with pytest.raises(BadRequest, match="No key"):
                await store.keys.page(limit=1, after="key_none")
            await store._database.read(lambda c: c.execute(text("SELECT 1")).all())

    asyncio.run(run())
