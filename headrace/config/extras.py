"""How to install what only some need: the one place that names the command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install_command(extra: str) -> str:
    """For the shell. Headrace is no package of a registry: its extras are installed from where it lies."""
    source = "." if Path.cwd() == ROOT else str(ROOT)
    return f"{_python()} -m pip install -e {shlex.quote(f'{source}[{extra}]')}"


def _python() -> str:
    """This interpreter, as short as it can be said where this process runs."""
    executable, here = Path(sys.executable), Path.cwd()
    short = executable.relative_to(here) if executable.is_relative_to(here) else executable
    return shlex.quote(str(short))
