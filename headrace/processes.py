"""Our engine in processes of its own: `engine.processes`. Each is a Headrace without a gateway's parts, on a
port of this machine's own, which takes requests from its parent alone.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from headrace import local
from headrace.backends.engine_process import OwnBackend
from headrace.backends.replicas import Replica, Replicas
from headrace.backends.replicas.supervision import Process, Program
from headrace.breaker import Breaker
from headrace.children.child import Child, ours
from headrace.config import Config
from headrace.config.tables import LOCAL
from headrace.models.model import GGUFModel, Model

NODES = Path("/sys/devices/system/node")  # of memory, on Linux: one for each socket


class EngineProcesses(Replicas):
    """Replicas with a folder for what they write, which goes with them."""

    def __init__(self, programs: Mapping[Replica, Program], folder: Path, *, resumes: bool) -> None:
        super().__init__(LOCAL, list(programs), programs, resumes=resumes)
        self._folder = folder

    async def aclose(self) -> None:
        await super().aclose()
        shutil.rmtree(self._folder, ignore_errors=True)


def engine_processes(config: Config, models: Sequence[Model | GGUFModel]) -> EngineProcesses:
    """The backend of `engine.processes` processes, each with all of these models."""
    secret = secrets.token_hex(24)
    folder = Path(tempfile.mkdtemp(prefix="headrace-"))
    number = config.engine.processes
    programs: dict[Replica, Program] = {}
    for index in range(number):
        name = f"engine-{index + 1}"
        backend = OwnBackend(LOCAL, secret, timeout_s=config.server.request_timeout_s or 3600.0)
        own = _config(config, models, secret, folder / name)
        message = {
            "role": "engine",
            "name": name,
            "config": own.model_dump(mode="json"),
            "cpus": cpus(index, number),
        }
        program = Program(partial(_open, name, json.dumps(message)), stop_s=config.server.drain_seconds + 5)
        programs[Replica(name, backend, Breaker(time.monotonic))] = program
    return EngineProcesses(programs, folder, resumes=config.engine.resume == "same-model")


async def _open(name: str, message: str) -> Process:
    child = await Child.open(ours(name, "headrace.cli.child", message))
    try:
        url = json.loads(await child.report())["url"]
    except BaseException:
        await child.kill()
        raise
    return Process(child, url)


def _config(config: Config, models: Sequence[Model | GGUFModel], secret: str, data: Path) -> Config:
    """The configuration of one process: its share of memory and cores, and what decides about answers."""
    number = config.engine.processes
    size = local.sizes(config, len(models) * number)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    engine = {
        "processes": 0,
        "resume": "off",
        "memory_budget": size.budget_bytes // number,
        "kv_cache_bytes": size.kv_cache_bytes,
        "num_threads": config.engine.num_threads or max(1, cores // number),
        "disk_cache_bytes": 0,  # its files belong to one process
    }
    server = {
        "host": "127.0.0.1", "port": 0, "api_keys": (secret,), "admin_keys": (), "require_auth": False,
        "no_auth": False, "cors_origins": (), "allowed_hosts": (), "request_timeout_s": 0.0, "strict": False,
        "page": False,
    }  # fmt: skip
    first, *more = [local.reference_of(model) for model in models]
    named = {
        "default": first, "more": tuple(more), "embedding": "none", "cached": False, "preload": (), "pin": (),
        "idle_seconds": (),
    }  # fmt: skip
    steering = {"root": str(config.steering.folder(config.paths.data))}
    return Config(
        server=config.server.model_copy(update=server),
        engine=config.engine.model_copy(update=engine),
        models=config.models.model_copy(update=named),
        paths=config.paths.model_copy(update={"data": data}),
        steering=config.steering.model_copy(update=steering),
    )


def cpus(index: int, number: int, nodes: Path = NODES) -> list[int]:
    """The cores of one of `number` processes where the machine has several sockets that can be shared out
    evenly; empty: those of the parent.
    """
    by_node = [_listed(path.read_text()) for path in sorted(nodes.glob("node[0-9]*/cpulist"))]
    by_node = [cores for cores in by_node if cores]
    return by_node[index % len(by_node)] if len(by_node) > 1 and number % len(by_node) == 0 else []


def _listed(text: str) -> list[int]:
    """The numbers in a list as 0-3,8."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return [core for first, _, last in ranges for core in range(int(first), int(last or first) + 1)]
