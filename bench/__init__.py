"""Measurements. `python -m bench.serving` compares Headrace with its peers; see docs/benchmarks.md."""

import headrace  # noqa: F401  # it keeps OpenVINO's telemetry from loading, in OpenVINO's own programs too
