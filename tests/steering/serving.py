"""A real server over the default model in float32, with a control vector and an SAE that our own commands
have trained: `data/happy.gguf` and `data/docs` beside this file (see data/README.md).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.config import Config
from headrace.models.catalog import Model
from tests.serving import SLOW_S, Served, serving

# `make test-steering` tests files that it has just trained.
DATA = Path(os.environ.get("STEERING_DATA") or Path(__file__).parent / "data")
VECTOR, SAE, LAYER = "happy", "docs", 15


def copied(root: Path) -> Path:
    """The trained files below a root, as `headrace steer` leaves them."""
    (root / "vectors").mkdir(parents=True)
    shutil.copy(DATA / "happy.gguf", root / "vectors")
    shutil.copytree(DATA / "docs", root / "saes" / "docs")
    return root


@contextmanager
def steerable(
    model: Model, root: Path, *, server: dict[str, Any] | None = None, **engine: object
) -> Iterator[Served]:
    """A server whose root has these files; nothing is loaded yet."""
    config = Config.model_validate(
        {
            "engine": {"kv_cache_bytes": "256MiB", "disk_cache_bytes": 0, "precision": "f32",
                       "generation_config": "none", **engine},
            "steering": {"root": str(root)},
            "paths": {"data": str(root.parent)},
            "server": server or {},
        }
    )  # fmt: skip
    with serving(create_app(config, build_backends(config, [model])), silence_s=SLOW_S) as served:
        yield served


def load(served: Served) -> None:
    """Load and attach both."""
    for path, body in (
        ("/v1/vectors", {"id": VECTOR, "path": "vectors/happy.gguf"}),
        ("/v1/saes", {"id": SAE, "path": "saes/docs"}),
    ):
        answered = served.http.post(path, json=body, timeout=600)  # it compiles
        assert answered.status_code == 200, answered.text
