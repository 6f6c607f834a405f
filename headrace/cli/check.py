"""`headrace check-config`: what is configured and where it comes from, without secrets; with --online, what
each provider says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import BaseModel

from headrace.config import Config, Loaded, Names, options
from headrace.config.kinds import LOCAL
from headrace.errors import HeadraceError, NotFound, ProviderKeyRefused

ONLINE_S = 15.0  # for a provider to answer
SHOWN = 5  # of its models
FAILED = 1
HINTS: dict[type[HeadraceError], str] = {
    ProviderKeyRefused: ", its key was refused",
    NotFound: ", there is nothing at its base_url",
}


def check_config(loaded: Loaded, *, online: bool) -> int:
    """The exit code: 1 when a provider failed."""
    for option in options():
        value = getattr(getattr(loaded.config, option.section), option.name)
        shown = f"({len(value)} set)" if option.names.is_secret else repr(_plain(value))
        print(f"{option.key} = {shown}  # {loaded.sources.get(option.key, 'default')}")
    providers = {f"providers.{name}": entry for name, entry in loaded.config.providers.items()}
    routes = {f"routes.{name}": entry for name, entry in loaded.config.routes.items()}
    for key, entry in (providers | routes).items():
        print(f"[{key}]  # {loaded.sources.get(key, 'default')}", *_members(entry), sep="\n")
    return _ask_all(loaded.config) if online else 0


def _members(entry: BaseModel) -> Iterator[str]:
    for name, info in type(entry).model_fields.items():
        value = getattr(entry, name)
        is_secret = any(isinstance(note, Names) and note.is_secret for note in info.metadata)
        if is_secret:
            yield f"  {name} = {'(set)' if value else '(not set)'}"
        elif name == "targets":
            weighted = (t.target if t.weight is None else f"{t.target} ({t.weight:g})" for t in value)
            yield f"  targets = {list(weighted)!r}"
        else:
            yield f"  {name} = {_plain(value)!r}"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _ask_all(config: Config) -> int:
    if not config.providers:
        print("no providers are configured")
    found = asyncio.run(_asked(config))
    for name, (said, _) in zip(config.providers, found, strict=True):
        print(f"{name}: {said}")
    return 0 if all(is_well for _, is_well in found) else FAILED


async def _asked(config: Config) -> list[tuple[str, bool]]:
    return await asyncio.gather(*(_ask(name, config) for name in config.providers))


async def _ask(name: str, config: Config) -> tuple[str, bool]:
    """What it says, and whether that is well."""
    from headrace.app import build_provider
    from headrace.backends.remote import Remote

    try:
        async with asyncio.timeout(ONLINE_S), AsyncExitStack() as exits:
            backend = build_provider(name, config)
            exits.push_async_callback(backend.aclose)
            await backend.start()
            infos = await backend.list_models() if isinstance(backend, Remote) else backend.models()
    except HeadraceError as exc:
        hint = next((text for kind, text in HINTS.items() if isinstance(exc, kind)), "")
        return f"failed{hint}: {exc.message}", False
    except TimeoutError:
        return f"failed: no answer within {ONLINE_S:g} s", False
    provider = config.providers[name]
    key = "" if provider.kind in LOCAL else ", with a key" if provider.api_key else ", without a key"
    listed = [info.id for info in infos]
    missing = [id for id in _configured(name, config) if id not in listed]
    unlisted = f"; it does not list {_some(missing)}" if missing else ""
    count = f"{len(listed)} model{'' if len(listed) == 1 else 's'}"
    return f"answered{key}; {count}: {_some(listed) or 'none'}{unlisted}", True


def _some(ids: Sequence[str]) -> str:
    return ", ".join([*ids[:SHOWN], *(["…"] if len(ids) > SHOWN else [])])


def _configured(name: str, config: Config) -> list[str]:
    """The models that the configuration asks this provider for."""
    targets = (target.target for route in config.routes.values() for target in route.targets)
    routed = (
        model for provider, _, model in (target.partition(":") for target in targets) if provider == name
    )
    return list(dict.fromkeys([*config.providers[name].models, *filter(None, routed)]))
