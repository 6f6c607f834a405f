"""Peers from package registries, each in a folder of its own under .bench/, kept while its pin is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"


class NotAvailable(Exception):
    """A peer cannot be run here; the message says why."""


def from_pypi(pin: str) -> Path:
    """The interpreter of a virtual environment with this package. Raises NotAvailable."""

    def install(folder: Path) -> None:
        venv.create(folder)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "--python", str(folder / "bin" / "python"), "install", "--quiet", pin], folder)

    return _made(pin, install) / "bin" / "python"


def version_of(package: str, python: Path) -> str:
    """Of what is installed beside that interpreter."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def from_npm(pin: str, overrides: Mapping[str, str]) -> Path:
    """The folder node_modules with this package, and others in given versions. Raises NotAvailable."""

    def install(folder: Path) -> None:
        project = {"private": True, "overrides": dict(overrides)}
        (folder / "package.json").write_text(json.dumps(project), encoding="utf-8")
        _run(["npm", "install", "--silent", "--no-audit", "--no-fund", pin], folder)

    wanted = " ".join([pin, *(f"{name}@{version}" for name, version in overrides.items())])
    return _made(wanted, install) / "node_modules"


def _made(wanted: str, install: Callable[[Path], None]) -> Path:
    """The folder of what is wanted; a stamp says that it is whole, and made by this Python."""
    folder = FOLDER / re.sub(r"[^\w.=@-]+", "_", wanted)
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != sys.version:
        print(f"installing {wanted}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        stamp.write_text(sys.version, encoding="utf-8")
        print(f"  took {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return folder


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise NotAvailable(f"{command[0]} is not installed") from exc
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise NotAvailable(f"{Path(command[0]).name} failed: {words[-1]}")
