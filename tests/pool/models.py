"""Models of a pool whose loading is scripted, for tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from headrace.backends.fake import FakeBackend
from headrace.features import OWN_ENGINE
from headrace.models.model import GGUFModel, Header
from headrace.pool import Known
from headrace.types import ModelCard, ModelInfo

SIZE = 100  # bytes that each model needs


class Loading(FakeBackend):
    """A model whose loading takes `load_s`, or fails. `log` records what happens to it."""

    def __init__(
        self, id: str, log: list[str], *, load_s: float = 0.0, fault: Exception | None = None
    ) -> None:
        super().__init__(["Hello"], id=id, name="headrace")
        self._log, self._load_s, self._fault = log, load_s, fault
        self.dies = False

    @property
    def has_ended(self) -> bool:
        return self.dies

    async def start(self) -> None:
        await asyncio.sleep(self._load_s)
        if self._fault is not None:
            raise self._fault
        self._log.append(f"+{self.id}")

    async def aclose(self) -> None:
        assert not self.num_active, "it was unloaded under a request"
        self._log.append(f"-{self.id}")


class Models:
    """Makes what a pool knows of its models, and records their loads (`+id`) and unloads (`-id`)."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.load_s = 0.0
        self.built: dict[str, Loading] = {}

    def known(self, id: str, memory_bytes: int = SIZE) -> tuple[str, Known]:
        def build() -> Loading:
            backend = Loading(id, self.log, load_s=self.load_s, fault=self.faults.get(id))
            self.built[id] = backend
            return backend

        model = GGUFModel(id, Path(f"{id}.gguf"), Header("llama", "F32", 512, 1))
        info = ModelInfo(id, "headrace", 0, 512, None)
        return id, Known(model, info, ModelCard(frozenset()), OWN_ENGINE, memory_bytes, build)
