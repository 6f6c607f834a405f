"""`headrace check-config`: prints the configuration and the source of each value as TOML, without secrets;
with --online also each provider's list of models, as comments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import BaseModel

from headrace.backend_types import Backend
from headrace.config import Config, Loaded, Names, TargetConfig, options
from headrace.config.kinds import LOCAL
from headrace.errors import HeadraceError, NotFound, ProviderKeyRefused
from headrace.logs import one_line
from headrace.types import ModelInfo

ONLINE_S = 15.0  # how long a provider may take to answer
SHOWN = 5  # how many of its models are printed
FAILED = 1
MASK = "(secret)"
HINTS: dict[type[HeadraceError], str] = {
    ProviderKeyRefused: ", its key was refused",
    NotFound: ", there is nothing at its base_url",
}
BARE = re.compile(r"[A-Za-z0-9_-]+")


def check_config(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Print the configuration. The exit code is 1 if a provider failed. Raises ConfigError for a certificate
    that cannot be used.
    """
    if loaded.config.server.tls_certificate:
        from headrace.server.tls import Certificate

        Certificate(loaded.config.server)
    print("# what is configured, as TOML; secrets are masked", *_sections(loaded), *_tables(loaded), sep="\n")
    return _report_all(loaded.config) if arguments.online else 0


def _sections(loaded: Loaded) -> Iterator[str]:
    section = ""
    for option in options():
        if option.section != section:
            section = option.section
            yield f"\n[{section}]"
        value = getattr(getattr(loaded.config, section), option.name)
        shown = _masked(value) if option.names.is_secret else value
        yield f"{option.name} = {as_toml(shown)}  # {_source(loaded, option.key)}"


def _tables(loaded: Loaded) -> Iterator[str]:
    config = loaded.config
    tables = (("providers", config.providers), ("routes", config.routes), ("prices", config.prices))
    for kind, entries in tables:
        for name, entry in entries.items():
            yield f"\n[{kind}.{toml_key(name)}]  # {_source(loaded, f'{kind}.{name}')}"
            yield from _members(entry)


def _source(loaded: Loaded, key: str) -> str:
    return one_line(loaded.sources.get(key, "default"))


def _members(entry: BaseModel) -> Iterator[str]:
    for name, info in type(entry).model_fields.items():
        value = getattr(entry, name)
        is_secret = any(isinstance(note, Names) and note.is_secret for note in info.metadata)
        if value is None:
            yield f"# {name} is not set"
        elif name == "targets":
            yield f"targets = {as_toml([_target(target) for target in value])}"
        else:  # a default is a comment: some kinds of providers do not have the member
            mark = "# " if value == info.get_default(call_default_factory=True) else ""
            yield f"{mark}{name} = {as_toml(_masked(value) if is_secret else value)}"


def _target(target: TargetConfig) -> object:
    return target.target if target.weight is None else {"target": target.target, "weight": target.weight}


def _masked(value: object) -> object:
    """Replace each text in a secret value by MASK, unless it is empty."""
    if isinstance(value, Mapping):
        return dict.fromkeys(value, MASK)
    if isinstance(value, tuple):
        return [MASK for _ in value]
    return MASK if value else ""


def _report_all(config: Config) -> int:
    if not config.providers:
        print("\n# no providers are configured")
    results = asyncio.run(_probe_all(config))
    print()
    for name, (report, _) in zip(config.providers, results, strict=True):
        print(f"# {name}: {one_line(report)}")
    return 0 if all(succeeded for _, succeeded in results) else FAILED


async def _probe_all(config: Config) -> list[tuple[str, bool]]:
    return await asyncio.gather(*(_probe(name, config) for name in config.providers))


async def _probe(name: str, config: Config) -> tuple[str, bool]:
    """Request a provider's list of models. Returns a report, and whether it succeeded."""
    if config.providers[name].python is not None:
        return "it is not started for this: `headrace serve` does", True
    from headrace.assembly import build_provider

    try:
        async with asyncio.timeout(ONLINE_S), AsyncExitStack() as exits:
            backend = build_provider(name, config)
            exits.push_async_callback(backend.aclose)
            await backend.start()
            infos = await _listed(backend)
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


async def _listed(backend: Backend) -> list[ModelInfo]:
    """The models that a provider lists now. Raises ServerError, also if one of its replicas has no list."""
    from headrace.backends.remote import Remote
    from headrace.backends.replicas import Replicas

    if isinstance(backend, Replicas):
        return await backend.list_models()
    return await backend.list_models() if isinstance(backend, Remote) else backend.models()


def _some(ids: Sequence[str]) -> str:
    return ", ".join([*ids[:SHOWN], *(["…"] if len(ids) > SHOWN else [])])


def _configured(name: str, config: Config) -> list[str]:
    """The provider's models that the configuration names."""
    targets = (target.target for route in config.routes.values() for target in route.targets)
    routed = (
        model for provider, _, model in (target.partition(":") for target in targets) if provider == name
    )
    return list(dict.fromkeys([*config.providers[name].models, *filter(None, routed)]))


def toml_key(name: str) -> str:
    return name if BARE.fullmatch(name) else toml_text(name)


def toml_text(value: str) -> str:
    """A basic string on one line: unprintable characters escaped, lone surrogates replaced."""
    whole = value.encode("utf-8", "replace").decode()
    quoted = json.dumps(whole, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


def as_toml(value: object) -> str:
    """A boolean, number, text, path, list or mapping, on one line. Raises TypeError for other types."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (str, Path)):
        return toml_text(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(name)} = {as_toml(below)}" for name, below in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    raise TypeError(f"{type(value).__name__} is not written in TOML")
