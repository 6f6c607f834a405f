"""A running server of llama.cpp: its child process, and the clients that talk to it. Calculates how many
requests of which length fit into a share of the memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headrace.backends.http import Upstream
from headrace.backends.llamacpp.dialect import LlamaCppDialect
from headrace.backends.refusals import unreachable
from headrace.children.child import Child, ChildFailed, Command
from headrace.config import ProviderConfig, install_command
from headrace.config.memory import cache_budget, check_cache
from headrace.errors import ModelError, ProviderError, ServerError
from headrace.models.catalog import GGUFModel

MAX_SLOTS = 8  # each allocates memory for its whole length at start
SHORT = 4096  # tokens; the assumed context length if the file has none
ENDING_S = 0.5  # wait for a process to end after it broke a connection
NAME = "llama.cpp"  # in error messages
CHILD = Path(__file__).with_name("child.py")
STOP_S = 5.0
LOADING = "error loading model: "


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """`context_length`: tokens of a request's prompt and answer; 0: `num_slots` requests share the model's
    context. `num_threads`: 0 means one per core.
    """

    path: Path
    context_length: int = 0
    num_slots: int = 4
    num_threads: int = 0
    chat_template: str | None = None  # Jinja; None: the file's own
    key: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)


async def start_server(settings: Settings) -> tuple[Child, str]:
    """Start a process and wait until its model is loaded. Returns the process and its address, for example
    http://127.0.0.1:1234; requests need the settings' key. Raises ModelError, ChildFailed.
    """
    if not is_installed():
        needed = install_command("llamacpp")
        raise ModelError(f"{settings.path} is for llama.cpp, which is not installed: {needed}")
    values = {**asdict(settings), "num_threads": settings.num_threads or os.cpu_count() or 1}
    message = json.dumps(values, default=str)
    child = await Child.open(Command(NAME, [sys.executable, "-P", str(CHILD)], message, is_quiet=True))
    try:
        return child, json.loads(await child.report())["url"]
    except ChildFailed as exc:
        reason = _reason(await child.last_output())
        raise ModelError(f"llama.cpp cannot load {settings.path}: {reason}") from exc
    except BaseException:
        await child.stop(STOP_S)
        raise


def _reason(output: str) -> str:
    """The line of llama.cpp's output that says why a model was not loaded."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it ended"]
    line = next((text for text in lines if LOADING in text), lines[-1])
    return line.rpartition(LOADING)[2].strip()


@dataclass(frozen=True, slots=True)
class Running:
    """`openai`: a client for /v1; `native`: one for llama.cpp's own endpoints; `context_length`: tokens of a
    request's prompt and answer.
    """

    child: Child
    url: str
    openai: LlamaCppDialect
    native: Upstream
    context_length: int

    @classmethod
    async def open(cls, settings: Settings, *, timeout_s: float, reuses_prompts: bool) -> Running:
        """Start a process and wait until its model is loaded. Raises ModelError or ServerError."""
        child, url = await start_server(settings)
        config = ProviderConfig(kind="llamacpp", base_url=f"{url}/v1", timeout_s=timeout_s)
        openai = LlamaCppDialect(NAME, config, settings.key)
        headers = {"Authorization": f"Bearer {settings.key}"}
        native = Upstream(NAME, url, headers=headers, timeout_s=timeout_s)
        try:
            await openai.start()
            await native.start()
            props = await native.json("GET", "/props")
            openai.reuses_prompts = reuses_prompts
            openai.has_tools = props.get("chat_template_caps", {}).get("supports_tools", True)
            return cls(child, url, openai, native, props["default_generation_settings"]["n_ctx"])
        except BaseException:
            await cls(child, url, openai, native, 0).aclose()
            raise

    async def aclose(self) -> None:
        await self.openai.aclose()
        await self.native.aclose()
        await self.child.stop(STOP_S)

    async def post(self, path: str, body: dict[str, Any], member: str) -> Any:
        """Return a member of the answer of one of llama.cpp's own endpoints. Raises ServerError."""
        try:
            return (await self.native.json("POST", path, body))[member]
        except ServerError as exc:
            raise await self.explained(exc) from exc

    async def explained(self, error: ServerError) -> ServerError:
        """Replace the error of a broken connection if the process has ended."""
        if type(error) is not ProviderError:
            return error
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                await self.child.wait()
        has_ended = self.child.exit_code is not None
        return unreachable("llama.cpp ended while it answered") if has_ended else error


def slots(model: GGUFModel, *, max_model_len: int, kv_cache_bytes: int, max_num_seqs: int) -> tuple[int, int]:
    """Return the number of slots (at least one) and the tokens of each. 0 means as in EngineConfig. Raises
    ConfigError.
    """
    header = model.header
    budget = cache_budget(kv_cache_bytes)
    length = min(max_model_len or header.context_length, header.context_length) or max_model_len or SHORT
    if not header.cache_bytes:
        return min(max_num_seqs, MAX_SLOTS), length
    check_cache(kv_cache_bytes, length, header.cache_bytes)
    fitting = max(1, budget // header.cache_bytes)
    length = min(length, fitting)
    return max(1, min(max_num_seqs, MAX_SLOTS, fitting // length)), length
