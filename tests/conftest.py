"""What the tests share: the default model, prepared once in the user's own cache, and servers to talk to."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol

import openai
import pytest
from platformdirs import user_cache_path

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.backend_types import Backend
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare
from tests.models.checkpoints import write_checkpoint
from tests.models.tiny import TinyShape, write_tiny
from tests.postgres import PostgreSQL, postgresql
from tests.serving import SLOW_S, Served, serving

# No test stores anything in the user's own data folder. This is set before test modules are imported: a
# Config that they make takes its folders then.
_DATA = tempfile.TemporaryDirectory(prefix="headrace-tests-")
os.environ["XDG_DATA_HOME"] = _DATA.name

# What is collected is no garbage, and looking for some in it takes as long as a third of the collection.
_THRESHOLDS = gc.get_threshold()
gc.set_threshold(100_000)

NEEDS_TORCH = ("import torch", 'importorskip("torch")', "headrace.engine.torch.runner")  # in a test's source


# Files that take longest: they start first, so that no process is left with one of them alone at the end.
# Those that compute stand between those that mostly wait.
LONGEST = (
    "durability/test_kills.py",
    "engine/test_openvino.py",
    "durability/test_files.py",
    "backends/engine/test_tools.py",
    "cli/test_process_faults.py",
    "api/test_steering.py",
    "cli/test_models_at_work.py",
    "models/test_fidelity.py",
    "security/test_connections.py",
    "backends/engine/test_steering.py",
    "cli/test_start.py",
    "steering/test_behaviour.py",
    "cli/test_serve.py",
    "steering/test_documented.py",
    "cli/test_processes.py",
    "engine/test_determinism.py",
    "models/test_catalog.py",
    "backends/engine/test_structured.py",
    "cli/test_chat_terminal.py",
    "text/structured/test_schema.py",
    "backends/test_llamacpp.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    ranks = {root / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))  # stable: the rest stays in order


def pytest_collection_finish() -> None:
    """Exempt what was collected from all further searches for garbage."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "the tests that need PyTorch; in all others it runs the default model"
    parser.addoption("--torch", action="store_true", help=text)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The tests that need PyTorch are collected with --torch only."""
    is_source = collection_path.suffix == ".py" and collection_path.is_file()
    source = collection_path.read_text(encoding="utf-8") if is_source else ""
    needs_torch = any(words in source for words in NEEDS_TORCH)
    return True if needs_torch and not config.getoption("--torch") else None


@pytest.fixture(autouse=True, scope="module")
def _own_data_of_a_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that a module's tests share find nothing that other modules' servers have stored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def _own_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds what another has kept."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL that the tests share; each takes a database of its own with `create`."""
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'headrace.db'}"
    server: PostgreSQL = request.getfixturevalue("postgres")
    return server.create()


@pytest.fixture(scope="session")
def cache() -> Cache:
    named = os.environ.get("HEADRACE_CACHE")
    return Cache(Path(named) if named else user_cache_path("headrace", appauthor=False))


@pytest.fixture(scope="session")
def default_model(cache: Cache, request: pytest.FixtureRequest) -> Model:
    """With --torch, its weights as a folder of safetensors."""
    if request.config.getoption("--torch"):
        checkpoint: Model = request.getfixturevalue("default_checkpoint")
        return checkpoint
    return prepare(DEFAULT_MODEL, cache)


@pytest.fixture(scope="session")
def default_checkpoint(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The default model, dequantized once to a folder of safetensors."""
    folder = tmp_path_factory.mktemp("checkpoint") / DEFAULT_MODEL
    write_checkpoint(prepare(DEFAULT_MODEL, cache), folder)
    return prepare(str(folder), cache)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two random layers, which load at once: for tests in which no text must make sense. Its tokens are bytes
    and "the".
    """
    folder = tmp_path_factory.mktemp("small")
    path = write_tiny(folder / "small.gguf", tied=False, shape=TinyShape(context_length=4096))
    model = prepare(str(path), Cache(folder / "cache"))
    assert isinstance(model, Model)
    return model


def serving_model(model: Model, **engine: object) -> AbstractContextManager[Served]:
    """The model behind the real app, with these members of EngineConfig. Nothing is cached on disk, where
    other tests would find it.
    """
    config = Config.model_validate({"engine": {"kv_cache_bytes": "256MiB", "disk_cache_bytes": 0, **engine}})
    return serving(create_app(config, build_backends(config, [model])), silence_s=SLOW_S)


@pytest.fixture(scope="session")
def server(default_model: Model) -> Iterator[Served]:
    """The default model as a user gets it."""
    with serving_model(default_model) as served:
        yield served


@pytest.fixture(scope="session")
def exact_server(default_model: Model) -> Iterator[Served]:
    """In float32, where a text does not depend on what else is in the batch, or in the cache."""
    with serving_model(default_model, precision="f32", generation_config="none", max_num_seqs=16) as served:
        yield served


@pytest.fixture(scope="session")
def small_server(default_model: Model) -> Iterator[Served]:
    """Two may run, two may wait, and 256 tokens fit."""
    with serving_model(default_model, max_model_len=256, max_num_seqs=2, max_queue=2) as served:
        yield served


@pytest.fixture(scope="session")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


class FakeServer(Protocol):
    def __call__(self, *backends: Backend, config: Config | None = None) -> Served: ...


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """Call it with backends (by default one that says "Hello world") to get a server over them."""
    with ExitStack() as exits:

        def start(*backends: Backend, config: Config | None = None) -> Served:
            chosen = backends or (FakeBackend(["Hello", " world"]),)
            return exits.enter_context(serving(create_app(config or Config(), chosen)))

        yield start
