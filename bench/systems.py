"""What is compared: how each system is started in a child process, asked, and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bench.children.protocol import Timing
from bench.client import Gaps, complete, gaps_beside, is_healthy
from bench.machine import free_port
from bench.processes import cpu_s, tree
from bench.workload import Prompt
from headrace.models.catalog import Model
from tests.models.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[1]
START_S, STOP_S = 300, 20
POLL_S = 0.01
NO_REPORTS = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"}
LINE_BYTES = 2**24
IR, GGUF, HF = "ir", "gguf", "hf"  # folders that `prepare` fills for the peers


class Failed(Exception):
    """A child ended or did not get ready; the message has the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program of ours or a peer's: `{port}` in an argument becomes a free one."""

    name: str
    arguments: tuple[str, ...]
    url: str = ""  # empty: in process, it speaks bench.children.protocol
    model: str = ""  # its id in the API
    needs: str = ""  # the package that must be importable
    polls_health: bool = False
    restarts: bool = False  # whether prompts are to be repeated after a restart, too


class Child(ABC):
    """A started system. `peak_bytes` is the most memory that it and its children held."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log
        self.ready_s = 0.0

    @abstractmethod
    async def run(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Timing]:
        """Continue all prompts at once."""

    @abstractmethod
    async def wait_ready(self) -> None: ...

    def peak_bytes(self) -> int:
        return sum(_peak(one) for one in tree(self._process.pid))

    def cpu_s(self) -> float:
        return cpu_s(self._process.pid)

    async def stop(self) -> None:
        """Its input ends, then SIGTERM, then SIGKILL. Only processes that were started here."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def check(self) -> None:
        if self._process.returncode is not None:
            raise Failed(self._log.read_text(errors="replace")[-2000:])


class Server(Child):
    def __init__(self, process: asyncio.subprocess.Process, log: Path, command: Command) -> None:
        super().__init__(process, log)
        self.url, self._model = command.url, command.model

    async def run(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Timing]:
        return await complete(self.url, self._model, prompts, max_tokens)

    async def gaps_beside(self, prompts: Sequence[Prompt], long: Prompt) -> Gaps:
        return await gaps_beside(self.url, self._model, prompts, long)

    async def wait_ready(self) -> None:
        while not await is_healthy(self.url):
            self.check()
            await asyncio.sleep(POLL_S)


class InProcess(Child):
    async def run(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Timing]:
        assert self._process.stdin is not None
        ends = prompts[0].ends
        job = {"prompts": [prompt.ids for prompt in prompts], "max_tokens": max_tokens, "ends": ends}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return [Timing(**timing) for timing in json.loads(await self._line())]

    async def wait_ready(self) -> None:
        assert json.loads(await self._line()) == {"ready": True}

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            self.check()
        return line


async def start(command: Command, python: str, log: Path) -> Child:
    """Start it and wait until it answers. Raises Failed."""
    command = _with_port(command)
    started = time.perf_counter()
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            python, *command.arguments, stdin=subprocess.PIPE, stderr=errors,
            stdout=errors if command.url else subprocess.PIPE, limit=LINE_BYTES, env=environment(),
            cwd=log.parent,
        )  # fmt: skip
    child = Server(process, log, command) if command.url else InProcess(process, log)
    try:
        async with asyncio.timeout(START_S):
            await child.wait_ready()
    except TimeoutError as exc:
        await child.stop()
        raise Failed(f"not ready after {START_S} s") from exc
    child.ready_s = time.perf_counter() - started
    return child


def environment() -> dict[str, str]:
    """Ours without what would configure Headrace, and with telemetry of peers turned off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**kept, "PYTHONPATH": str(ROOT), **NO_REPORTS}


def is_installed(package: str, python: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def known(model: Model, cache: Path, scratch: Path, dtype: str = "bfloat16") -> list[Command]:
    """Every system on this model; those that read GGUF only where it was made from such a file. `dtype`: the
    numbers of those that run on PyTorch.
    """
    local = "http://127.0.0.1:{port}"

    def serve(name: str, model: str, *arguments: str) -> tuple[str, ...]:
        own = str(_own_cache(cache, scratch / f"cache-{name}"))
        return ("-m", "headrace", "serve", model, "--cache", own, "--port", "{port}", *arguments)

    commands = [
        Command(
            "headrace",
            serve("headrace", model.reference),
            url=local,
            model=model.name,
            polls_health=True,
            restarts=True,
        ),
        Command("plain", serve("plain", model.reference, "--speculation", "off"), local, model.name),
        Command("engine", ("-m", "bench.children.engine", str(model.folder), str(model.context_length))),
        Command("genai", ("-m", "bench.children.genai", str(scratch / IR)), needs="openvino_genai"),
    ]
    if model.gguf is None:
        return commands
    gguf, hf = str(model.gguf), str(scratch / HF)
    llamacpp = ("-m", "bench.children.xllamacpp_server", gguf, "{port}")
    vllm = (
        "-m", "vllm.entrypoints.openai.api_server", "--model", hf, "--dtype", dtype,
        "--max-model-len", "2048", "--max-num-seqs", "32", "--served-model-name", "model",
        "--host", "127.0.0.1", "--port", "{port}",
    )  # fmt: skip
    return [
        *commands,
        Command("genai-gguf", ("-m", "bench.children.genai", str(scratch / GGUF)), needs="openvino_genai"),
        Command("xllamacpp", llamacpp, url=local, needs="xllamacpp"),
        Command(
            "torch",
            serve("torch", hf, "--model-backend", f"{HF}=torch", "--dtype", dtype),
            url=local,
            model=HF,
            needs="torch",
        ),
        Command(
            "torch-engine",
            ("-m", "bench.children.engine", hf, str(model.context_length), dtype),
            needs="torch",
        ),
        Command(
            "transformers", ("-m", "bench.children.transformers_generate", hf, dtype), needs="transformers"
        ),
        Command("batching", ("-m", "bench.children.transformers_batching", hf, dtype), needs="transformers"),
        Command("vllm", vllm, url=local, model="model", needs="vllm"),
    ]


def _own_cache(cache: Path, own: Path) -> Path:
    """A cache with these models, in which neither earlier runs nor other systems have left prompts."""
    if not own.exists():
        own.mkdir()
        (own / "models").symlink_to(cache / "models")
    return own


def prepare(commands: list[Command], model: Model, python: str, scratch: Path) -> None:
    """Make the folders that those peers load, outside of what is measured."""
    names = {command.name for command in commands}
    if model.gguf is not None and names & {"genai", "genai-gguf"}:
        _make(scratch / GGUF, python, "bench.children.genai", "--save-tokenizers", str(model.gguf))
        (scratch / IR).mkdir()
        for file in (*model.folder.iterdir(), *(scratch / GGUF).glob("openvino_*tokenizer.*")):
            (scratch / IR / file.name).symlink_to(file.absolute())
    if model.gguf is not None and names & {"torch", "torch-engine", "transformers", "batching", "vllm"}:
        write_checkpoint(model, scratch / HF)
        special = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (scratch / HF / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")


def _make(folder: Path, python: str, module: str, *arguments: str) -> None:
    folder.mkdir()
    command = [python, "-m", module, *arguments, str(folder)]
    subprocess.run(command, check=True, env=environment(), cwd=folder, capture_output=True)


def _with_port(command: Command) -> Command:
    port = str(free_port())
    arguments = tuple(argument.replace("{port}", port) for argument in command.arguments)
    return replace(command, arguments=arguments, url=command.url.replace("{port}", port))


def _peak(process: psutil.Process) -> int:
    """VmHWM: the kernel's own high-water mark of what was resident."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # gone, or not Linux
        return int(process.memory_info().rss)
