"""A running server of llama.cpp: its process, and the clients that talk to it. Calculates how many requests
of which length fit into a share of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil

from headrace.backends.http import Upstream
from headrace.backends.llamacpp.dialect import LlamaCppDialect
from headrace.backends.llamacpp.process import LlamaCppProcess, Settings
from headrace.config import ProviderConfig
from headrace.config.memory import check_cache
from headrace.errors import ProviderError, ProviderUnreachable, ServerError
from headrace.models.catalog import GGUFModel

FREE_MEMORY_SHARE = 0.25  # of free memory, unless the configuration sets an amount
MAX_SLOTS = 8  # each allocates memory for its whole length at start
SHORT = 4096  # tokens; the assumed context length if the file has none
ENDING_S = 0.5  # wait for a process to end after it broke a connection
NAME = "llama.cpp"  # in error messages


@dataclass(frozen=True, slots=True)
class Running:
    """`openai`: a client for /v1; `native`: one for llama.cpp's own endpoints; `context_length`: tokens of a
    request's prompt and answer.
    """

    process: LlamaCppProcess
    openai: LlamaCppDialect
    native: Upstream
    context_length: int

    @classmethod
    async def open(cls, settings: Settings, *, timeout_s: float, reuses_prompts: bool) -> Running:
        """Start a process and wait until its model is loaded. Raises ModelError or ServerError."""
        process = await LlamaCppProcess.open(settings)
        config = ProviderConfig(kind="llamacpp", base_url=f"{process.url}/v1", timeout_s=timeout_s)
        openai = LlamaCppDialect(NAME, config, settings.key)
        headers = {"Authorization": f"Bearer {settings.key}"}
        native = Upstream(NAME, process.url, headers=headers, timeout_s=timeout_s)
        try:
            await openai.start()
            await native.start()
            props = await native.json("GET", "/props")
            openai.reuses_prompts = reuses_prompts
            openai.has_tools = props.get("chat_template_caps", {}).get("supports_tools", True)
            return cls(process, openai, native, props["default_generation_settings"]["n_ctx"])
        except BaseException:
            await cls(process, openai, native, 0).aclose()
            raise

    async def aclose(self) -> None:
        await self.openai.aclose()
        await self.native.aclose()
        await self.process.aclose()

    async def post(self, path: str, body: dict[str, Any], member: str) -> Any:
        """Return a member of the answer of one of llama.cpp's own endpoints. Raises ServerError."""
        try:
            return (await self.native.json("POST", path, body))[member]
        except ServerError as exc:
            raise await self.explained(exc) from exc

    async def explained(self, error: ServerError) -> ServerError:
        """Replace the error of a broken connection if the process has ended."""
        if type(error) is ProviderError and await self.process.has_ended(ENDING_S):
            return unreachable("llama.cpp ended while it answered")
        return error


def unreachable(message: str) -> ProviderUnreachable:
    return ProviderUnreachable(message, headers={"Retry-After": "1"})


def slots(model: GGUFModel, *, max_model_len: int, kv_cache_bytes: int, max_num_seqs: int) -> tuple[int, int]:
    """Return the number of slots (at least one) and the tokens of each. 0 means as in EngineConfig. Raises
    ConfigError.
    """
    header = model.header
    budget = kv_cache_bytes or int(psutil.virtual_memory().available * FREE_MEMORY_SHARE)
    length = min(max_model_len or header.context_length, header.context_length) or max_model_len or SHORT
    if not header.cache_bytes:
        return min(max_num_seqs, MAX_SLOTS), length
    check_cache(kv_cache_bytes, length, header.cache_bytes)
    fitting = max(1, budget // header.cache_bytes)
    length = min(length, fitting)
    return max(1, min(max_num_seqs, MAX_SLOTS, fitting // length)), length
