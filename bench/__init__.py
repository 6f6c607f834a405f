"""Measurements. `python -m bench.serving` compares Headrace with its peers; see docs/benchmarks.md."""
