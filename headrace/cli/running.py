"""`headrace ps`, `load` and `unload`: the models of a running server."""

from __future__ import annotations

import argparse
from typing import Any

from headrace.cli.connection import connect
from headrace.cli.terminal import print_table
from headrace.config import Loaded

COLUMNS = ("NAME", "STATE", "MEMORY", "RUNNING", "WAITING", "UNTIL", "NOTE")
MIB = 2**20


def ps(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """List the models that a server has on its machine. Raises NoAnswer."""
    listed = connect(arguments, loaded.config).get("/v1/models?detail=true")["data"]
    rows = [
        _row(entry["status"])
        for entry in listed
        if "status" in entry and entry["status"]["state"] != "absent"
    ]
    if not rows:
        print("the server has no models of its own")
        return 0
    print_table([COLUMNS, *rows])
    return 0


def move(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Load or unload a model, and wait until that is done. Raises NoAnswer."""
    step = arguments.step
    status = connect(arguments, loaded.config).post(f"/v1/models/{step}", {"model": arguments.model})
    took = f" ({status['load_s']:.1f} s)" if step == "load" and status["load_s"] is not None else ""
    print(f"{status['id']} is {status['state']}{took}")
    return 0


def _row(status: dict[str, Any]) -> tuple[str, ...]:
    memory = "-" if status["memory_bytes"] is None else f"{status['memory_bytes'] / MIB:.0f} MiB"
    left_s, hold, progress = status["expires_in_s"], status["hold"], status["progress"]
    until = "-" if left_s is None else f"{left_s:.0f} s"
    notes = [
        "pinned" if status["pinned"] else "",
        f"{'locked' if hold['expires_in_s'] is None else 'leased'} by {hold['holder']}" if hold else "",
        f"{progress['label']} {progress['done']} of {progress['total']}" if progress else "",
        status["error"] or "",
    ]
    note = "; ".join(filter(None, notes)) or "-"
    counts = (str(status["running"]), str(status["waiting"]))
    return (status["id"], status["state"], memory, *counts, until, note)
