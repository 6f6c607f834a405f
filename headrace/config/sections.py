"""The configuration tree: every key with its type, default and description."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
)

from headrace.config.memory import CacheType
from headrace.config.operations import LimitsConfig, TelemetryConfig
from headrace.config.providers import PriceConfig, ProviderConfig, Resume, RouteConfig
from headrace.config.section import Names, Section

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _check_origin(value: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s*]+", value):
        raise ValueError("must be `*`, or a scheme and a host without a path, as https://chat.example")
    return value


def _check_network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


def _check_host(value: str) -> str:
    """Return the host in lower case, without the brackets of an IPv6 address or a final dot. Raises
    ValueError.
    """
    host = value.lower()
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[?[0-9a-f:]*:[0-9a-f:.]*\]?", host):
        raise ValueError("must be a host name without a port, as llm.example.com, or `*.example.com`, or `*`")
    return host.strip("[]").removesuffix(".")


class ServerConfig(Section):
    host: Annotated[
        str, Names(aliases=("HOST",)), Field(min_length=1, description="Address to listen on.")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Names(aliases=("PORT",)),
        Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one."),
    ] = 8000
    workers: Annotated[
        int,
        Field(
            ge=1,
            le=256,
            description="Gateway processes behind the port. They share the database and Redis, and serve "
            "providers, no models of their own: [replicas.md](replicas.md#several-gateway-processes).",
        ),
    ] = 1
    api_keys: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(aliases=("ALLOWED_API_KEYS",), flag="--api-key", is_secret=True),
        Field(
            repr=False,
            description="Keys that callers may use, as `Authorization: Bearer KEY` or `x-api-key: KEY` "
            "(in the environment: comma-separated or a JSON list).",
        ),
    ] = ()
    admin_keys: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(flag="--admin-key", is_secret=True),
        Field(
            repr=False,
            description="Keys of administrators, who may also use the admin API (`/v1/admin/…`). Without "
            "any, callers on this machine may, while nobody needs a key: [operations.md](operations.md).",
        ),
    ] = ()
    require_auth: Annotated[
        bool,
        Names(aliases=("REQUIRE_AUTH",)),
        Field(
            description="Require a key of every caller, and accept those that `headrace keys create` has "
            "made, as `admin_keys` does: [operations.md](operations.md)."
        ),
    ] = False
    no_auth: Annotated[bool, Field(description="Serve without keys on an address that others can reach.")] = (
        False
    )
    log_level: Annotated[
        LogLevel,
        Names(aliases=("LOG_LEVEL",), ignores_case=True),
        Field(description="Least severity to log."),
    ] = "INFO"
    log_format: Annotated[
        Literal["text", "json"],
        Names(aliases=("LOG_FORMAT",)),
        Field(
            description="How log records are written: `json`, one object a line, for programs: "
            "[operations.md](operations.md#logs)."
        ),
    ] = "text"
    drain_seconds: Annotated[
        float, Field(ge=0, description="On SIGTERM, how long running requests may take to finish.")
    ] = 30.0
    request_timeout_s: Annotated[
        float,
        Names(aliases=("REQUEST_TIMEOUT_S",)),
        Field(ge=0, description="How long a request may take, in seconds, before it is ended; 0: no limit."),
    ] = 600.0
    max_tokens_default: Annotated[
        int,
        Field(
            ge=0,
            description="Limit of an answer's tokens where a request sets none, for models that run here; "
            "0: what fits the context.",
        ),
    ] = 0
    strict: Annotated[
        bool,
        Field(
            description="Refuse unknown request members, and those that a provider does not support, instead "
            "of naming them in a header."
        ),
    ] = False
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...],
        Names(aliases=("CORS_ORIGINS",)),
        Field(
            description="Origins of pages that may call this server from a browser, as "
            "`https://chat.example`; `*`: any page, without cookies."
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_check_host)], ...],
        Names(flag="--allowed-host"),
        Field(
            description="Further names by which callers may reach this server, as `llm.example.com` or "
            "`*.example.com`; `*`: any. Loopback names and the address it listens on are always among them: "
            "[security.md](security.md)."
        ),
    ] = ()
    tls_certificate: Annotated[
        str,
        Field(
            description="Serve HTTPS, with the certificate in this file (PEM, with those of the authorities "
            "between). When it changes, it is read again: [security.md](security.md#tls)."
        ),
    ] = ""
    tls_key: Annotated[
        str, Field(description="The certificate's private key (PEM). Default: in `tls_certificate`, too.")
    ] = ""
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_check_network)], ...],
        Names(flag="--trusted-proxy"),
        Field(
            description="Addresses of reverse proxies, as `10.0.0.7` or `10.0.0.0/8`, whose "
            "`X-Forwarded-For` and `X-Forwarded-Proto` are believed: "
            "[security.md](security.md#behind-a-reverse-proxy)."
        ),
    ] = ()
    security_headers: Annotated[
        bool,
        Names(aliases=("ENABLE_SECURITY_HEADERS",)),
        Field(
            description="Send headers that keep browsers from guessing a response's type and from framing it."
        ),
    ] = True
    page: Annotated[
        bool,
        Field(description="Serve the chat page to browsers at `/`. Without it, `/` lists the paths as JSON."),
    ] = True
    max_connections: Annotated[
        int,
        Field(
            ge=0,
            description="Connections of callers at once; idle ones are closed for new ones. 0: as many as "
            "the limit of open files leaves room for.",
        ),
    ] = 0
    receive_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            description="How long a request's headers may take to arrive, in seconds, and its body without "
            "making progress; then 408.",
        ),
    ] = 30.0
    send_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            description="How long a client may leave its answer unread, in seconds, while buffers are full; "
            "then the connection is closed.",
        ),
    ] = 60.0
    max_body_bytes: Annotated[
        ByteSize, Field(gt=0, description="The largest request body, before and after decompression.")
    ] = ByteSize(16 * 2**20)
    max_inflight_bytes: Annotated[
        ByteSize,
        Field(
            ge=0,
            description="Memory for the bodies of all requests in flight, counted as 4 bytes for each byte "
            "and 1 KiB for each JSON object or list of a large one; beyond it 503. 0: no limit.",
        ),
    ] = ByteSize(512 * 2**20)

    @property
    def needs_key(self) -> bool:
        """Whether callers need a key."""
        return bool(self.api_keys or self.takes_stored_keys)

    @property
    def takes_stored_keys(self) -> bool:
        """Whether the keys in the store (`headrace keys`) are accepted."""
        return bool(self.admin_keys or self.require_auth)


class EngineConfig(Section):
    processes: Annotated[
        int,
        Field(
            ge=0,
            le=64,
            description="Processes that each load the models that are named to be served, and share the "
            "requests; 0: this process computes: [replicas.md](replicas.md#engine-processes).",
        ),
    ] = 0
    resume: Annotated[
        Resume,
        Field(
            description="With `processes`: `same-model`: a stream that breaks off goes on at another one: "
            "[replicas.md](replicas.md#streams-that-break-off)."
        ),
    ] = "off"
    memory_budget: Annotated[
        ByteSize,
        Field(
            ge=0,
            description="Memory for all models that run here, as 8GiB; 0: 70 % of the machine's memory, or "
            "of the container's. Models beyond it wait until others are unloaded.",
        ),
    ] = ByteSize(0)
    max_model_len: Annotated[
        int,
        Field(ge=0, description="Longest prompt and answer together, in tokens; 0: what the model takes."),
    ] = 0
    kv_cache_bytes: Annotated[
        ByteSize,
        Field(
            ge=0,
            description="Memory for the KV cache of each model, as 2GiB; 0: together a quarter of the free "
            "memory, and of `memory_budget`, for those that are served from the start.",
        ),
    ] = ByteSize(0)
    kv_cache_dtype: Annotated[
        CacheType,
        Field(
            description="Numbers in the KV cache: bf16, 16 bits (float16 on processors without bfloat16), "
            "or u8, 8 bits: nearly twice the tokens, 10 to 20 % slower, for long contexts. auto: bf16, or "
            "float32 where `precision` is f32."
        ),
    ] = "auto"
    disk_cache_bytes: Annotated[
        ByteSize,
        Field(
            ge=0,
            description="Disk space for cached prompts that leave the memory, in the folder `prefixes` of "
            "`paths.cache`, for all models; they survive a restart. 0: none.",
        ),
    ] = ByteSize(2**31)
    max_num_seqs: Annotated[int, Field(ge=1, le=1024, description="Sequences that run at once.")] = 32
    max_queue: Annotated[int, Field(ge=0, description="Requests that may wait beyond those; then 503.")] = 256
    max_batch_tokens: Annotated[
        int, Field(ge=32, description="Tokens computed in one step, prompts included.")
    ] = 512
    max_tokenize_bytes: Annotated[
        ByteSize,
        Field(
            gt=0,
            description="The longest text that `/tokenize` accepts, and the longest conversation whose "
            "tokens are counted; one that fits the model's context is always counted.",
        ),
    ] = ByteSize(2**20)
    loop_tokens: Annotated[
        int,
        Field(
            ge=0,
            description="An answer without a limit ends with `length` once it has repeated itself for this "
            "many tokens; 0: never.",
        ),
    ] = 1024
    num_threads: Annotated[int, Field(ge=0, description="Threads of the forward pass; 0: one a core.")] = 0
    precision: Annotated[
        Literal["fast", "f32"],
        Field(description="f32 computes everything in float32 and is several times slower."),
    ] = "fast"
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:\d+)?)$",
            description="What computes models that PyTorch runs: cpu, cuda or cuda:N. auto: the first GPU, "
            "if there is one. OpenVINO and llama.cpp use the CPU.",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Field(
            description="Numbers of models that PyTorch runs. auto: float32 where `precision` is f32; else "
            "bfloat16 where the processor computes with it; else float32."
        ),
    ] = "auto"
    deterministic: Annotated[
        bool,
        Field(
            description="Compute every request so that neither other requests nor the cache change its "
            "answer, as is always done with a `seed`: [determinism.md](determinism.md)."
        ),
    ] = False
    speculation: Annotated[
        Literal["auto", "off"],
        Field(
            description="Whether a step with few sequences also computes guesses of their next tokens, from "
            "what they repeat: [models.md](models.md#speculation)."
        ),
    ] = "auto"
    stall_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="How long the engine may have work without finishing a step, before `/health` "
            "fails; 0: for ever.",
        ),
    ] = 300.0
    generation_config: Annotated[
        Literal["model", "none"], Field(description="Whether a model's recommended sampling is the default.")
    ] = "model"
    share_prefix_cache: Annotated[
        bool,
        Field(
            description="Let callers with different API keys use each other's cached prompts. It is faster "
            "where their prompts begin alike, but `cached_tokens` and the time to the first token then tell "
            "one caller that another has sent the same prompt."
        ),
    ] = False


class ModelsConfig(Section):
    default: Annotated[
        str,
        Names(aliases=("MODEL_PATH",), variable="MODEL"),
        Field(description="Reference of the model to serve; '' serves none."),
    ] = "smollm2-135m-instruct"
    more: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(variable="MORE_MODELS"),
        Field(description="Further model references to serve."),
    ] = ()
    embedding: Annotated[
        str,
        Names(flag="--embedding-model", variable="EMBEDDING_MODEL"),
        Field(
            min_length=1,
            description="The embedding model: a reference, whose model is fetched and loaded at the start; "
            "`auto`: `minilm-l6-v2`, fetched and loaded at its first use; `none`: no such model.",
        ),
    ] = "auto"
    openai_embeddings: Annotated[
        bool,
        Field(
            description="Let `text-embedding-3-small`, `text-embedding-3-large` and `text-embedding-ada-002` "
            "lead to the embedding model, if no route and no listed model has the name."
        ),
    ] = True
    cached: Annotated[
        bool,
        Field(
            description="Serve the models in the cache, too: a request that names one loads it. Not if "
            "`models.default` is ''."
        ),
    ] = True
    preload: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(
            description="Models that are loaded at the start; `none`: none. Default: those that are named to "
            "be served, as far as `engine.memory_budget` has room."
        ),
    ] = ()
    pin: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(description="Models that stay loaded: they are never unloaded to make room."),
    ] = ()
    idle_seconds: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(.+=)?\d+(\.\d+)?$")], ...],
        Field(
            description="MODEL=SECONDS, or SECONDS for all others: a model without requests for so long is "
            "unloaded. Default: none is."
        ),
    ] = ()
    pull_allow: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(
            description="What may be pulled over HTTP beside the built-in aliases: patterns of references, "
            "as `hf:Qwen/*`. Never a path."
        ),
    ] = ()
    tool_formats: Annotated[
        tuple[Annotated[str, Field(pattern=r"^.+=(hermes|llama3|mistral|mistral-args)$")], ...],
        Names(flag="--tool-format", variable="TOOL_FORMATS"),
        Field(
            description="MODEL=FORMAT: how a model writes tool calls, if its chat template does not show it: "
            "hermes, llama3, mistral or mistral-args."
        ),
    ] = ()
    backends: Annotated[
        tuple[Annotated[str, Field(pattern=r"^.+=(engine|torch|llamacpp)$")], ...],
        Names(flag="--model-backend", variable="MODEL_BACKENDS"),
        Field(
            description="MODEL=BACKEND: engine (ours, over OpenVINO), torch (ours, over PyTorch) or "
            "llamacpp. By default llama.cpp serves the GGUF files that our engine does not read, and PyTorch "
            "folders of safetensors."
        ),
    ] = ()
    trust_remote_code: Annotated[
        bool,
        Field(
            description="Run the Python code that comes with a folder of safetensors, where its architecture "
            "is not one of transformers'. It can do whatever you can."
        ),
    ] = False


class PathsConfig(Section):
    cache: Annotated[Path, Field(description="Where models and cached prompts are kept.")] = Field(
        default_factory=lambda: platformdirs.user_cache_path("headrace", appauthor=False)
    )
    data: Annotated[Path, Field(description="Where the database is kept.")] = Field(
        default_factory=lambda: platformdirs.user_data_path("headrace", appauthor=False)
    )


class SteeringConfig(Section):
    root: Annotated[
        str,
        Names(variable="STEERING_ROOT"),
        Field(
            description="Folder of sparse autoencoders (`saes/NAME`) and control vectors "
            "(`vectors/NAME.gguf`); files elsewhere are not read. Default: `steering` in the data folder."
        ),
    ] = ""
    attach: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Names(variable="STEERING_ATTACH"),
        Field(description="Names of those that requests can use from the start."),
    ] = ()
    max_dose: Annotated[
        float,
        Field(
            ge=0,
            description="How long the edits of a request may be at one layer, in median lengths of the "
            "hidden states there; 0: no limit.",
        ),
    ] = 0.0

    def folder(self, data: Path) -> Path:
        """The root, where the data folder is `data`."""
        return Path(self.root) if self.root else data / "steering"


class StoreConfig(Section):
    url: Annotated[
        str,
        Names(aliases=("DATABASE_URL",), flag="--database-url", variable="DATABASE_URL", is_secret=True),
        Field(
            repr=False,
            description="The database: `postgresql://USER:PASSWORD@HOST/NAME` or `sqlite:///PATH`. "
            "Default: a SQLite file in the data folder.",
        ),
    ] = ""
    responses_days: Annotated[
        int, Field(ge=0, description="How long responses are kept; 0: until they are deleted.")
    ] = 30
    chat_completions_days: Annotated[
        int, Field(ge=0, description="How long stored chat completions are kept; 0: until they are deleted.")
    ] = 30
    conversations_days: Annotated[
        int, Field(ge=0, description="How long unused conversations are kept; 0: until they are deleted.")
    ] = 0


class ConversationsConfig(Section):
    context_messages: Annotated[
        int,
        Field(
            ge=1, description="Stored messages, at most, that the model reads before those of the request."
        ),
    ] = 20


class Config(Section):
    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    models: ModelsConfig = ModelsConfig()
    paths: PathsConfig = Field(default_factory=PathsConfig)
    store: StoreConfig = StoreConfig()
    steering: SteeringConfig = SteeringConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    limits: LimitsConfig = LimitsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    providers: dict[str, ProviderConfig] = {}  # noqa: RUF012  # pydantic copies it
    routes: dict[str, RouteConfig] = {}  # noqa: RUF012
    prices: dict[str, PriceConfig] = {}  # noqa: RUF012
