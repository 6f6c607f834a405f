"""Nothing is reported to anybody: a start resolves no name, and connects to nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.models.catalog import Model
from tests.cli.process import ROOT, environment, of, serving

# Runs at the start of each interpreter, also of children. uvloop's sockets are made in C, where no audit hook
# sees them: without it asyncio makes them in Python.
SPY = """
import json, os, sys
sys.modules["uvloop"] = None
_file = os.open(os.environ["SPY_FILE"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
_watched = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
            "http.client.connect")
def _hook(event, arguments):
    if event in _watched:
        target = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        os.write(_file, (json.dumps([event, str(target)]) + "\\n").encode())
    if event == "import" and arguments[0].startswith("openvino_telemetry."):
        os.write(_file, (json.dumps([event, arguments[0]]) + "\\n").encode())
sys.addaudithook(_hook)
"""


@pytest.fixture
def spied(tmp_path: Path) -> dict[str, str]:
    """Variables under which each Python process writes down where it goes."""
    folder = tmp_path / "spy"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SPY)
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "SPY_FILE": str(folder / "seen.jsonl"),
        "HOME": str(home),  # where consent to reports would be looked for
        "XDG_DATA_HOME": str(home),
    }


def seen(spied: dict[str, str]) -> list[Any]:
    file = Path(spied["SPY_FILE"])
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def run(code: str, spied: dict[str, str], folder: Path) -> None:
    members = environment(**spied)
    for name in ("CI", "GITHUB_ACTIONS", "BUILD_NUMBER"):  # reports are off there anyhow
        members.pop(name, None)
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=members, check=True, timeout=120)


def outside(found: list[Any]) -> list[Any]:
    return [entry for entry in found if "127.0.0.1" not in entry[1]]


def test_serving_reaches_out_to_nobody(small_model: Model, spied: dict[str, str], tmp_path: Path) -> None:
    with serving(*of(small_model), cwd=tmp_path, **spied) as server:
        assert server.post({"model": "small", "prompt": "Once", "max_tokens": 3}).status_code == 200
        process = psutil.Process(server.process.pid)
        connections = [c for p in (process, *process.children(True)) for c in p.net_connections("inet")]
        assert connections
        assert {c.laddr.ip for c in connections} == {"127.0.0.1"}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    found = seen(spied)
    assert ["socket.getaddrinfo", "127.0.0.1"] in found  # our own address: the spy was there
    assert not outside(found), found
    assert not list((tmp_path / "home").rglob("*telemetry*"))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import headrace.engine.openvino", id="the engine"),
        pytest.param(
            "import headrace, openvino.tools.ovc.telemetry_utils as t; t.init_ovc_telemetry()", id="ovc"
        ),
        pytest.param("import bench, openvino as ov; ov.convert_model", id="bench"),
        pytest.param(
            "import headrace, openvino as ov\ntry: ov.convert_model('x')\nexcept Exception: pass",
            id="a conversion that fails",
        ),
    ],
)
def test_openvino_reports_nothing(code: str, spied: dict[str, str], tmp_path: Path) -> None:
    run(code, spied, tmp_path)
    assert not seen(spied)
    assert not list((tmp_path / "home").iterdir())


def test_the_spy_sees_what_openvino_does_by_itself(spied: dict[str, str], tmp_path: Path) -> None:
    """Else the tests above would show nothing. It is told not to send: tests report to nobody, either."""
    consent = Path(spied["HOME"]) / "intel" / "openvino_telemetry"
    consent.parent.mkdir()
    consent.write_text("0")
    run("import openvino", spied, tmp_path)
    assert ["import", "openvino_telemetry.main"] in seen(spied)
