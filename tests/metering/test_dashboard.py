"""The dashboard file: whatever its panels query is a metric that the server has."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"(?:vllm:|headrace_|process_)\w+")


def test_the_panels_query_documented_metrics() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "headrace.json").read_text())
    documented = set(NAME.findall((ROOT / "docs" / "operations.md").read_text()))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 20
    queried = {name.removesuffix("_bucket") for query in queries for name in NAME.findall(query)}
    assert queried - documented == {"process_resident_memory_bytes"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_two_panels_overlap() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "headrace.json").read_text())
    taken = set[tuple[int, int]]()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
