"""The command that installs an optional part of Headrace, for error messages."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install_command(extra: str) -> str:
    """The shell command that installs an extra. Headrace is not in a registry, so it installs from this
    folder, if this is the repository, and from the wheel's address, if a wheel was installed by it.
    """
    if not (ROOT / "pyproject.toml").exists():
        return f"{_python()} -m pip install {shlex.quote(f'headrace[{extra}]{_origin()}')}"
    source = "." if Path.cwd() == ROOT else str(ROOT)
    return f"{_python()} -m pip install -e {shlex.quote(f'{source}[{extra}]')}"


def _origin() -> str:
    """Where this package was installed from, as ' @ URL'; empty if from a registry."""
    try:
        origin = distribution("headrace").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    return f" @ {json.loads(origin)['url']}" if origin else ""


def _python() -> str:
    """The path of this interpreter, relative to the working directory where possible."""
    executable, here = Path(sys.executable), Path.cwd()
    short = executable.relative_to(here) if executable.is_relative_to(here) else executable
    return shlex.quote(str(short))
