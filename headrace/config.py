"""Configuration: one frozen tree, read once: defaults < TOML file < environment < flags.

An unknown key, an unparsable value and two aliases that disagree raise ConfigError, naming key, value and
what would be valid. The environment is read nowhere else.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from headrace.errors import ConfigError

PREFIX = "HEADRACE_"
DEFAULT_FILE = "headrace.toml"
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@dataclass(frozen=True, slots=True)
class Names:
    """How a key is called outside the file, beside HEADRACE_KEY and --key."""

    aliases: tuple[str, ...] = ()  # environment variables in common use
    flag: str | None = None  # when it is not the key's own name
    variable: str | None = None  # when it is not the key's own name
    is_secret: bool = False
    ignores_case: bool = False


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ServerConfig(Section):
    host: Annotated[
        str, Names(aliases=("HOST",)), Field(min_length=1, description="Address to listen on.")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Names(aliases=("PORT",)),
        Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one."),
    ] = 8000
    api_keys: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(aliases=("ALLOWED_API_KEYS",), flag="--api-key", is_secret=True),
        Field(description="Keys that callers may use (in the environment: comma-separated or a JSON list)."),
    ] = ()
    no_auth: Annotated[bool, Field(description="Serve without keys on an address that others can reach.")] = (
        False
    )
    log_level: Annotated[
        LogLevel,
        Names(aliases=("LOG_LEVEL",), ignores_case=True),
        Field(description="Least severity to log."),
    ] = "INFO"
    drain_seconds: Annotated[
        float, Field(ge=0, description="On SIGTERM, how long running requests may take to finish.")
    ] = 30.0
    request_timeout_s: Annotated[
        float,
        Names(aliases=("REQUEST_TIMEOUT_S",)),
        Field(ge=0, description="How long a request may take, in seconds, before it is ended; 0: no limit."),
    ] = 600.0
    strict: Annotated[
        bool, Field(description="Refuse unknown request members instead of naming them in a header.")
    ] = False
    max_body_bytes: Annotated[ByteSize, Field(gt=0, description="The largest request body.")] = ByteSize(
        16 * 2**20
    )


class EngineConfig(Section):
    max_model_len: Annotated[
        int,
        Field(ge=0, description="Longest prompt and answer together, in tokens; 0: what the model takes."),
    ] = 0
    kv_cache_bytes: Annotated[
        ByteSize, Field(ge=0, description="Memory for the KV cache, as 2GiB; 0: a quarter of what is free.")
    ] = ByteSize(0)
    max_num_seqs: Annotated[int, Field(ge=1, le=1024, description="Sequences that run at once.")] = 32
    max_queue: Annotated[int, Field(ge=0, description="Sequences that may wait beyond those; then 503.")] = (
        256
    )
    max_batch_tokens: Annotated[
        int, Field(ge=32, description="Tokens computed in one step, prompts included.")
    ] = 512
    num_threads: Annotated[int, Field(ge=0, description="Threads of the forward pass; 0: one a core.")] = 0
    precision: Annotated[
        Literal["fast", "f32"], Field(description="f32 computes in float32 throughout, several times slower.")
    ] = "fast"
    generation_config: Annotated[
        Literal["model", "none"], Field(description="Whether a model's recommended sampling is the default.")
    ] = "model"


class ModelsConfig(Section):
    default: Annotated[
        str,
        Names(aliases=("MODEL_PATH",), variable="MODEL"),
        Field(description="Model reference that is served; '' serves none."),
    ] = "smollm2-135m-instruct"
    more: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(variable="MORE_MODELS"),
        Field(description="Further model references to serve."),
    ] = ()
    tool_formats: Annotated[
        tuple[Annotated[str, Field(pattern=r"^.+=(hermes|llama3|mistral|mistral-args)$")], ...],
        Names(flag="--tool-format", variable="TOOL_FORMATS"),
        Field(
            description="MODEL=FORMAT: how a model writes tool calls, where its chat template does not tell: "
            "hermes, llama3, mistral or mistral-args."
        ),
    ] = ()


class PathsConfig(Section):
    cache: Annotated[Path, Field(description="Where models are kept.")] = Field(
        default_factory=lambda: platformdirs.user_cache_path("headrace", appauthor=False)
    )
    data: Annotated[Path, Field(description="Where databases and profiles are kept.")] = Field(
        default_factory=lambda: platformdirs.user_data_path("headrace", appauthor=False)
    )


class ProviderConfig(Section):
    """One remote provider: [providers.NAME] in the file."""

    kind: Literal["openai", "cerebras", "anthropic", "ollama", "llamacpp", "fake"]
    base_url: str | None = None  # None: the provider's own
    api_key: str | None = None  # as it is, env:NAME, or file:PATH
    headers: dict[str, str] = {}
    timeout_s: Annotated[float, Field(gt=0)] = 600.0  # between two pieces of an answer
    models: tuple[str, ...] = ()  # the only ones that may be asked for; none: all


class Config(Section):
    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    models: ModelsConfig = ModelsConfig()
    paths: PathsConfig = Field(default_factory=PathsConfig)


@dataclass(frozen=True, slots=True)
class Option:
    """One key of the tree, and all it is known by."""

    section: str
    name: str
    info: FieldInfo
    names: Names

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variables(self) -> tuple[str, ...]:
        return (PREFIX + (self.names.variable or self.name.upper()), *self.names.aliases)

    @property
    def flag(self) -> str:
        return self.names.flag or "--" + self.name.replace("_", "-")

    @property
    def is_list(self) -> bool:
        return self.info.default == () and self.info.default_factory is None

    @property
    def is_switch(self) -> bool:
        return self.info.annotation is bool

    def validate(self, value: object, source: str) -> object:
        """The value in its type. Raises ConfigError."""
        given = value.upper() if isinstance(value, str) and self.names.ignores_case else value
        if isinstance(value, bool) and not self.is_switch:
            given = str(value)  # true is no number
        kind: Any = Annotated[self.info.annotation, self.names, *self.info.metadata]
        try:
            return TypeAdapter[object](kind).validate_python(given)
        except ValidationError as exc:
            reason = exc.errors(include_url=False)[0]["msg"]
            shown = "(secret)" if self.names.is_secret else repr(value)
            raise ConfigError(f"{self.key} = {shown} ({source}): {reason}") from exc


def options() -> list[Option]:
    """Every key, in the order of the tree."""
    found = []
    for section, outer in Config.model_fields.items():
        kind = outer.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        for name, info in kind.model_fields.items():
            names = next((note for note in info.metadata if isinstance(note, Names)), Names())
            found.append(Option(section, name, info, names))
    return found


@dataclass(frozen=True, slots=True)
class Loaded:
    config: Config
    sources: dict[str, str]  # key → where its value comes from; absent: the default


def load(*, flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None) -> Loaded:
    """`flags` maps keys (`server.port`) to what the command line gave. Raises ConfigError."""
    if file is None and PREFIX + "CONFIG" in environment:
        file = Path(environment[PREFIX + "CONFIG"])
    values: dict[str, tuple[object, str]] = {}
    values.update(_from_file(file if file is not None else Path(DEFAULT_FILE), required=file is not None))
    values.update(_from_environment(environment))
    values.update({key: (value, "flag") for key, value in flags.items()})
    tree: dict[str, dict[str, object]] = {}
    for option in options():
        if option.key in values:
            value, source = values[option.key]
            tree.setdefault(option.section, {})[option.name] = option.validate(value, source)
    config = Config.model_validate(tree)
    _check(config)
    return Loaded(config, {key: source for key, (_, source) in values.items()})


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check(config: Config) -> None:
    server = config.server
    if server.api_keys and server.no_auth:
        raise ConfigError("server.no_auth contradicts server.api_keys: give keys, or serve without them")
    if not server.api_keys and not server.no_auth and not is_loopback(server.host):
        raise ConfigError(
            f"server.host = {server.host!r} can be reached by others and no API key is set: "
            "give --api-key KEY, or say --no-auth to serve everybody"
        )


def _from_file(path: Path, *, required: bool) -> dict[str, tuple[object, str]]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        if required:
            raise ConfigError(f"the configuration file {path} does not exist") from exc
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise ConfigError(f"the configuration file {path} cannot be read: {exc}") from exc
    known = {option.key: option for option in options()}
    values: dict[str, tuple[object, str]] = {}
    for section, part in tree.items():
        if section not in Config.model_fields:
            raise ConfigError(f"{path}: unknown section [{section}]{_near(section, Config.model_fields)}")
        if not isinstance(part, dict):
            raise ConfigError(f"{path}: {section} = {part!r} is not a section; write [{section}]")
        for name, value in part.items():
            if f"{section}.{name}" not in known:
                shown, near = _shown(name, value), _near(f"{section}.{name}", known)
                raise ConfigError(f"{path}: unknown key {section}.{name} = {shown}{near}")
            values[f"{section}.{name}"] = (value, str(path))
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    known = {variable for option in options() for variable in option.variables} | {PREFIX + "CONFIG"}
    for variable, value in environment.items():
        if variable.startswith(PREFIX) and variable not in known:
            raise ConfigError(
                f"unknown environment variable {variable} = {_shown(variable, value)}{_near(variable, known)}"
            )
    values: dict[str, tuple[object, str]] = {}
    for option in options():
        given = {variable: environment[variable] for variable in option.variables if variable in environment}
        parsed = []
        for variable, text in given.items():
            value_and_source = (_split(text) if option.is_list else text, f"environment {variable}")
            values[option.key] = value_and_source
            parsed.append(option.validate(*value_and_source))
        if any(other != parsed[0] for other in parsed):
            pairs = ", ".join(
                name if option.names.is_secret else f"{name} = {text!r}" for name, text in given.items()
            )
            raise ConfigError(f"{option.key} has two values in the environment: {pairs}; keep one of them")
    return values


def _split(text: str) -> object:
    """A list in the environment: JSON, or comma-separated; empty is none."""
    if text.strip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _shown(name: str, value: object) -> str:
    """The value of an unknown setting, unless it is likely one that nobody should read."""
    return "(secret)" if re.search("key|token|secret|password", name, re.IGNORECASE) else repr(value)


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(sorted(known))}"
