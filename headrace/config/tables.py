"""Reads the tables with names of the user's choice, [providers.NAME], [routes.NAME] and [prices.MODEL], and
the providers that environment variables configure.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from headrace.config.options import near, shown
from headrace.config.providers import PriceConfig, ProviderConfig, RouteConfig
from headrace.config.section import Names, Section, Source, secret
from headrace.errors import ConfigError

LOCAL = "headrace"  # the provider of local models
RESERVED = frozenset(
    (
        LOCAL,
        "api",
        "docs",
        "health",
        "metrics",
        "ping",
        "ready",
        "redoc",
        "rerank",
        "tokenize",
        "detokenize",
        "v1",
        "v2",
    )
)
STARTED = ("vllm", "sglang")  # kinds of servers that we can start
OLLAMA_PORT = 11434
OLLAMA_NAMES = ("OLLAMA_HOST", "OLLAMA_BASE_URL")
VARIABLES = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CEREBRAS_API_KEY", "CEREBRAS_BASE_URL", *OLLAMA_NAMES,
)  # fmt: skip

Table = TypeVar("Table", bound=Section)


def providers(tables: Mapping[str, object], source: Source) -> dict[str, ProviderConfig]:
    """Read [providers.NAME] and resolve their keys. Raises ConfigError."""
    providers_by_name = {}
    for name, members in tables.items():
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise ConfigError(
                f"{source.name}: [providers.{name}]: a name has lower-case letters, digits and dashes"
            )
        if name in RESERVED:
            raise ConfigError(f"{source.name}: [providers.{name}]: this name is taken; choose another")
        provider = _table(f"providers.{name}", ProviderConfig, members, source)
        _check_path(f"providers.{name}", provider, source)
        providers_by_name[name] = _with_secrets(f"providers.{name}", provider, source)
    return providers_by_name


def routes(
    tables: Mapping[str, object], source: Source, providers: Mapping[str, ProviderConfig]
) -> dict[str, RouteConfig]:
    """Read [routes.NAME]. Raises ConfigError."""
    routes_by_name = {}
    for name, members in tables.items():
        if not re.fullmatch(r"[^\s:]+", name):
            raise ConfigError(f"{source.name}: [routes.{name}]: a route's name has no spaces and no colons")
        routes_by_name[name] = _table(f"routes.{name}", RouteConfig, members, source)
        for index, target in enumerate(routes_by_name[name].targets):
            provider, colon, _ = target.target.partition(":")
            if colon and provider not in providers and provider != LOCAL:
                known = near(provider, [*providers, LOCAL])
                raise ConfigError(
                    f"routes.{name}.targets.{index} = {target.target!r} ({source.name}): "
                    f"there is no provider {provider!r}{known}"
                )
    return routes_by_name


def prices(tables: Mapping[str, object], source: Source) -> dict[str, PriceConfig]:
    """Read [prices."MODEL"]. Raises ConfigError."""
    return {name: _table(f"prices.{name}", PriceConfig, members, source) for name, members in tables.items()}


def _table(key: str, kind: type[Table], members: object, source: Source) -> Table:
    if not isinstance(members, dict):
        raise ConfigError(f"{source.name}: {key} is not a section; write [{key}]")
    for name in members:
        if name not in kind.model_fields:
            # The value is not shown: a misspelt name may hold a secret.
            raise ConfigError(f"{source.name}: unknown key {key}.{name}{near(name, kind.model_fields)}")
    try:
        return kind.model_validate(members)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        path = ".".join(str(step) for step in fault["loc"])
        # Unknown members of an inner table may hold a secret as well.
        is_secret = _is_secret(kind, str(fault["loc"][0])) or fault["type"] == "extra_forbidden"
        value = shown(fault["input"], is_secret=is_secret)
        value = "(not given)" if fault["type"] == "missing" else value
        # Not chained: pydantic's message contains the value, which may be secret.
        raise ConfigError(f"{key}.{path} = {value} ({source.name}): {fault['msg']}") from None


def _is_secret(kind: type[Section], name: str) -> bool:
    return any(isinstance(note, Names) and note.is_secret for note in kind.model_fields[name].metadata)


def _check_path(key: str, provider: ProviderConfig, source: Source) -> None:
    is_file = provider.kind == "llamacpp"
    if is_file and provider.path is None:
        raise ConfigError(f"{key}.path = (not given) ({source.name}): llama.cpp needs a GGUF file")
    foreign = {"base_url", "api_key", "headers", "models"} if is_file else {"path"}
    if provider.kind != "ollama":
        foreign.add("keep_alive")
    if provider.kind != "openai":
        foreign.add("roles")
    if provider.kind not in STARTED:
        foreign |= {"python", "args"}
    if provider.kind not in ("openai", *STARTED):
        foreign.add("replicas")
    for name in sorted(foreign & provider.model_fields_set):
        value = shown(getattr(provider, name), is_secret=_is_secret(ProviderConfig, name))
        raise ConfigError(f"{key}.{name} = {value} ({source.name}): kind {provider.kind!r} does not have it")
    if provider.python is not None:
        provider_path = source.folder / Path(provider.python).expanduser()
        if not provider_path.is_file():
            raise ConfigError(f"{key}.python = {provider.python!r} ({source.name}): there is no such file")
        for name in ("base_url", "replicas"):
            if getattr(provider, name):
                raise ConfigError(
                    f"{key}.{name} ({source.name}): it contradicts {key}.python; keep one of them"
                )
    if provider.resume != "off" and len(provider.replicas) < 2:
        raise ConfigError(f"{key}.resume ({source.name}): it needs at least two replicas")
    if provider.args and provider.python is None:
        raise ConfigError(f"{key}.args ({source.name}): they need {key}.python")
    if provider.replicas and provider.base_url is not None:
        raise ConfigError(
            f"{key}.base_url = {shown(provider.base_url)} ({source.name}): it contradicts {key}.replicas; "
            "name all addresses there"
        )


def _with_secrets(key: str, provider: ProviderConfig, source: Source) -> ProviderConfig:
    headers = {name: secret(f"{key}.headers", text, source) for name, text in provider.headers.items()}
    api_key = provider.api_key and secret(f"{key}.api_key", provider.api_key, source)
    return provider.model_copy(update={"api_key": api_key, "headers": headers})


def from_environment(environment: Mapping[str, str]) -> dict[str, tuple[ProviderConfig, str]]:
    """Providers by name, each with the variable that configures it. Raises ConfigError."""
    variables = {name: text for name in VARIABLES if (text := environment.get(name, "").strip())}
    providers_by_name: dict[str, tuple[ProviderConfig, str]] = {}
    if "ANTHROPIC_API_KEY" in variables:
        name = "ANTHROPIC_BASE_URL"
        url = _checked(name, variables[name]) if name in variables else None
        provider = ProviderConfig(kind="anthropic", api_key=variables["ANTHROPIC_API_KEY"], base_url=url)
        providers_by_name["anthropic"] = (provider, "environment ANTHROPIC_API_KEY")
    if "CEREBRAS_API_KEY" in variables:
        url = _cerebras_url(variables)
        provider = ProviderConfig(kind="cerebras", api_key=variables["CEREBRAS_API_KEY"], base_url=url)
        providers_by_name["cerebras"] = (provider, "environment CEREBRAS_API_KEY")
    hosts = {name: _ollama_url(name, variables[name]) for name in OLLAMA_NAMES if name in variables}
    if len(set(hosts.values())) > 1:
        pairs = ", ".join(f"{name} = {variables[name]!r}" for name in hosts)
        raise ConfigError(f"providers.ollama.base_url has two values in the environment: {pairs}; keep one")
    for name, url in hosts.items():
        providers_by_name["ollama"] = (ProviderConfig(kind="ollama", base_url=url), f"environment {name}")
    return providers_by_name


def _cerebras_url(variables: Mapping[str, str]) -> str | None:
    """The address with /v1, which the variable lacks where it is meant for Cerebras's own SDK."""
    if "CEREBRAS_BASE_URL" not in variables:
        return None
    url = _checked("CEREBRAS_BASE_URL", variables["CEREBRAS_BASE_URL"])
    return url if urllib.parse.urlsplit(url).path else url + "/v1"


def _ollama_url(name: str, text: str) -> str:
    """HOST, HOST:PORT, :PORT or a URL, as Ollama's own programs read it."""
    if "://" in text:
        return _checked(name, text)
    host = f"127.0.0.1{text}" if text.startswith(":") else text
    address = urllib.parse.urlsplit(_checked(name, f"http://{host}"))
    if address.port is not None:
        return address.geturl()
    return address._replace(netloc=f"{address.netloc}:{OLLAMA_PORT}").geturl()


def _checked(name: str, url: str) -> str:
    """Check an address to connect to. 0.0.0.0, an address to listen on, becomes 127.0.0.1. Raises
    ConfigError.
    """
    try:
        ProviderConfig(kind="openai", base_url=url)
    except ValidationError as exc:
        value = "(secret)" if "@" in url else repr(url)
        reason = exc.errors(include_url=False)[0]["msg"]
        raise ConfigError(f"environment {name} = {value}: {reason}") from None
    parts = urllib.parse.urlsplit(url)
    here = parts.netloc.replace("0.0.0.0", "127.0.0.1") if parts.hostname == "0.0.0.0" else parts.netloc
    return parts._replace(netloc=here).geturl().rstrip("/")
