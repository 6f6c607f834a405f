"""The sections [models] and [engine]: which models are served, and how our engine runs them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field

from headrace.config.memory import CacheType
from headrace.config.providers import Resume
from headrace.config.section import Names, Section


class ModelsConfig(Section):
    default: Annotated[str, Names(aliases=("MODEL_PATH",), variable="MODEL")] = Field(
        default="smollm2-135m-instruct", description="Reference of the model to serve; '' serves none."
    )
    more: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Names(variable="MORE_MODELS")] = Field(
        default=(), description="Further model references to serve."
    )
    embedding: Annotated[str, Names(flag="--embedding-model", variable="EMBEDDING_MODEL")] = Field(
        default="auto",
        min_length=1,
        description="The embedding model: a reference, whose model is fetched and loaded at the start; "
        "`auto`: `minilm-l6-v2`, fetched and loaded at its first use; `none`: no such model.",
    )
    openai_embeddings: bool = Field(
        default=True,
        description="Let `text-embedding-3-small`, `text-embedding-3-large` and `text-embedding-ada-002` "
        "lead to the embedding model, if no route and no listed model has the name.",
    )
    cached: bool = Field(
        default=True,
        description="Serve the models in the cache, too: a request that names one loads it. Not if "
        "`models.default` is ''.",
    )
    preload: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="Models that are loaded at the start; `none`: none. Default: those that are named to "
        "be served, as far as `engine.memory_budget` has room.",
    )
    pin: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Models that stay loaded: they are never unloaded to make room."
    )
    idle_seconds: tuple[Annotated[str, Field(pattern=r"^(.+=)?[0-9]+(\.[0-9]+)?$")], ...] = Field(
        default=(),
        description="MODEL=SECONDS, or SECONDS for all others: a model without requests for so long is "
        "unloaded. Default: none is.",
    )
    pull_allow: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="What may be pulled over HTTP beside the built-in aliases: patterns of references, "
        "as `hf:Qwen/*`. Never a path.",
    )
    tool_formats: Annotated[
        tuple[Annotated[str, Field(pattern=r"^.+=(hermes|llama3|mistral|mistral-args)$")], ...],
        Names(flag="--tool-format", variable="TOOL_FORMATS"),
    ] = Field(
        default=(),
        description="MODEL=FORMAT: how a model writes tool calls, if its chat template does not show it: "
        "hermes, llama3, mistral or mistral-args.",
    )
    backends: Annotated[
        tuple[Annotated[str, Field(pattern=r"^.+=(engine|torch|llamacpp)$")], ...],
        Names(flag="--model-backend", variable="MODEL_BACKENDS"),
    ] = Field(
        default=(),
        description="MODEL=BACKEND: engine (ours, over OpenVINO), torch (ours, over PyTorch) or "
        "llamacpp. By default llama.cpp serves the GGUF files that our engine does not read, and PyTorch "
        "folders of safetensors.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run the Python code that comes with a folder of safetensors, where its architecture "
        "is not one of transformers'. It can do whatever you can.",
    )


class EngineConfig(Section):
    processes: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that each load the models that are named to be served, and share the "
        "requests; 0: this process computes: [replicas.md](replicas.md#engine-processes).",
    )
    resume: Resume = Field(
        default="off",
        description="With `processes`: `same-model`: a stream that breaks off goes on at another one: "
        "[replicas.md](replicas.md#streams-that-break-off).",
    )
    memory_budget: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Memory for all models that run here, as 8GiB; 0: 70 % of the machine's memory, or "
        "of the container's. Models beyond it wait until others are unloaded.",
    )
    max_model_len: int = Field(
        default=0, ge=0, description="Longest prompt and answer together, in tokens; 0: what the model takes."
    )
    kv_cache_bytes: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="Memory for the KV cache of each model, as 2GiB; 0: together a quarter of the free "
        "memory, and of `memory_budget`, for those that are served from the start.",
    )
    kv_cache_dtype: CacheType = Field(
        default="auto",
        description="Numbers in the KV cache: bf16, 16 bits (float16 on processors without bfloat16), "
        "or u8, 8 bits: nearly twice the tokens, 10 to 20 % slower, for long contexts. auto: bf16, or "
        "float32 where `precision` is f32.",
    )
    disk_cache_bytes: ByteSize = Field(
        default=ByteSize(2**31),
        ge=0,
        description="Disk space for cached prompts that leave the memory, in the folder `prefixes` of "
        "`paths.cache`, for all models; they survive a restart. 0: none.",
    )
    max_num_seqs: int = Field(default=32, ge=1, le=1024, description="Sequences that run at once.")
    max_queue: int = Field(default=256, ge=0, description="Requests that may wait beyond those; then 503.")
    max_batch_tokens: int = Field(
        default=512, ge=32, description="Tokens computed in one step, prompts included."
    )
    max_tokenize_bytes: ByteSize = Field(
        default=ByteSize(2**20),
        gt=0,
        description="The longest text that `/tokenize` accepts, and the longest conversation whose "
        "tokens are counted; one that fits the model's context is always counted.",
    )
    loop_tokens: int = Field(
        default=1024,
        ge=0,
        description="An answer without a limit ends with `length` once it has repeated itself for this "
        "many tokens; 0: never.",
    )
    num_threads: int = Field(default=0, ge=0, description="Threads of the forward pass; 0: one a core.")
    precision: Literal["fast", "f32"] = Field(
        default="fast", description="f32 computes everything in float32 and is several times slower."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="What computes models that PyTorch runs: cpu, cuda or cuda:N. auto: the first GPU, "
        "if there is one. OpenVINO and llama.cpp use the CPU.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Numbers of models that PyTorch runs. auto: float32 where `precision` is f32; else "
        "bfloat16 where the processor computes with it; else float32.",
    )
    deterministic: bool = Field(
        default=False,
        description="Compute every request so that neither other requests nor the cache change its "
        "answer, as is always done with a `seed`: [determinism.md](determinism.md).",
    )
    speculation: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether a step with few sequences also computes guesses of their next tokens, from "
        "what they repeat: [models.md](models.md#speculation).",
    )
    stall_seconds: float = Field(
        default=300.0,
        ge=0,
        description="How long the engine may have work without finishing a step, before `/health` "
        "fails; 0: for ever.",
    )
    generation_config: Literal["model", "none"] = Field(
        default="model", description="Whether a model's recommended sampling is the default."
    )
    share_prefix_cache: bool = Field(
        default=False,
        description="Let callers with different API keys use each other's cached prompts. It is faster "
        "where their prompts begin alike, but `cached_tokens` and the time to the first token then tell "
        "one caller that another has sent the same prompt.",
    )
