"""Reads the configuration: defaults < TOML file < environment < flags."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.config import tables
from headrace.config.options import PREFIX, near, options, shown
from headrace.config.providers import ProviderConfig
from headrace.config.section import Source, secrets
from headrace.config.sections import Config
from headrace.errors import ConfigError
from headrace.small_files import read_small_text

DEFAULT_FILE = "headrace.toml"
TABLES = ("providers", "routes", "prices")  # sections with names of the user's own


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where its values come from."""

    config: Config
    sources: dict[str, str]  # key → the source of its value; absent: the default

    @property
    def host_hint(self) -> str:
        """The end of an error about `server.host`, which may come from a HOST that was not meant for us."""
        if self.sources.get("server.host") != "environment HOST":
            return ""
        return (
            ". It comes from the environment variable HOST, which shells and compilers set for themselves: "
            "say --host 127.0.0.1, or unset it"
        )


def load(*, flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None) -> Loaded:
    """Read the configuration. `flags`: key, as in `server.port` → value on the command line. Raises
    ConfigError.
    """
    if file is None and PREFIX + "CONFIG" in environment:
        file = Path(environment[PREFIX + "CONFIG"])
    path = file if file is not None else Path(DEFAULT_FILE)
    written = _read(path, required=file is not None)
    values = _from_file(written, path)
    values.update(_from_environment(environment))
    values.update({key: (value, "flag") for key, value in flags.items()})
    tree: dict[str, dict[str, object]] = {}
    for option in options():
        if option.key in values:
            value, source = values[option.key]
            if option.names.is_secret:
                folder = path.parent if source == str(path) else Path()
                value = secrets(option.key, value, Source(source, folder, environment))
            tree.setdefault(option.section, {})[option.name] = option.validate(value, source)
    sources = {key: source for key, (_, source) in values.items()}
    providers, routes, table_sources = _tables(written, path, environment)
    prices = tables.prices(written.get("prices", {}), Source(str(path), path.parent, environment))
    table_sources |= dict.fromkeys((f"prices.{name}" for name in prices), str(path))
    config = Config.model_validate({**tree, "providers": providers, "routes": routes, "prices": prices})
    loaded = Loaded(config, {**sources, **table_sources})
    _check(loaded)
    return loaded


def _tables(
    written: Mapping[str, Any], path: Path, environment: Mapping[str, str]
) -> tuple[dict[str, object], dict[str, object], dict[str, str]]:
    """Providers, routes, and the source of each. Providers from the environment count only if the file has
    none.
    """
    source = Source(str(path), path.parent, environment)
    providers: dict[str, ProviderConfig]
    if "providers" in written:
        providers = tables.providers(written["providers"], source)
        sources = dict.fromkeys((f"providers.{name}" for name in providers), str(path))
    else:
        of_environment = tables.from_environment(environment)
        providers = {name: provider for name, (provider, _) in of_environment.items()}
        sources = {f"providers.{name}": origin for name, (_, origin) in of_environment.items()}
    routes = tables.routes(written.get("routes", {}), source, providers)
    sources |= dict.fromkeys((f"routes.{name}" for name in routes), str(path))
    return dict(providers), dict(routes), sources


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check(loaded: Loaded) -> None:
    server = loaded.config.server
    if server.needs_key and server.no_auth:
        name = next(name for name in ("api_keys", "admin_keys", "require_auth") if getattr(server, name))
        raise ConfigError(f"server.no_auth contradicts server.{name}: use one of them")
    if server.tls_key and not server.tls_certificate:
        raise ConfigError("server.tls_key needs server.tls_certificate")
    if not server.needs_key and not server.no_auth and not is_loopback(server.host):
        raise ConfigError(
            f"server.host = {server.host!r} can be reached by others and no API key is set: "
            f"add --api-key KEY, or --no-auth to serve everybody{loaded.host_hint}"
        )


def _read(path: Path, *, required: bool) -> dict[str, dict[str, Any]]:
    """The file's sections; none if there is no file. Raises ConfigError if it is `required` or invalid."""
    try:
        tree = tomllib.loads(read_small_text(path))
    except FileNotFoundError as exc:
        if required:
            raise ConfigError(f"the configuration file {path} does not exist") from exc
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise ConfigError(f"the configuration file {path} cannot be read: {exc}") from exc
    for section, part in tree.items():
        if section not in Config.model_fields:
            raise ConfigError(f"{path}: unknown section [{section}]{near(section, Config.model_fields)}")
        if not isinstance(part, dict):
            raise ConfigError(f"{path}: {section} is not a section; write [{section}]")
    return tree


def _from_file(tree: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, tuple[object, str]]:
    known = {option.key: option for option in options()}
    values: dict[str, tuple[object, str]] = {}
    for section, part in tree.items():
        if section in TABLES:
            continue
        for name, value in part.items():
            if f"{section}.{name}" not in known:
                # The value is not shown: a misspelt name may hold a secret.
                alike = near(f"{section}.{name}", known)
                raise ConfigError(f"{path}: unknown key {section}.{name}{alike}")
            values[f"{section}.{name}"] = (value, str(path))
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    known = {variable for option in options() for variable in option.variables} | {PREFIX + "CONFIG"}
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            # The value is not shown: a misspelt name may hold a secret.
            raise ConfigError(f"unknown environment variable {variable}{_meant(variable, known)}")
    values: dict[str, tuple[object, str]] = {}
    for option in options():
        texts = {variable: environment[variable] for variable in option.variables if variable in environment}
        parsed = []
        for variable, text in texts.items():
            value_and_source = (_split(text) if option.is_list else text, f"environment {variable}")
            values[option.key] = value_and_source
            parsed.append(option.validate(*value_and_source))
        if any(other != parsed[0] for other in parsed):
            pairs = ", ".join(
                name if option.names.is_secret else f"{name} = {shown(text)}" for name, text in texts.items()
            )
            raise ConfigError(f"{option.key} has two values in the environment: {pairs}; keep one of them")
    return values


def _meant(variable: str, known: Iterable[str]) -> str:
    if re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)", variable):
        return ": Kubernetes sets it for a service of this name; say `enableServiceLinks: false` in the pod"
    return near(variable, known)


def _split(text: str) -> object:
    """Parse a list from the environment: JSON, or comma-separated; an empty text is an empty list."""
    if text.strip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]
