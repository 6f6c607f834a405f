"""Remote providers, routes and prices: [providers.NAME], [routes.NAME], [prices."MODEL"]."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from headrace.config.kinds import LOCAL, REMOTE, check_kind
from headrace.config.section import Names, Section

Resume = Literal["off", "same-model"]
FallbackReason = Literal["connection", "408", "429", "5xx", "overloaded", "context"]


def twice_in(names: Sequence[str]) -> str | None:
    """A name that is there more than once."""
    return next((name for name in names if names.count(name) > 1), None)


def _check_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    _ = parts.port  # a ValueError for what is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write a whole address, as http://HOST:PORT/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a name and a password in an address would be logged; use api_key or headers")
    if "?" in url or "#" in url:
        raise ValueError("paths are appended to the address, so it has no ? and no #")
    return url


# Go's syntax for durations, which Ollama reads
DURATION = re.compile(r"[-+]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)", re.ASCII)


def _check_keep_alive(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and not DURATION.fullmatch(value)):
        raise ValueError('write seconds as a number, or a duration as "5m"')
    return value


class ProviderConfig(Section):
    """One remote provider: [providers.NAME] in the file."""

    kind: Annotated[
        str,
        AfterValidator(check_kind),
        Field(
            description="Its API. `openai`: that of any OpenAI-compatible server; `llamacpp`: a GGUF file, "
            f"by llama.cpp on this machine. One of {', '.join(f'`{kind}`' for kind in (*REMOTE, *LOCAL))}, "
            "or one that an installed package adds ([how](adding-a-provider.md))."
        ),
    ]
    base_url: Annotated[str, AfterValidator(_check_url)] | None = Field(
        default=None, description="Its address, as `http://HOST:PORT/v1`. Default: the provider's own."
    )
    replicas: tuple[Annotated[str, AfterValidator(_check_url)], ...] = Field(
        default=(),
        description="Only of `openai`, `vllm` and `sglang`, instead of `base_url`: the addresses of "
        "several servers with the same models. Requests that begin alike go to the same one: "
        "[replicas.md](replicas.md).",
    )
    resume: Resume = Field(
        default="off",
        description="Only beside `replicas`: `same-model`: a stream that breaks off goes on at another "
        "[replicas.md](replicas.md#streams-that-break-off).",
    )
    python: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Only of `vllm` and `sglang`: the Python of the environment that has it. Headrace "
        "then starts the server itself: [replicas.md](replicas.md#vllm-and-sglang).",
    )
    args: Annotated[tuple[str, ...], Names(is_secret=True)] = Field(
        default=(),
        repr=False,
        description='Only beside `python`: the server\'s arguments, as `["--model", '
        '"Qwen/Qwen3-8B", "--tensor-parallel-size", "4"]`.',
    )
    path: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Only of `llamacpp`, which needs it: a GGUF file or a model reference. Its "
        "`max_model_len`, `kv_cache_bytes`, `max_num_seqs`, `max_queue`, `max_tokenize_bytes` and "
        "`num_threads` are those of `[engine]`.",
    )
    api_key: Annotated[Annotated[str, Field(min_length=1)] | None, Names(is_secret=True)] = Field(
        default=None,
        repr=False,
        description="`env:NAME` (an environment variable), `file:PATH` (relative to the configuration "
        "file), or the key itself.",
    )
    headers: Annotated[dict[str, str], Names(is_secret=True)] = Field(
        default={}, repr=False, description="Sent to it with every request; values as `api_key`'s."
    )
    timeout_s: float = Field(
        default=600.0, gt=0, description="Seconds of silence after which a request to it fails."
    )
    models: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="The only models that may be requested; empty: all that it has."
    )
    prefix: bool = Field(
        default=True, description="List its models as `NAME:MODEL`; `false`: by their own ids."
    )
    roles: Literal["openai", "plain"] | None = Field(
        default=None,
        description="Only of `openai`: which roles it accepts. `openai`: those of OpenAI's API; `plain`: "
        "one `system` message, at the beginning, and no `developer`. Default: `openai` for OpenAI's and "
        "Azure's hosts, else `plain`. [More](routing.md#what-is-rewritten).",
    )
    keep_alive: Annotated[float | str, BeforeValidator(_check_keep_alive)] | None = Field(
        default=None,
        description="Only of `ollama`: how long it keeps a model loaded after an answer, in seconds or "
        "as `5m`; less than 0: for good. Default: Ollama's own. More: [models.md](models.md#ollama).",
    )

    @field_validator("replicas")
    @classmethod
    def _different(cls, replicas: tuple[str, ...]) -> tuple[str, ...]:
        twice = twice_in([url.rstrip("/") for url in replicas])
        if twice is not None:
            raise ValueError(f"{twice} is named twice")
        return replicas


class TargetConfig(Section):
    """One target of a route. Targets with weights that stand side by side are drawn in random order."""

    target: Annotated[str, Field(min_length=1, description="MODEL (a local one) or PROVIDER:MODEL.")]
    weight: Annotated[float, Field(gt=0)] | None = None


def _as_target(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class RouteConfig(Section):
    """An alias: [routes.NAME] in the file."""

    targets: Annotated[
        tuple[Annotated[TargetConfig, BeforeValidator(_as_target)], ...],
        Field(
            min_length=1,
            description="Its targets, in order: `MODEL`, `PROVIDER:MODEL`, or "
            "`{ target = …, weight = … }`; neighbours with weights are put in random order.",
        ),
    ]
    fallback_on: tuple[Annotated[FallbackReason, BeforeValidator(_as_text)], ...] = Field(
        default=("connection", "408", "429", "5xx", "overloaded"),
        description="The failures after which the next target is tried.",
    )
    retries: int = Field(
        default=1,
        ge=0,
        le=10,
        description="How often all targets are tried again, after a pause, if all fail.",
    )
    hedge_after_ms: int = Field(
        default=0,
        ge=0,
        description="After this long without an event, try the next target as well; 0: never.",
    )

    @field_validator("targets")
    @classmethod
    def _once(cls, targets: tuple[TargetConfig, ...]) -> tuple[TargetConfig, ...]:
        twice = twice_in([target.target for target in targets])
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice")
        return targets


Price = Annotated[float, Field(ge=0, le=1e6)]


class PriceConfig(Section):
    """What a model costs: [prices."MODEL"] in the file."""

    prompt: Annotated[Price, Field(description="Of a million tokens of prompts, in any currency.")]
    completion: Annotated[Price, Field(description="Of a million tokens of answers.")]
    cached_prompt: Price | None = Field(
        default=None, description="Of a million cached tokens of prompts. Default: as `prompt`."
    )
